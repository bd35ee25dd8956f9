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
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vmtest_agent::{Ended, Event, Facts, Input, JOB_LIMIT, Job, Piece, Ready, TestId, TestOutcome};

use crate::backend::{Link, Vm};
use crate::console::{self, Console, Recorder};
use crate::deadline::left;
use crate::decode::{self, Lines};
use crate::interrupt::{Interrupt, Subscription};
use crate::process::Supervised;
use crate::qmp::Qmp;

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

/// What the threads that watch a guest tell of it.
enum VmEvent {
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
/// agent says, breaks it off. Nothing that the guest does is an error.
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
    let (sender, seen) = mpsc::sync_channel(UNREAD);
    let subscription = interrupt.subscribe({
        let sender = sender.clone();
        move || {
            let sender = sender.clone();
            // There may be no room yet, and others are to be told, too.
            let _ = std::thread::Builder::new().spawn(move || sender.send(VmEvent::Interrupted));
        }
    });

    // One for each stream, so that no line is torn by what the other says.
    let heard = consoles.iter().map(|_| Console::default()).collect();
    for (stream, from) in consoles.into_iter().enumerate() {
        watch_console(stream, from, sender.clone());
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
        if let VmEvent::Console(stream, bytes) = seen {
            watch.hear(stream, &bytes);
        }
    }
    let mut observed = watch.observed;
    // What all streams said, in their order: the kernel's own is the first.
    watch.consoles.into_iter().for_each(|stream| observed.console.merge(stream));
    observed.end = if observed.console.panic.is_some() && end != End::Finished { End::Panicked } else { end };
    Ok(observed)
}

/// A job as the agent reads it.
fn encode(job: &Job) -> Result<String> {
    let line = serde_json::to_string(job).context("cannot put the job into words")? + "\n";
    ensure!(
        line.len() <= JOB_LIMIT,
        "the job is {} bytes long, and a guest takes at most {JOB_LIMIT}: pass fewer or shorter variables or arguments",
        line.len()
    );
    Ok(line)
}

struct Watch<F> {
    /// The job as it is sent.
    encoded: String,
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
    observed: Observed,
}

impl<F: FnMut(&Event) -> ControlFlow<()>> Watch<F> {
    fn until_over(&mut self, seen: &Receiver<VmEvent>) -> End {
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
        match self.exited {
            _ if self.consoles.iter().any(|console| console.panic.is_some()) => End::Panicked,
            _ if self.tested => End::Finished,
            _ if self.guest_shutdown => End::GuestShutdown,
            Some(status) => {
                let program = Path::new(&self.process.program).file_name().unwrap_or_default().to_string_lossy();
                End::ProcessExited { program: program.into_owned(), status, qemu_ran: self.qemu_up }
            }
            None => End::Deadline,
        }
    }

    fn take(&mut self, seen: VmEvent) -> Option<End> {
        match seen {
            VmEvent::Connected(stream) => {
                self.stream = Some(stream);
                // A restored guest has said long ago that it is ready.
                if self.observed.ready.is_some() {
                    self.send_job();
                }
            }
            VmEvent::Channel(Ok(event)) => return self.event(event),
            // A serial line may carry noise before the agent owns it, never after.
            VmEvent::Channel(Err(_)) if self.job_sent.is_none() => {}
            VmEvent::Channel(Err(malformed)) => return Some(End::ProtocolError(malformed.to_string())),
            VmEvent::Console(stream, bytes) => return self.hear(stream, &bytes),
            VmEvent::QemuUp => self.qemu_up = true,
            VmEvent::GuestShutdown => {
                self.guest_shutdown = true;
                self.not_after(EXIT_GRACE);
            }
            VmEvent::Exited(status) => {
                // What it said last may still be on its way.
                self.exited = Some(status);
                self.subscription = None;
                self.not_after(DRAIN);
            }
            VmEvent::Interrupted => return Some(End::Interrupted),
        }
        None
    }

    /// It is as good as over: what may still come is waited for no longer than this.
    fn not_after(&mut self, grace: Duration) {
        self.limits.each_test = Duration::ZERO;
        self.limits.deadline = self.limits.deadline.min(Instant::now() + grace);
    }

