//! Programs under watch: their output read as it comes, their end noticed, and everything that they started ended with
//! them. Meanwhile this process does what an init does: it reaps whoever outlives their parent and dies.

use std::fs::File;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, pipe2};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{WaitOptions, wait};
use signal_hook::consts::SIGCHLD;
use signal_hook::low_level;
use vmtest_agent::{Program, proc};

/// How long a killed process may take to be gone. Only one that is stuck in the kernel takes longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A running program, in a process group of its own.
pub struct Watched {
    /// Its process, and the group, which this leads.
    pid: Pid,
    /// Its standard input, if the command said `piped`.
    pub stdin: Option<ChildStdin>,
    /// How its process ended, once it was collected.
    status: Option<ExitStatus>,
    /// What it prints on: one pipe for both its outputs, or one for each. Taken out when it is at its end.
    outputs: [Option<File>; 2],
    deaths: &'static UnixStream,
}

/// A program of a job, ready to be started.
pub fn command(program: &Program) -> io::Result<Command> {
    let Some((path, arguments)) = program.argv.split_first() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is no command"));
    };
    let mut command = Command::new(path);
    command.args(arguments).current_dir(&program.cwd).env_clear().envs(&program.env);
    command.stdin(Stdio::null());
    // The payload has no empty directories, and where the host has temporary files there may be nothing here.
    for dir in program.env.get("TMPDIR").into_iter().chain([&program.cwd]) {
        let _ = std::fs::create_dir_all(dir);
    }
    Ok(command)
}

/// Why [`Watched::follow`] came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The one who looks at the output has seen enough.
    Satisfied,
    /// The program's own process has ended. What it started may still run, and print.
    Ended,
    Deadline,
}

impl Watched {
    /// Starts `command` with both its outputs in one pipe, number 0.
    pub fn start(mut command: Command) -> io::Result<Self> {
        let (output, input) = pipe()?;
        command.stdout(input.try_clone()?).stderr(input);
        Self::spawn(command, [Some(output), None])
    }

    /// Starts `command` with a pipe for its standard output, number 0, and one for its errors, number 1.
    pub fn start_with_two_outputs(mut command: Command) -> io::Result<Self> {
        let ((output, stdout), (errors, stderr)) = (pipe()?, pipe()?);
        command.stdout(stdout).stderr(stderr);
        Self::spawn(command, [Some(output), Some(errors)])
    }

    /// The command holds the pipes' other ends, and goes with this: else they would never be at their end.
    fn spawn(mut command: Command, outputs: [Option<File>; 2]) -> io::Result<Self> {
        let deaths = deaths()?;
        // Not waited for through this handle: whatever ends is collected by `reap`.
        let mut child = command.process_group(0).spawn()?;
        Ok(Self { pid: Pid::from_raw(child.id() as i32), stdin: child.stdin.take(), status: None, outputs, deaths })
    }

