//! Watches one guest from its start to its end, whatever started it, and says what was seen.
//!
//! Threads read the console, the channel and QEMU's monitor, and wait for the process; they send
//! what they get to one loop, which sleeps until something arrives or a deadline passes.

use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vmtest_agent::{Ended, Event, Facts, Input, JOB_LIMIT, Job, Piece, Ready, TestId, TestOutcome};

use crate::console::{self, Console, Recorder};
use crate::deadline::left;
use crate::decode::{self, Lines};
use crate::interrupt::{Interrupt, Subscription};
use crate::process::Supervised;
use crate::qmp::Qmp;
use crate::{Link, Vm};

/// How long a kernel that has panicked may go on printing.
pub(super) const PANIC_GRACE: Duration = Duration::from_millis(700);
/// How long the console of a guest that is gone may still take to arrive.
const DRAIN: Duration = Duration::from_secs(1);
/// How long a guest may take to tell its facts once every test has been run. They decide nothing: without them the run
/// is finished just as well.
const FACTS_GRACE: Duration = Duration::from_secs(15);
/// How long QEMU may take to exit once its guest has shut down. QEMU 7.2 sometimes never does: at its end it waits for a
/// command of its monitor that it no longer executes.
const EXIT_GRACE: Duration = Duration::from_secs(3);

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// When the run is over, however far it got.
    pub deadline: Instant,
    /// How long that is from when the guest was asked for.
    pub given: Duration,
    /// How much later for each test that the guest is going to run.
    pub each_test: Duration,
}

/// Everything that was seen of a guest.
#[derive(Debug, Default)]
pub struct Observed {
    /// What the agent said when it was up.
    pub ready: Option<Ready>,
    /// From the start of the VM to the agent's first word.
    pub boot: Option<Duration>,
    /// From handing over the job to its end.
    pub test: Option<Duration>,
    /// The tests that the agent was going to run.
    pub listed: Option<Vec<TestId>>,
    /// How the command ended.
    pub ended: Option<Ended>,
    /// Tests that ended, in the order in which they did.
    pub outcomes: Vec<TestOutcome>,
    /// The test that was running last.
    pub running: Option<TestId>,
    /// What the kernel says of the program.
    pub facts: Option<Facts>,
    /// The kernel's taint flags once every test had been run.
    pub tainted: u64,
    /// How long the guest was given.
    pub limit: Duration,
    /// What the guest's kernel printed.
    pub console: Console,
    /// Why it is over.
    pub end: End,
}

/// Why a run is over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum End {
    /// The agent said that the job is done.
    Finished,
    /// The agent said that its kernel cannot have the host's root directory, and why.
    NoHostRoot(String),
    /// The agent said that it cannot do the job.
    AgentFailed(String),
    /// The kernel panicked.
    Panicked,
    /// The deadline passed.
    #[default]
    Deadline,
    /// The guest shut down or rebooted by itself.
    GuestShutdown,
    /// The VM's process ended, and not because the guest wanted it to.
    ProcessExited {
        /// The program that was started: `vng`, or QEMU itself.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// Whether QEMU was up.
        qemu_ran: bool,
    },
    /// What came over the channel was not the agent's.
    ProtocolError(String),
    /// The user, or the system, asked this program to stop.
    Interrupted,
}

enum Seen {
    Channel(Result<Event>),
    Connected(UnixStream),
    /// The stream of that index said this.
    Console(usize, Vec<u8>),
    QemuUp,
    GuestShutdown,
    Exited(ExitStatus),
    Interrupted,
}

/// Where the standard input of a command comes from.
pub type Stdin = Box<dyn Read + Send>;

