//! While the program is attached: waiting for the end, lines on stdout, dots on stderr.

use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
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
pub fn wait(signals: &SignalFd, mut pipe: Option<TracePipe>, duration: Option<Duration>) -> Result<(), Error> {
    const DOT_INTERVAL: Duration = Duration::from_secs(1);
    let (start, end) = (Instant::now(), duration.unwrap_or(Duration::MAX));
    let (mut next_dot, mut after_dot) = (DOT_INTERVAL, false);
    let stdout = io::stdout();
    loop {
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
        let lines = pipe.as_mut().map(TracePipe::read).transpose()?.unwrap_or_default();
        let ended = stopped || stdout_closed || start.elapsed() >= end;
        if (ended || !lines.is_empty()) && std::mem::take(&mut after_dot) {
            say("\n");
        }
        for line in lines {
            match line.starts_with("CPU:") {
                true => say(&format!("note: {line}\n")),
                false => writeln!(&stdout, "{line}")?,
            }
        }
        if ended {
            return Ok(());
        }
        if start.elapsed() >= next_dot {
            next_dot = start.elapsed() + DOT_INTERVAL;
            after_dot = true;
            say(".");
        }
    }
}