    fn hear(&mut self, stream: usize, bytes: &[u8]) -> Option<End> {
        self.recorder.write(bytes);
        let console = &mut self.consoles[stream];
        let had_panicked = console.panic.is_some();
        console.feed(bytes);
        let ended = console.panic_ended.then_some(End::Panicked);
        if console.panic.is_some() && !had_panicked {
            self.not_after(PANIC_GRACE);
        }
        ended
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
            }
            Event::Ready(_) => return Some(End::ProtocolError("the agent started a second time".into())),
            Event::Listed(tests) => {
                let longer = self.limits.each_test.saturating_mul(u32::try_from(tests.len()).unwrap_or(u32::MAX));
                self.limits.deadline = self.limits.deadline.checked_add(longer).unwrap_or(self.limits.deadline);
                self.observed.limit += longer;
                let before = self.observed.listed.replace(tests);
                return before.map(|_| End::ProtocolError("tests were listed twice".into()));
            }
            Event::TestStarted(test) => self.observed.running = Some(test),
            Event::TestFinished(outcome) => {
                self.observed.running = None;
                self.observed.outcomes.push(outcome);
                // More results than tests: whoever sends them is not our agent.
                let listed = self.observed.listed.as_ref().map_or(0, Vec::len);
                let more = self.observed.outcomes.len() > listed;
                return more.then(|| End::ProtocolError("more results than there are tests".into()));
            }
            Event::Stdout(_) | Event::Stderr(_) | Event::Archive(_) => {}
            Event::Started => {
                let stream = self.stream.as_ref().and_then(|stream| stream.try_clone().ok());
                if let (Some(stdin), Some(stream)) = (self.stdin.take(), stream) {
                    std::thread::spawn(move || forward(stdin, stream));
                }
            }
            Event::Ended(ended) => self.observed.ended = Some(ended),
            Event::Facts(facts) => self.observed.facts = Some(facts),
            Event::Tainted { flags } => {
                self.observed.tainted = flags;
                self.tested = true;
                self.not_after(FACTS_GRACE);
            }
            Event::Failed { reason } if !self.tested => return Some(End::AgentFailed(reason)),
            Event::Finished | Event::Failed { .. } => return Some(End::Finished),
            Event::NoHostRoot { reason } => return Some(End::NoHostRoot(reason)),
        }
        None
    }

    fn send_job(&mut self) {
        let Some(Ok(mut stream)) = self.stream.as_ref().map(UnixStream::try_clone) else { return };
        let now = Instant::now();
        self.job_sent = Some(now);
        let left = self.limits.deadline.saturating_duration_since(now).max(Duration::from_millis(1));
        // When this fails the other end is gone, and its own watcher tells why, or it does not read:
        // then the time is up.
        let _ = stream.set_write_timeout(Some(left));
        let _ = stream.write_all(self.encoded.as_bytes());
    }
}

/// Sends what is read, and that it is at its end. It may wait for ever for more, and holds nothing up.
fn forward(mut stdin: Stdin, mut to: UnixStream) -> io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    loop {
        let count = stdin.read(&mut buffer)?;
        let piece = (count > 0).then(|| Piece(buffer[..count].to_vec()));
        let line = serde_json::to_string(&Input { stdin: piece })? + "\n";
        to.write_all(line.as_bytes())?;
        if count == 0 {
            return Ok(());
        }
    }
}

/// How much that was seen waits to be looked at, at most: a guest that floods is held up, and is not kept in memory.
const UNREAD: usize = 64;

fn watch_console(stream: usize, from: Box<dyn Read + Send>, sender: SyncSender<VmEvent>) {
    std::thread::spawn(move || {
        console::pump(from, |bytes| drop(sender.send(VmEvent::Console(stream, bytes.to_vec()))))
    });
}

fn watch_channel(link: Arc<Link>, token: String, sender: SyncSender<VmEvent>) {
    std::thread::spawn(move || -> io::Result<()> {
        let stream = link.connect()?;
        let _ = sender.send(VmEvent::Connected(stream.try_clone()?));
        let mut lines = Lines::new(stream, decode::EVENT_LIMIT);
        while let Some(line) = lines.next_line()? {
            let _ = sender.send(VmEvent::Channel(line.and_then(|line| decode::event(line, &token))));
        }
        Ok(())
    });
}

/// QEMU's monitor says whether it was the guest that wanted to stop (qapi/run-state.json).
fn watch_qmp(link: Arc<Link>, sender: SyncSender<VmEvent>) {
    /// Longer than any guest: the monitor closes when QEMU ends.
    const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
    std::thread::spawn(move || -> Result<()> {
        let stream = link.connect()?;
        let _ = sender.send(VmEvent::QemuUp);
        let mut qmp = Qmp::connect(stream, Instant::now() + FOR_EVER)?;
        qmp.wait_for("stop", |it| it["event"] == "SHUTDOWN" && it["data"]["guest"] == true)?;
        let _ = sender.send(VmEvent::GuestShutdown);
        Ok(())
    });
}

fn watch_process(process: Arc<Supervised>, sender: SyncSender<VmEvent>) {
    std::thread::spawn(move || process.wait().map(|status| sender.send(VmEvent::Exited(status))));
}

#[cfg(test)]
mod tests {
    use vmtest_agent::{PROTOCOL, Payload, Program, Root, Task};

    use std::io::{BufRead, BufReader};

    use super::*;
    use crate::process::SupervisedCommand;