/// Runs a job in a guest that was just started, and ends the guest; sooner if `on_event`, which is told of all that the
/// agent says, breaks it off.
/// Nothing that the guest does is an error.
pub fn run(
    started: Vm,
    job: &Job,
    limits: Limits,
    console_log: &Path,
    interrupt: &Interrupt,
    stdin: Stdin,
    on_event: impl FnMut(&Event) -> ControlFlow<()>,
) -> Result<Observed> {
    let begun = Instant::now();
    let encoded = encode(job)?;
    let recorder = Recorder::create(console_log).with_context(|| format!("cannot create {}", console_log.display()))?;
    let Vm { process, console: consoles, channel, qmp, ready, .. } = started;
    let (sender, seen) = mpsc::channel();
    let subscription = interrupt.subscribe({
        let sender = sender.clone();
        move || drop(sender.send(Seen::Interrupted))
    });

    // One for each stream, so that no line is torn by what the other says.
    let heard = consoles.iter().map(|_| Console::default()).collect();
    let (unread, read) = mpsc::sync_channel(UNREAD);
    for (stream, from) in consoles.into_iter().enumerate() {
        watch_console(stream, from, sender.clone(), unread.clone());
    }
    watch_channel(Arc::clone(&channel), job.token.clone(), sender.clone());
    watch_qmp(Arc::clone(&qmp), sender.clone());
    let process = Arc::new(process);
    watch_process(Arc::clone(&process), sender);

    let mut watch = Watch {
        encoded,
        stdin: Some(stdin),
        begun,
        limits,
        stream: None,
        job_sent: None,
        tested: false,
        qemu_up: false,
        guest_shutdown: false,
        exited: None,
        process: Arc::clone(&process),
        subscription: Some(subscription),
        on_event,
        recorder,
        consoles: heard,
        read,
        observed: Observed { limit: limits.given, ready, ..Observed::default() },
    };
    let end = watch.until_over(&seen);
    process.kill().context("cannot end the virtual machine")?;
    channel.close();
    qmp.close();
    // With the VM gone its streams close; what is still in them belongs to the story, for at most [`DRAIN`].
    watch.subscription = None;
    let drained = Instant::now() + DRAIN;
    while let Ok(seen) = seen.recv_timeout(drained.saturating_duration_since(Instant::now())) {
        if let Seen::Console(stream, bytes) = seen {
            watch.hear(stream, &bytes);
        }
    }
    let mut observed = watch.observed;
    for mut stream in watch.consoles {
        // What all streams said, in their order: the kernel's own is the first.
        stream.finish();
        observed.console.merge(stream);
    }
    observed.end = if observed.console.panic.is_some() && end != End::Finished { End::Panicked } else { end };
    Ok(observed)
}

/// A job as the agent reads it.
fn encode(job: &Job) -> Result<Vec<u8>> {
    let mut line = serde_json::to_vec(job).context("cannot put the job into words")?;
    line.push(b'\n');
    ensure!(
        line.len() <= JOB_LIMIT,
        "the job is {} bytes long, and a guest takes at most {JOB_LIMIT}: pass fewer or shorter variables or arguments",
        line.len()
    );
    Ok(line)
}

struct Watch<F> {
    /// The job as it is sent.
    encoded: Vec<u8>,
    stdin: Option<Stdin>,
    begun: Instant,
    limits: Limits,
    stream: Option<UnixStream>,
    job_sent: Option<Instant>,
    /// Every test has been run; what may still come is facts.
    tested: bool,
    qemu_up: bool,
    guest_shutdown: bool,
    exited: Option<ExitStatus>,
    process: Arc<Supervised>,
    /// Given up once the process is gone, so that `seen` ends when the last reader has.
    subscription: Option<Subscription>,
    on_event: F,
    recorder: Recorder,
    consoles: Vec<Console>,
    /// Makes room for the next piece of a console.
    read: Receiver<()>,
    observed: Observed,
}

impl<F: FnMut(&Event) -> ControlFlow<()>> Watch<F> {
    fn until_over(&mut self, seen: &Receiver<Seen>) -> End {
        loop {
            // A guest that never falls silent is over, too, when its time is.
            let next = left(self.limits.deadline).and_then(|left| seen.recv_timeout(left).ok());
            let over = match next {
                Some(seen) => self.take(seen),
                None => Some(self.when_silent()),
            };
            if let Some(end) = over {
                self.observed.test = self.job_sent.map(|sent| sent.elapsed());
                return end;
            }
        }
    }

    fn when_silent(&mut self) -> End {
        let program = Path::new(&self.process.program).file_name().unwrap_or_default();
        match self.exited {
            _ if self.consoles.iter().any(|console| console.panic.is_some()) => End::Panicked,
            _ if self.tested => End::Finished,
            _ if self.guest_shutdown => End::GuestShutdown,
            Some(status) => {
                let program = program.to_string_lossy().into_owned();
                End::ProcessExited { program, status, qemu_ran: self.qemu_up }
            }
            None => End::Deadline,
        }
    }

