//! A program under watch: its output read as it comes, its end noticed, and everything that it
//! started ended with it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid, waitpid};
use nix::unistd::{Pid, pipe2};

/// How long a killed process may take to be gone. Only one that is stuck in the kernel takes longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A running program, in a process group of its own, with its standard input at `/dev/null` and
/// both its outputs in one pipe.
pub struct Watched {
    child: Child,
    group: Pid,
    output: File,
    ended: OwnedFd,
}

/// Why [`Watched::follow`] came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The one who looks at the output has seen enough.
    Satisfied,
    /// The program's own process has ended. What it started may still run, and print.
    Ended,
    /// The deadline came.
    Deadline,
}

impl Watched {
    /// Starts `command`.
    pub fn start(mut command: Command) -> io::Result<Self> {
        let (output, input) = pipe2(OFlag::O_CLOEXEC)?;
        fcntl(&output, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        command.stdin(Stdio::null()).stdout(input.try_clone()?).stderr(input).process_group(0);
        let child = command.spawn()?;
        // It holds the pipe's other end: without this the pipe would never be at its end.
        drop(command);
        let group = Pid::from_raw(child.id() as i32);
        let ended = end_of(group)?;
        Ok(Self { child, group, output: output.into(), ended })
    }

    /// Hands the program's output to `look` as it comes, until that has seen enough, the program's
    /// process has ended, or `deadline` has come.
    pub fn follow(
        &mut self,
        deadline: Instant,
        mut look: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> io::Result<Stop> {
        let mut buffer = vec![0; 64 * 1024];
        let mut output_open = true;
        loop {
            match wait(output_open.then_some(&self.output), &self.ended, deadline)? {
                Wake::Ended => return Ok(Stop::Ended),
                Wake::Deadline => return Ok(Stop::Deadline),
                Wake::Output => match self.output.read(&mut buffer)? {
                    0 => output_open = false,
                    count if look(&buffer[..count]).is_break() => return Ok(Stop::Satisfied),
                    _ => {}
                },
            }
        }
    }

    /// Sends the program's process a signal; one that has ended does not mind.
    pub fn signal(&self, signal: Signal) {
        let _ = kill(self.group, signal);
    }

    /// Ends the program and everything that it started, hands what they printed last to `look`, and
    /// says how the program's process ended: nothing if it is stuck in the kernel.
    pub fn finish(mut self, mut look: impl FnMut(&[u8])) -> io::Result<Option<ExitStatus>> {
        let _ = killpg(self.group, Signal::SIGKILL);
        let gone = wait(None, &self.ended, Instant::now() + PATIENCE)? == Wake::Ended;
        let status = if gone { Some(self.child.wait()?) } else { None };
        if gone {
            kill_strays(Instant::now() + PATIENCE);
        }
        let mut buffer = vec![0; 64 * 1024];
        // Nobody is left to write, so this ends: with the pipe's end, or because it is empty.
        while let Ok(count @ 1..) = self.output.read(&mut buffer) {
            look(&buffer[..count]);
        }
        Ok(status)
    }
}

#[derive(PartialEq, Eq)]
enum Wake {
    Output,
    Ended,
    Deadline,
}

/// Waits for whichever comes first. The end comes before output: what a program left behind may
/// print for ever.
fn wait(output: Option<&File>, ended: &OwnedFd, deadline: Instant) -> io::Result<Wake> {
    let mut fds = vec![PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
    fds.extend(output.map(|file| PollFd::new(file.as_fd(), PollFlags::POLLIN)));
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up, or the last millisecond would be spent in a busy loop.
        let left = left + Duration::from_micros(999);
        match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(0) if Instant::now() >= deadline => return Ok(Wake::Deadline),
            Ok(0) | Err(nix::Error::EINTR) => {}
            Ok(_) if fds[0].any() == Some(true) => return Ok(Wake::Ended),
            Ok(_) => return Ok(Wake::Output),
            Err(error) => return Err(error.into()),
        }
    }
}

/// A descriptor that becomes readable when process `pid`, a child of ours, has ended. It stays to
/// be waited for.
fn end_of(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: it takes two integers, and returns a descriptor of ours.
    let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    if let Ok(fd @ 0..) = i32::try_from(pidfd) {
        // SAFETY: as above.
        return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ENOSYS) => end_of_before_5_3(pid),
        error => Err(error),
    }
}

fn end_of_before_5_3(pid: Pid) -> io::Result<OwnedFd> {
    let (ended, sign) = pipe2(OFlag::O_CLOEXEC)?;
    thread::Builder::new().stack_size(64 * 1024).spawn(move || {
        while waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)
            == Err(nix::Error::EINTR)
        {}
        drop(sign);
    })?;
    Ok(ended)
}

/// Kills and reaps every other child of this process: as the first process of the guest, or as a
/// subreaper, it inherits whoever outlives their parent, in whatever process group they are.
fn kill_strays(deadline: Instant) {
    while has_children() && Instant::now() < deadline {
        for stray in children() {
            let _ = kill(stray, Signal::SIGKILL);
            let gone = end_of(stray).and_then(|ended| wait(None, &ended, deadline));
            if matches!(gone, Ok(Wake::Ended)) {
                let _ = waitpid(stray, None);
            }
        }
    }
}

/// Whether this process has any children. Looking through /proc for them takes longer.
fn has_children() -> bool {
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    waitid(Id::All, look) != Err(nix::Error::ECHILD)
}

/// The processes whose parent is this one.
pub fn children() -> Vec<Pid> {
    let own = std::process::id();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| parent_of(*pid) == Some(own))
        .map(Pid::from_raw)
        .collect()
}

fn parent_of(pid: i32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // proc(5): "pid (name) state parent …", where the name may hold anything, a `)` too.
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(1)?.parse().ok()
}