    /// A panic is reported within 2 s of its line: no wait that follows one may be longer.
    const _: () = assert!(PANIC_GRACE.as_millis() + DRAIN.as_millis() < 2000);

    /// A guest that is up and then says this: its end of the channel, and the harness's.
    fn guest_that_says(events: &[&str]) -> (UnixStream, UnixStream) {
        let (mut guest, channel) = UnixStream::pair().unwrap();
        let ready = r#"{"token":"","event":{"ready":{"protocol":1,"release":"6.1.0","uptime_s":1.0}}}"#;
        writeln!(guest, "{ready}").unwrap();
        for event in events {
            writeln!(guest, r#"{{"token":"secret","event":{event}}}"#).unwrap();
        }
        (guest, channel)
    }

    fn closed() -> UnixStream {
        UnixStream::pair().unwrap().0
    }

    /// What is seen of a virtual machine that does not end by itself.
    fn watched(channel: UnixStream, qmp: UnixStream, stdin: UnixStream, entropy: &str, seconds: f64) -> Observed {
        let mut command = SupervisedCommand::new("sleep").unwrap();
        command.arg("1000");
        let (root, payload) = (Root::Minimal { keep: vec![] }, Payload::Memory { bytes: 0 });
        let started = Vm {
            process: Supervised::spawn(command).unwrap(),
            console: Vec::new(),
            channel: Link::Connected(channel).into(),
            qmp: Link::Connected(qmp).into(),
            payload: payload.clone(),
            root: root.clone(),
            ready: None,
        };
        let job = Job {
            protocol: PROTOCOL,
            token: "secret".into(),
            payload,
            clock_ns: 0,
            entropy: entropy.into(),
            root,
            task: Task::Command(Program::default()),
            copy_out: None,
        };
        let log = tempfile::NamedTempFile::new().unwrap();
        let given = Duration::from_secs_f64(seconds);
        let limits = Limits { deadline: Instant::now() + given, given, each_test: Duration::ZERO };
        let go_on = |_: &Event| ControlFlow::Continue(());
        run(started, &job, limits, log.path(), &Interrupt::default(), Box::new(stdin), go_on).unwrap()
    }

    #[test]
    fn shutdown_ends_run_if_qemu_hangs() {
        let (_guest, channel) = guest_that_says(&[]);
        let (mut qemu, qmp) = UnixStream::pair().unwrap();
        let event = r#"{"event":"SHUTDOWN","data":{"guest":true,"reason":"guest-reset"}}"#;
        writeln!(qemu, "{{\"return\":{{}}}}\n{event}").unwrap();
        assert_eq!(watched(channel, qmp, closed(), "", 1000.0).end, End::GuestShutdown);
    }

    #[test]
    fn an_agent_that_does_not_read_its_job_does_not_stop_the_clock() {
        let (_guest, channel) = guest_that_says(&[]);
        // More than fits into the socket.
        let seen = watched(channel, closed(), closed(), &"x".repeat(8 << 20), 3.0);
        assert_eq!((seen.end, &*seen.ready.unwrap().release), (End::Deadline, "6.1.0"));
    }

    #[test]
    fn a_command_without_input_is_told_of_its_end() {
        let (guest, channel) = guest_that_says(&[r#""started""#]);
        let agent = std::thread::spawn(move || {
            let input = BufReader::new(&guest).lines().nth(1).unwrap().unwrap();
            writeln!(&guest, r#"{{"token":"secret","event":"finished"}}"#).unwrap();
            input
        });
        let seen = watched(channel, closed(), closed(), "", 1000.0);
        assert_eq!((seen.end, &*agent.join().unwrap()), (End::Finished, r#"{"stdin":null}"#));
    }

    #[test]
    fn input_is_kept_for_retry_without_host_root() {
        let (_guest, channel) = guest_that_says(&[r#"{"no-host-root":{"reason":""}}"#]);
        let (mut input, mut other) = UnixStream::pair().unwrap();
        other.write_all(b"input").unwrap();
        let seen = watched(channel, closed(), input.try_clone().unwrap(), "", 1000.0);
        assert_eq!(seen.end, End::NoHostRoot(String::new()));
        // Whoever forwards it would have it by now.
        std::thread::sleep(Duration::from_millis(200));
        input.set_nonblocking(true).unwrap();
        assert_eq!(input.read(&mut [0; 16]).unwrap(), 5);
    }

    #[test]
    fn facts_that_never_come_leave_a_run_finished() {
        for last in [&[r#""finished""#][..], &[r#"{"failed":{"reason":"no facts"}}"#], &[]] {
            let (_guest, channel) = guest_that_says(&[&[r#"{"tainted":{"flags":512}}"#], last].concat());
            let seen = watched(channel, closed(), closed(), "", 0.5);
            assert_eq!((seen.end, seen.tainted), (End::Finished, 512), "{last:?}");
        }
    }
}