    fn take(&mut self, seen: Seen) -> Option<End> {
        match seen {
            Seen::Connected(stream) => {
                self.stream = Some(stream);
                // A restored guest has said long ago that it is ready.
                if self.observed.ready.is_some() {
                    self.send_job();
                }
                None
            }
            Seen::Channel(Ok(event)) => self.event(event),
            // A serial line may carry noise before the agent owns it, never after.
            Seen::Channel(Err(malformed)) => self.job_sent.is_some().then(|| End::ProtocolError(malformed.to_string())),
            Seen::Console(stream, bytes) => self.hear(stream, &bytes),
            Seen::QemuUp => {
                self.qemu_up = true;
                None
            }
            Seen::GuestShutdown => {
                self.guest_shutdown = true;
                self.not_after(EXIT_GRACE)
            }
            Seen::Exited(status) => {
                // What it said last may still be on its way.
                self.exited = Some(status);
                self.subscription = None;
                self.not_after(DRAIN)
            }
            Seen::Interrupted => Some(End::Interrupted),
        }
    }

    /// It is as good as over: what may still come is waited for no longer than this.
    fn not_after(&mut self, grace: Duration) -> Option<End> {
        self.limits.each_test = Duration::ZERO;
        self.limits.deadline = self.limits.deadline.min(Instant::now() + grace);
        None
    }

    fn hear(&mut self, stream: usize, bytes: &[u8]) -> Option<End> {
        let _ = self.read.try_recv();
        self.recorder.write(bytes);
        let console = &mut self.consoles[stream];
        let had_panicked = console.panic.is_some();
        console.feed(bytes);
        if console.panic_ended {
            return Some(End::Panicked);
        }
        if console.panic.is_some() && !had_panicked { self.not_after(PANIC_GRACE) } else { None }
    }

    fn event(&mut self, event: Event) -> Option<End> {
        if (self.on_event)(&event).is_break() {
            return Some(End::Interrupted);
        }
        match event {
            Event::Ready(ready) if self.job_sent.is_none() => {
                self.observed.boot = Some(self.begun.elapsed());
                self.observed.ready = Some(ready);
                self.send_job();
                None
            }
            Event::Ready(_) => Some(End::ProtocolError("the agent started a second time".into())),
            Event::Listed(tests) => {
                let longer = self.limits.each_test.saturating_mul(u32::try_from(tests.len()).unwrap_or(u32::MAX));
                self.limits.deadline = self.limits.deadline.checked_add(longer).unwrap_or(self.limits.deadline);
                self.observed.limit += longer;
                let before = self.observed.listed.replace(tests);
                before.map(|_| End::ProtocolError("tests were listed twice".into()))
            }
            Event::TestStarted(test) => {
                self.observed.running = Some(test);
                None
            }
            Event::TestFinished(outcome) => {
                self.observed.running = None;
                self.observed.outcomes.push(outcome);
                // More results than tests: whoever sends them is not our agent.
                let listed = self.observed.listed.as_ref().map_or(0, Vec::len);
                let more = self.observed.outcomes.len() > listed;
                more.then(|| End::ProtocolError("more results than there are tests".into()))
            }
            Event::Stdout(_) | Event::Stderr(_) | Event::Archive(_) => None,
            Event::Started => {
                let stream = self.stream.as_ref().and_then(|stream| stream.try_clone().ok());
                if let (Some(stdin), Some(stream)) = (self.stdin.take(), stream) {
                    std::thread::spawn(move || forward(stdin, stream));
                }
                None
            }
            Event::Ended(ended) => {
                self.observed.ended = Some(ended);
                None
            }
            Event::Facts(facts) => {
                self.observed.facts = Some(facts);
                None
            }
            Event::Tainted { flags } => {
                self.observed.tainted = flags;
                self.tested = true;
                self.not_after(FACTS_GRACE)
            }
            Event::Finished => Some(End::Finished),
            Event::NoHostRoot { reason } => Some(End::NoHostRoot(reason)),
            Event::Failed { .. } if self.tested => Some(End::Finished),
            Event::Failed { reason } => Some(End::AgentFailed(reason)),
        }
    }