    /// Hands the program's output to `look` as it comes, with the number of its pipe, until that has seen
    /// enough, the program's process has ended, or `deadline` has come.
    pub fn follow(
        &mut self,
        deadline: Instant,
        mut look: impl FnMut(usize, &[u8]) -> ControlFlow<()>,
    ) -> io::Result<Stop> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            // The end comes before output: what a program left behind may print for ever.
            reap(self.pid, &mut self.status, WaitOptions::NOHANG)?;
            if self.status.is_some() {
                return Ok(Stop::Ended);
            }
            if !self.wait(self.outputs.iter().flatten(), deadline)? {
                return Ok(Stop::Deadline);
            }
            for (number, output) in self.outputs.iter_mut().enumerate() {
                let Some(open) = output else { continue };
                match open.read(&mut buffer) {
                    Ok(0) => *output = None,
                    Ok(count) if look(number, &buffer[..count]).is_break() => {
                        return Ok(Stop::Satisfied);
                    }
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }

    /// Sends the program's process a signal, unless it has ended.
    pub fn signal(&self, signal: Signal) {
        // Until it is collected its number is nobody else's.
        if self.status.is_none() {
            let _ = kill(self.pid, signal);
        }
    }

    /// As [`Watched::follow`], and then ends the program and everything that it started, which may print some more. How
    /// the program's process ended: nothing if it is stuck in the kernel.
    pub fn run(
        mut self,
        deadline: Instant,
        mut look: impl FnMut(usize, &[u8]) -> ControlFlow<()>,
    ) -> io::Result<(Stop, Option<ExitStatus>)> {
        let stop = self.follow(deadline, &mut look);
        // The group all at once: one that goes on starting processes has no time to.
        let _ = killpg(self.pid, Signal::SIGKILL);
        self.end_children(Instant::now() + PATIENCE)?;
        let mut buffer = vec![0; 64 * 1024];
        for (number, output) in self.outputs.iter_mut().enumerate() {
            let Some(output) = output else { continue };
            // Nobody is left to write, so this ends: with the pipe's end, or because it is empty.
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                let _ = look(number, &buffer[..count]);
            }
        }
        Ok((stop?, self.status))
    }

    /// Kills and collects every child of this process: as the first process of the guest, or as a subreaper, it inherits
    /// whoever outlives their parent, in whatever process group they are.
    fn end_children(&mut self, deadline: Instant) -> io::Result<()> {
        while reap(self.pid, &mut self.status, WaitOptions::NOHANG)? {
            for child in proc::children()? {
                let _ = kill(child, Signal::SIGKILL);
            }
            if !self.wait(std::iter::empty(), deadline)? {
                break;
            }
        }
        Ok(())
    }

    /// Waits until a child ends, or has ended unnoticed, or a pipe has something; `false` when the deadline came first.
    fn wait<'f>(&self, outputs: impl Iterator<Item = &'f File>, deadline: Instant) -> io::Result<bool> {
        let mut deaths = self.deaths;
        let fds = [deaths.as_fd()].into_iter().chain(outputs.map(File::as_fd));
        let mut fds: Vec<PollFd<'_>> = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        let told = loop {
            let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).ok();
            match poll(&mut fds, left.as_ref()) {
                Err(Errno::INTR) => {}
                told => break told? > 0,
            }
        };
        while matches!(deaths.read(&mut [0; 256]), Ok(1..)) {}
        Ok(told)
    }
}

/// A pipe that is read without waiting.
fn pipe() -> io::Result<(File, OwnedFd)> {
    let (output, input) = pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&output, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((output.into(), input))
}

/// Becomes readable whenever a child of this process ends.
fn deaths() -> io::Result<&'static UnixStream> {
    static DEATHS: OnceLock<UnixStream> = OnceLock::new();
    if let Some(deaths) = DEATHS.get() {
        return Ok(deaths);
    }
    let (deaths, teller) = UnixStream::pair()?;
    deaths.set_nonblocking(true)?;
    low_level::pipe::register(SIGCHLD, teller)?;
    Ok(DEATHS.get_or_init(|| deaths))
}

/// Collects dead children, and the program's status if it is among them: with `NOHANG` those there are, without it also
/// the first one there will be. Whether any child is left.
pub fn reap(program: Pid, program_status: &mut Option<ExitStatus>, mut options: WaitOptions) -> io::Result<bool> {
    loop {
        match wait(options) {
            Ok(Some((pid, status))) if program_status.is_none() && pid.as_raw_pid() == program.as_raw() => {
                *program_status = Some(ExitStatus::from_raw(status.as_raw()));
            }
            Ok(Some(_)) => {}
            Ok(None) => return Ok(true),
            Err(Errno::INTR) => continue,
            Err(Errno::CHILD) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        options |= WaitOptions::NOHANG;
    }
}

/// Held by a test that runs programs: each ends every other child of its process, the ones of a test beside it too.
#[cfg(test)]
pub fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _ = nix::sys::prctl::set_child_subreaper(true);
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
