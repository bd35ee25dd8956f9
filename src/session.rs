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
    file.map_err(|errno| Error::other("catch signals", errno))
}

/// Waits for whatever ends the session. Meanwhile it prints lines, and a dot a second on stderr.
pub fn wait(signals: &SignalFd, mut pipe: Option<&mut TracePipe>, duration: Option<Duration>) -> Result<(), Error> {
    const DOT_INTERVAL: Duration = Duration::from_secs(1);
    let stdout = io::stdout();
    let mut next_dot = Instant::now() + DOT_INTERVAL;
    // A time too far away to be a time is no end at all.
    let end = duration.and_then(|duration| Instant::now().checked_add(duration));
    loop {
        let now = Instant::now();
        if end.is_some_and(|end| now >= end) {
            return Ok(());
        }
        if now >= next_dot {
            next_dot = now + DOT_INTERVAL;
            AFTER_DOT.store(true, Relaxed);
            say(".");
        }
        // Of a pipe that nobody reads any more poll(2) tells without being asked.
        let mut fds =
            vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN), PollFd::new(stdout.as_fd(), PollFlags::empty())];
        fds.extend(pipe.as_ref().map(|pipe| PollFd::new(pipe.file.as_fd(), PollFlags::POLLIN)));
        // Rounded up: a little late is better than busy.
        let timeout = (end.map_or(next_dot, |end| end.min(next_dot)) - now).as_millis() + 1;
        match poll(&mut fds, PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Error::other("wait for events", errno)),
        }
        let happened: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        if happened[0] {
            return Ok(());
        }
        if let (Some(pipe), Some(true)) = (&mut pipe, happened.get(2)) {
            print(&pipe.read()?)?;
        }
        if happened[1] {
            return Err(Error::StdoutClosed);
        }
    }
}

/// Prints the lines of this program, and says so when the kernel lost some that may have been ours.
pub fn print(lines: &[String]) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    for line in lines {
        if is_ours(line) {
            end_dots();
            writeln!(stdout, "{line}").map_err(Error::stdout)?;
        } else if line.starts_with("CPU:") && line.contains(" [LOST ") {
            end_dots();
            say(&format!("note: {line}\n"));
        }
    }
    stdout.flush().map_err(Error::stdout)
}

/// Whether the line is one of `bpf/helloworld.bpf.c`. The writer is called `0` before Linux 5.9.
fn is_ours(line: &str) -> bool {
    line.strip_suffix("invoke bpf_prog: Hello, World!")
        .is_some_and(|start| start.ends_with(": bpf_trace_printk: ") || start.ends_with(": 0: "))
}

/// Whether the cursor stands behind a dot.
static AFTER_DOT: AtomicBool = AtomicBool::new(false);

/// Ends the row of dots, if there is one.
pub fn end_dots() {
    if AFTER_DOT.swap(false, Relaxed) {
        say("\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_this_program_are_told_from_others() {
        for (start, ours) in [
            ("  trace-142     [000] ...21     3.017822: bpf_trace_printk: ", true),
            ("  <...>-77    [000] ....     1.532172: 0: ", true),
            ("  bash-5       [001] ...21  1.5: tracing_mark_write: ", false),
            ("", false),
        ] {
            let line = format!("{start}invoke bpf_prog: Hello, World!");
            assert_eq!(is_ours(&line), ours, "{line}");
            assert!(!is_ours(&format!("{line}!")));
        }
    }
}
