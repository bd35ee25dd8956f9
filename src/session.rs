//! While the program is attached: waiting for the end, lines on stdout, dots on stderr.

use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::error::Error;
use crate::trace_pipe::TracePipe;

/// How often a dot says that the program is alive.
const DOT_INTERVAL: Duration = Duration::from_secs(1);

/// A socket that becomes readable when the program is told to stop.
pub fn stop_signals() -> Result<UnixStream, Error> {
    let register = || {
        let (receiver, sender) = UnixStream::pair()?;
        for signal in [SIGINT, SIGTERM] {
            signal_hook::low_level::pipe::register(signal, sender.try_clone()?)?;
        }
        Ok(receiver)
    };
    register().map_err(|error: io::Error| Error::other("catch signals", error))
}

/// Waits for whatever ends the session, and prints meanwhile.
pub fn wait(
    signals: &UnixStream,
    mut pipe: Option<&mut TracePipe>,
    duration: Option<Duration>,
) -> Result<(), Error> {
    let begin = Instant::now();
    // A time too far away to be a time is no end at all.
    let end = duration.and_then(|duration| begin.checked_add(duration));
    let mut dots = Dots { next: begin + DOT_INTERVAL, open: false };
    loop {
        let now = Instant::now();
        if end.is_some_and(|end| now >= end) {
            return Ok(());
        }
        dots.print_if_due(now);
        let wake = end.map_or(dots.next, |end| end.min(dots.next));
        let [stop, stdout_closed, lines] =
            poll_all(signals, pipe.as_deref(), wake.saturating_duration_since(now))
                .map_err(|errno| Error::other("wait for events", errno))?;
        if stop {
            return Ok(());
        }
        if let Some(pipe) = pipe.as_deref_mut().filter(|_| lines) {
            print(&pipe.read()?.unwrap_or_default(), &mut dots)?;
        }
        if stdout_closed {
            return Err(Error::StdoutClosed);
        }
    }
}

/// Whether a signal came, stdout was closed, there are lines; all false after the timeout.
fn poll_all(
    signals: &UnixStream,
    pipe: Option<&TracePipe>,
    timeout: Duration,
) -> Result<[bool; 3], Errno> {
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
        Ok(_) => Ok([0, 1, 2].map(|index| fds.get(index).and_then(PollFd::any).unwrap_or(false))),
        Err(Errno::EINTR) => Ok([false; 3]),
        Err(errno) => Err(errno),
    }
}

/// Prints what was written until the program was detached.
pub fn print_rest(pipe: &mut TracePipe) -> Result<(), Error> {
    print(&pipe.read_all()?, &mut Dots { next: Instant::now(), open: false })
}

/// Prints the lines of this program, and says so when the kernel lost some that may have been ours.
fn print(lines: &[String], dots: &mut Dots) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    for line in lines {
        if is_ours(line) {
            dots.end_line();
            writeln!(stdout, "{line}").map_err(Error::stdout)?;
        } else if line.starts_with("CPU:") && line.contains(" [LOST ") {
            dots.end_line();
            note(line);
        }
    }
    stdout.flush().map_err(Error::stdout)
}

/// Whether the line is one of `bpf/helloworld.bpf.c`. The writer is called `0` before Linux 5.9.
fn is_ours(line: &str) -> bool {
    [": bpf_trace_printk: ", ": 0: "].iter().any(|writer| {
        line.strip_suffix("invoke bpf_prog: Hello, World!")
            .is_some_and(|line| line.ends_with(writer))
    })
}

/// The row of dots on stderr.
struct Dots {
    next: Instant,
    /// Whether the cursor stands behind a dot.
    open: bool,
}

impl Dots {
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
pub fn note(text: &str) {
    let _ = writeln!(io::stderr(), "note: {text}");
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
