//! One run of the program: from the command line to the detached BPF program.

use std::io::{self, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::circumstances::Circumstances;
use crate::cli::Cli;
use crate::failure::Failure;
use crate::libbpf_log;
use crate::trace_line::Record;
use crate::trace_pipe::TracePipe;
use crate::tracefs::Tracefs;
use crate::tracer::Tracer;

/// How often a dot says that the program is alive.
const DOT_INTERVAL: Duration = Duration::from_secs(1);

/// Traces until SIGINT, SIGTERM, the end of `--duration`, or until nobody reads stdout any more.
///
/// # Errors
///
/// When tracing cannot begin, or trace_pipe cannot be read.
pub fn run(cli: &Cli) -> Result<(), Failure> {
    // Before anything is attached, so that a signal always finds it ready.
    let signals = stop_signals().map_err(|error| Failure::other("cannot catch signals", error))?;
    libbpf_log::install(cli.verbose);
    Circumstances::observe().check_privileges()?;
    let tracefs = find_tracefs(cli.mount_tracefs)?;
    let mut object = MaybeUninit::uninit();
    let mut tracer = Tracer::load(&mut object, &tracefs)?;
    let mut pipe = if cli.follow { Some(fresh_pipe(&tracefs)?) } else { None };
    tracer.attach()?;
    let mut dots = Dots::new();
    let stopped = announce(cli.follow, &tracefs)
        .and_then(|()| wait(&signals, pipe.as_mut(), cli.duration, &mut dots));
    tracer.detach();
    let stopped = stopped.and_then(|()| print_rest(pipe.as_mut(), &mut dots));
    match stopped {
        Err(Stopped::Failure(failure)) => Err(failure),
        Ok(()) | Err(Stopped::StdoutClosed) => Ok(()),
    }
}

/// Why a session ended before it was told to.
enum Stopped {
    /// Nobody reads stdout any more.
    StdoutClosed,
    Failure(Failure),
}

impl From<Failure> for Stopped {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl Stopped {
    fn writing(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::StdoutClosed,
            _ => Self::Failure(Failure::other("cannot write to stdout", error)),
        }
    }
}

/// A socket that becomes readable when the program is told to stop.
fn stop_signals() -> io::Result<UnixStream> {
    let (receiver, sender) = UnixStream::pair()?;
    for signal in [SIGINT, SIGTERM] {
        signal_hook::low_level::pipe::register(signal, sender.try_clone()?)?;
    }
    Ok(receiver)
}

fn find_tracefs(mount: bool) -> Result<Tracefs, Failure> {
    match Tracefs::find() {
        Some(tracefs) => Ok(tracefs),
        None if mount => Tracefs::mount(),
        None => Err(Tracefs::absent()),
    }
}

/// `trace_pipe` without what is left in it from before, which may be lines of an earlier run.
fn fresh_pipe(tracefs: &Tracefs) -> Result<TracePipe, Failure> {
    let path = tracefs.trace_pipe();
    let mut pipe = TracePipe::open(&path)?;
    pipe.read_rest().map_err(reading)?;
    Ok(pipe)
}

/// Says that the program is attached, and where its lines are.
fn announce(follow: bool, tracefs: &Tracefs) -> Result<(), Stopped> {
    let pipe = tracefs.trace_pipe();
    let mut stdout = io::stdout().lock();
    if follow {
        writeln!(stdout, "Successfully started! Lines from {}:", pipe.display())
    } else {
        writeln!(
            stdout,
            "Successfully started! Read the lines with `sudo cat {}`; end with Ctrl-C.",
            pipe.display()
        )
    }
    .and_then(|()| stdout.flush())
    .map_err(Stopped::writing)?;
    if !tracefs.is_on() {
        let switch = tracefs.switch();
        note(&format!("tracing is off: there will be no lines until {} is 1", switch.display()));
    }
    Ok(())
}

/// Waits for whatever ends the session, and prints meanwhile.
fn wait(
    signals: &UnixStream,
    mut pipe: Option<&mut TracePipe>,
    duration: Option<Duration>,
    dots: &mut Dots,
) -> Result<(), Stopped> {
    let begin = Instant::now();
    // A time too far away to be a time is no end at all.
    let end = duration.and_then(|duration| begin.checked_add(duration));
    loop {
        let now = Instant::now();
        if end.is_some_and(|end| now >= end) {
            return Ok(());
        }
        dots.print_if_due(now);
        let wake = end.map_or(dots.next, |end| end.min(dots.next));
        let ready = poll_all(signals, pipe.as_deref(), wake.saturating_duration_since(now))
            .map_err(|errno| Failure::other("cannot wait for events", errno))?;
        if ready.stop {
            return Ok(());
        }
        if let Some(pipe) = pipe.as_deref_mut().filter(|_| ready.pipe) {
            print_records(&pipe.read().map_err(reading)?.unwrap_or_default(), dots)?;
        }
        if ready.stdout_closed {
            return Err(Stopped::StdoutClosed);
        }
    }
}

/// What happened while waiting.
#[derive(Default)]
struct Ready {
    stop: bool,
    stdout_closed: bool,
    pipe: bool,
}

fn poll_all(
    signals: &UnixStream,
    pipe: Option<&TracePipe>,
    timeout: Duration,
) -> Result<Ready, Errno> {
    let stdout = io::stdout();
    // Of a pipe that nobody reads any more poll(2) tells without being asked.
    let mut fds = vec![
        PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        PollFd::new(stdout.as_fd(), PollFlags::empty()),
    ];
    fds.extend(pipe.map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
    // Rounded up: a little late is better than busy.
    let timeout = PollTimeout::try_from(timeout.as_millis() + 1).unwrap_or(PollTimeout::MAX);
    match poll(&mut fds, timeout) {
        Ok(_) => {}
        Err(Errno::EINTR) => return Ok(Ready::default()),
        Err(errno) => return Err(errno),
    }
    let happened = |index: usize| fds.get(index).and_then(PollFd::any).unwrap_or(false);
    Ok(Ready { stop: happened(0), stdout_closed: happened(1), pipe: happened(2) })
}

/// Prints what was written until the program was detached.
fn print_rest(pipe: Option<&mut TracePipe>, dots: &mut Dots) -> Result<(), Stopped> {
    match pipe.map(TracePipe::read_rest) {
        Some(records) => print_records(&records.map_err(reading)?, dots),
        None => Ok(()),
    }
}

/// Prints the lines of this program, and says so when the kernel lost some that may have been ours.
fn print_records(records: &[String], dots: &mut Dots) -> Result<(), Stopped> {
    let mut stdout = io::stdout().lock();
    for record in records {
        match Record::parse(record) {
            Record::Hello(_) => {
                dots.end_line();
                writeln!(stdout, "{record}").map_err(Stopped::writing)?;
            }
            Record::Lost(_) => {
                dots.end_line();
                note(record);
            }
            Record::Other => {}
        }
    }
    stdout.flush().map_err(Stopped::writing)
}

fn reading(error: io::Error) -> Failure {
    Failure::other("cannot read trace_pipe", error)
}

/// The row of dots on stderr.
struct Dots {
    next: Instant,
    /// Whether the cursor stands behind a dot.
    open: bool,
}

impl Dots {
    fn new() -> Self {
        Self { next: Instant::now() + DOT_INTERVAL, open: false }
    }

    fn print_if_due(&mut self, now: Instant) {
        if now >= self.next {
            self.next = now + DOT_INTERVAL;
            self.open = true;
            let _ = io::stderr().write_all(b".");
        }
    }

    fn end_line(&mut self) {
        if std::mem::take(&mut self.open) {
            let _ = io::stderr().write_all(b"\n");
        }
    }
}

impl Drop for Dots {
    fn drop(&mut self) {
        self.end_line();
    }
}

/// Something worth knowing that ends nothing. Without a stderr it is lost, which ends nothing either.
fn note(text: &str) {
    let _ = writeln!(io::stderr(), "note: {text}");
}