    fn send_job(&mut self) {
        let Some(Ok(mut stream)) = self.stream.as_ref().map(UnixStream::try_clone) else { return };
        let now = Instant::now();
        self.job_sent = Some(now);
        let left = self.limits.deadline.saturating_duration_since(now).max(Duration::from_millis(1));
        // When this fails the other end is gone, and its own watcher tells why, or it does not read:
        // then the time is up.
        let _ = stream.set_write_timeout(Some(left));
        let _ = stream.write_all(&self.encoded);
    }
}

/// Sends what is read, and that it is at its end. It may wait for ever for more, and holds nothing up.
fn forward(mut stdin: Stdin, mut to: UnixStream) -> io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    loop {
        let count = stdin.read(&mut buffer)?;
        let piece = (count > 0).then(|| Piece(buffer[..count].to_vec()));
        let mut line = serde_json::to_vec(&Input { stdin: piece })?;
        line.push(b'\n');
        to.write_all(&line)?;
        if count == 0 {
            return Ok(());
        }
    }
}

/// How many pieces of the consoles wait to be read at most: one that floods is held up, and is not kept in memory.
const UNREAD: usize = 64;

fn watch_console(stream: usize, from: Box<dyn Read + Send>, sender: Sender<Seen>, unread: SyncSender<()>) {
    std::thread::spawn(move || {
        console::pump(from, |bytes| {
            let _ = unread.send(());
            let _ = sender.send(Seen::Console(stream, bytes.to_vec()));
        });
    });
}

fn watch_channel(link: Arc<Link>, token: String, sender: Sender<Seen>) {
    std::thread::spawn(move || -> io::Result<()> {
        let stream = link.connect()?;
        let _ = sender.send(Seen::Connected(stream.try_clone()?));
        let mut lines = Lines::new(stream, decode::EVENT_LIMIT);
        while let Some(line) = lines.next_line()? {
            let _ = sender.send(Seen::Channel(line.and_then(|line| decode::event(line, &token))));
        }
        Ok(())
    });
}

/// QEMU's monitor says whether it was the guest that wanted to stop (qapi/run-state.json).
fn watch_qmp(link: Arc<Link>, sender: Sender<Seen>) {
    /// Longer than any guest: the monitor closes when QEMU ends.
    const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
    std::thread::spawn(move || -> Result<()> {
        let stream = link.connect()?;
        let _ = sender.send(Seen::QemuUp);
        let mut qmp = Qmp::connect(stream, Instant::now() + FOR_EVER)?;
        qmp.wait_for("stop", |it| it["event"] == "SHUTDOWN" && it["data"]["guest"] == true)?;
        let _ = sender.send(Seen::GuestShutdown);
        Ok(())
    });
}

fn watch_process(process: Arc<Supervised>, sender: Sender<Seen>) {
    std::thread::spawn(move || {
        if let Ok(status) = process.wait() {
            let _ = sender.send(Seen::Exited(status));
        }
    });
}

#[cfg(test)]
mod tests {
    use vmtest_agent::{PROTOCOL, Payload, Root};

    use std::io::{BufRead, BufReader};

    use super::*;
    use crate::process::SupervisedCommand;

    /// A panic is reported within 2 s of its line: no wait that follows one may be longer.
    const _: () = assert!(PANIC_GRACE.as_millis() + DRAIN.as_millis() < 2000);

    fn job() -> Job {
        Job {
            protocol: PROTOCOL,
            token: "secret".into(),
            payload: Payload::Memory { bytes: 0 },
            clock_ns: 0,
            entropy: String::new(),
            root: Root::Minimal { keep: vec![] },
            task: vmtest_agent::Task::Command(vmtest_agent::Program::default()),
            copy_out: None,
        }
    }

    fn guest_that_is_up() -> (UnixStream, UnixStream) {
        let (mut guest, channel) = UnixStream::pair().unwrap();
        let ready = br#"{"token":"","event":{"ready":{"protocol":1,"release":"6.1.0","uptime_s":1.0}}}"#;
        guest.write_all(&[ready.as_slice(), b"\n"].concat()).unwrap();
        (guest, channel)
    }

    /// What is seen of a virtual machine that does not end by itself.
    fn watched(channel: UnixStream, qmp: UnixStream, job: &Job, total: Duration) -> Observed {
        watched_with(Box::new(io::empty()), channel, qmp, job, total)
    }

