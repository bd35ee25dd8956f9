//! While the program is attached: waiting for the end, lines on stdout, dots on stderr.

use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;

use crate::error::{Error, say};
use crate::trace_pipe::TracePipe;

/// Turns the signals that end the program into a file, which becomes readable when one comes.
pub fn stop_signals() -> Result<SignalFd, Error> {
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    let file = signals.thread_block().and_then(|()| SignalFd::new(&signals));
    file.map_err(|errno| Error::Other("catch signals", errno.to_string()))
}

/// Waits for whatever ends the session. Meanwhile it prints lines, and a dot a second on stderr.
pub fn wait(signals: &SignalFd, pipe: &mut Option<TracePipe>, duration: Option<Duration>) -> Result<(), Error> {
    const DOT_INTERVAL: Duration = Duration::from_secs(1);
    let (start, end) = (Instant::now(), duration.unwrap_or(Duration::MAX));
    let mut next_dot = DOT_INTERVAL;
    let stdout = io::stdout();
    while start.elapsed() < end {
        // Without --follow there is a second look at the signals in the place of trace_pipe.
        let source = pipe.as_ref().map_or(signals.as_fd(), |pipe| pipe.file.as_fd());
        let mut fds = [
            PollFd::new(source, PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            // Of a pipe that nobody reads any more poll(2) tells without being asked.
            PollFd::new(stdout.as_fd(), PollFlags::empty()),
        ];
        // Rounded up: a little late is better than busy.
        let timeout = end.min(next_dot).saturating_sub(start.elapsed()).as_millis() + 1;
        match poll(&mut fds, PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Error::Other("wait for events", errno.to_string())),
        }
        let [_, stopped, stdout_closed] = fds.map(|fd| fd.any().unwrap_or(false));
        if stopped || stdout_closed {
            break;
        }
        print(pipe)?;
        if start.elapsed() >= next_dot {
            next_dot = start.elapsed() + DOT_INTERVAL;
            AFTER_DOT.store(true, Relaxed);
            say(".");
        }
    }
    Ok(())
}

/// Prints the lines that have come.
pub fn print(pipe: &mut Option<TracePipe>) -> Result<(), Error> {
    for line in pipe.as_mut().map(TracePipe::read).transpose()?.unwrap_or_default() {
        end_dots();
        match line.starts_with("CPU:") {
            true => say(&format!("note: {line}\n")),
            false => writeln!(io::stdout(), "{line}")?,
        }
    }
    Ok(())
}

/// Whether the cursor stands behind a dot.
static AFTER_DOT: AtomicBool = AtomicBool::new(false);

pub fn end_dots() {
    if AFTER_DOT.swap(false, Relaxed) {
        say("\n");
    }
}