    fn watched_with(stdin: Stdin, channel: UnixStream, qmp: UnixStream, job: &Job, total: Duration) -> Observed {
        let mut command = SupervisedCommand::new("sleep").unwrap();
        command.arg("1000");
        let started = Vm {
            process: Supervised::spawn(command).unwrap(),
            console: Vec::new(),
            channel: Link::Connected(channel).into(),
            qmp: Link::Connected(qmp).into(),
            payload: Payload::Memory { bytes: 0 },
            root: Root::Minimal { keep: vec![] },
            ready: None,
        };
        let log = tempfile::NamedTempFile::new().unwrap();
        let interrupt = Interrupt::default();
        let limits = Limits { deadline: Instant::now() + total, given: total, each_test: Duration::ZERO };
        run(started, job, limits, log.path(), &interrupt, stdin, |_| ControlFlow::Continue(())).unwrap()
    }

    #[test]
    fn a_guest_that_shut_down_is_not_waited_for_when_qemu_does_not_exit() {
        let (_guest, channel) = guest_that_is_up();
        let (mut qemu, qmp) = UnixStream::pair().unwrap();
        let event = "{\"return\":{}}\n{\"event\":\"SHUTDOWN\",\"data\":{\"guest\":true,\"reason\":\"guest-reset\"}}\n";
        qemu.write_all(event.as_bytes()).unwrap();
        let seen = watched(channel, qmp, &job(), Duration::from_secs(1000));
        assert_eq!(seen.end, End::GuestShutdown);
    }

    #[test]
    fn an_agent_that_does_not_read_its_job_does_not_stop_the_clock() {
        let (_guest, channel) = guest_that_is_up();
        // More than fits into the socket.
        let entropy = "x".repeat(8 << 20);
        let seen = watched(channel, UnixStream::pair().unwrap().0, &Job { entropy, ..job() }, Duration::from_secs(3));
        assert_eq!(seen.end, End::Deadline);
        assert_eq!(seen.ready.unwrap().release, "6.1.0");
    }

    #[test]
    fn a_command_without_input_is_told_of_its_end() {
        let (mut guest, channel) = guest_that_is_up();
        let agent = std::thread::spawn(move || {
            writeln!(guest, r#"{{"token":"secret","event":"started"}}"#).unwrap();
            let input = BufReader::new(&guest).lines().nth(1).unwrap().unwrap();
            writeln!(&guest, r#"{{"token":"secret","event":"finished"}}"#).unwrap();
            input
        });
        let seen = watched(channel, UnixStream::pair().unwrap().0, &job(), Duration::from_secs(1000));
        assert_eq!((seen.end, &*agent.join().unwrap()), (End::Finished, r#"{"stdin":null}"#));
    }

    #[test]
    fn input_is_left_to_another_guest_by_one_without_the_hosts_root() {
        let (mut guest, channel) = guest_that_is_up();
        guest.write_all(b"{\"token\":\"secret\",\"event\":{\"no-host-root\":{\"reason\":\"\"}}}\n").unwrap();
        let (mut input, mut other) = UnixStream::pair().unwrap();
        other.write_all(b"input").unwrap();
        let (stdin, qmp) = (Box::new(input.try_clone().unwrap()), UnixStream::pair().unwrap().0);
        let seen = watched_with(stdin, channel, qmp, &job(), Duration::from_secs(1000));
        assert_eq!(seen.end, End::NoHostRoot(String::new()));
        // Whoever forwards it would have it by now.
        std::thread::sleep(Duration::from_millis(200));
        input.set_nonblocking(true).unwrap();
        assert_eq!(input.read(&mut [0; 16]).unwrap(), 5);
    }

    #[test]
    fn facts_that_never_come_leave_a_run_finished() {
        for last in ["\"finished\"", "{\"failed\":{\"reason\":\"no facts\"}}", ""] {
            let (mut guest, channel) = guest_that_is_up();
            for event in ["{\"tainted\":{\"flags\":512}}", last] {
                let frame = format!("{{\"token\":\"secret\",\"event\":{event}}}\n");
                guest.write_all(frame.as_bytes()).unwrap();
                if last.is_empty() {
                    break;
                }
            }
            let seen = watched(channel, UnixStream::pair().unwrap().0, &job(), Duration::from_millis(500));
            assert_eq!((seen.end, seen.tainted), (End::Finished, 512), "{last}");
        }
    }
}
