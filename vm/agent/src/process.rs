//! Programs under watch: their output read as it comes, their end noticed, and everything that they
//! started ended with them. Meanwhile this process does what an init does: it reaps whoever outlives
//! their parent and dies.

use std::fs::File;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, pipe2};
use signal_hook::SigId;
use signal_hook::consts::SIGCHLD;
use signal_hook::low_level;
use vmtest_agent::{Program, proc};

/// How long a killed process may take to be gone. Only one that is stuck in the kernel takes longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A running program, in a process group of its own.
pub struct Watched {
    child: Child,
    group: Pid,
    /// What it prints on: one pipe for both its outputs, or one for each. Taken out when it is at its end.
    outputs: Vec<Option<File>>,
    deaths: Deaths,
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
    /// The deadline came.
    Deadline,
}

impl Watched {
    /// Starts `command` with both its outputs in one pipe, number 0.
    pub fn start(mut command: Command) -> io::Result<Self> {
        let (output, input) = pipe()?;
        command.stdout(input.try_clone()?).stderr(input);
        Self::spawn(command, vec![output])
    }

    /// Starts `command` with a pipe for its standard output, number 0, and one for its errors, number 1.
    pub fn start_with_two_outputs(mut command: Command) -> io::Result<Self> {
        let ((output, stdout), (errors, stderr)) = (pipe()?, pipe()?);
        command.stdout(stdout).stderr(stderr);
        Self::spawn(command, vec![output, errors])
    }

    /// The command holds the pipes' other ends, and goes with this: else they would never be at their end.
    fn spawn(mut command: Command, outputs: Vec<File>) -> io::Result<Self> {
        let deaths = Deaths::watch()?;
        let child = command.process_group(0).spawn()?;
        let group = Pid::from_raw(child.id() as i32);
        Ok(Self { child, group, outputs: outputs.into_iter().map(Some).collect(), deaths })
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
            if reap_others(self.group) {
                return Ok(Stop::Ended);
            }
            let Some(readable) = self.wait(deadline)? else { return Ok(Stop::Deadline) };
            for number in readable {
                let Some(output) = &mut self.outputs[number] else { continue };
                match output.read(&mut buffer) {
                    Ok(0) => self.outputs[number] = None,
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

    /// The program's standard input, if the command said `piped`.
    pub fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Sends the program's process a signal; one that has ended does not mind.
    pub fn signal(&self, signal: Signal) {
        let _ = kill(self.group, signal);
    }

    /// As [`Watched::follow`], and then ends the program and everything that it started, which may print some more. How
    /// the program's process ended: nothing if it is stuck in the kernel.
    pub fn run(
        mut self,
        deadline: Instant,
        mut look: impl FnMut(usize, &[u8]) -> ControlFlow<()>,
    ) -> io::Result<(Stop, Option<ExitStatus>)> {
        let stop = self.follow(deadline, &mut look);
        let _ = killpg(self.group, Signal::SIGKILL);
        let patience = Instant::now() + PATIENCE;
        while !reap_others(self.group) && self.deaths.wait(patience)? {}
        // Nothing if it is still there.
        let status = self.child.try_wait()?;
        if status.is_some() {
            self.kill_strays(Instant::now() + PATIENCE)?;
        }
        let mut buffer = vec![0; 64 * 1024];
        for (number, output) in self.outputs.iter_mut().enumerate() {
            let Some(output) = output else { continue };
            // Nobody is left to write, so this ends: with the pipe's end, or because it is empty.
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                let _ = look(number, &buffer[..count]);
            }
        }
        Ok((stop?, status))
    }

    /// Kills and reaps every other child of this process: as the first process of the guest, or as a
    /// subreaper, it inherits whoever outlives their parent, in whatever process group they are.
    fn kill_strays(&self, deadline: Instant) -> io::Result<()> {
        while has_children() {
            for stray in children() {
                let _ = kill(stray, Signal::SIGKILL);
            }
            reap_others(self.group);
            if has_children() && !self.deaths.wait(deadline)? {
                break;
            }
        }
        Ok(())
    }

    /// Waits until there is output or a child has ended; nothing when the deadline came first. The pipes that
    /// have something to say.
    fn wait(&self, deadline: Instant) -> io::Result<Option<Vec<usize>>> {
        let open = self.outputs.iter().enumerate();
        let open: Vec<(usize, &File)> = open.filter_map(|(number, output)| Some((number, output.as_ref()?))).collect();
        let mut fds = vec![PollFd::new(self.deaths.told.as_fd(), PollFlags::POLLIN)];
        fds.extend(open.iter().map(|(_, output)| PollFd::new(output.as_fd(), PollFlags::POLLIN)));
        if !poll_until(&mut fds, deadline)? {
            return Ok(None);
        }
        self.deaths.note();
        let has_something = |index: usize| fds[index + 1].any() == Some(true);
        Ok(Some((0..open.len()).filter(|index| has_something(*index)).map(|i| open[i].0).collect()))
    }
}

/// A pipe that is read without waiting.
fn pipe() -> io::Result<(File, OwnedFd)> {
    let (output, input) = pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&output, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((output.into(), input))
}

/// Is told whenever a child of this process ends.
struct Deaths {
    told: UnixStream,
    handler: SigId,
}

impl Deaths {
    fn watch() -> io::Result<Self> {
        let (told, teller) = UnixStream::pair()?;
        told.set_nonblocking(true)?;
        Ok(Self { told, handler: low_level::pipe::register(SIGCHLD, teller)? })
    }

    /// Waits for one that was not noted yet; `false` when the deadline came first.
    fn wait(&self, deadline: Instant) -> io::Result<bool> {
        let told = poll_until(&mut [PollFd::new(self.told.as_fd(), PollFlags::POLLIN)], deadline)?;
        self.note();
        Ok(told)
    }

    fn note(&self) {
        let mut buffer = [0; 256];
        while matches!((&self.told).read(&mut buffer), Ok(1..)) {}
    }
}

impl Drop for Deaths {
    fn drop(&mut self) {
        low_level::unregister(self.handler);
    }
}

/// `false` when the deadline came first.
fn poll_until(fds: &mut [PollFd<'_>], deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up, or the last millisecond would be spent in a busy loop.
        let left = left + Duration::from_micros(999);
        match poll(fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(0) if Instant::now() >= deadline => return Ok(false),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Reaps every child that has ended, but for `own`: whether that one has.
fn reap_others(own: Pid) -> bool {
    while let Ok(ended @ 1..) = ended_child() {
        if ended == own.as_raw() {
            return true;
        }
        let _ = waitpid(Pid::from_raw(ended), None);
    }
    false
}

/// Whether this process has any children. Looking through /proc for them takes longer.
fn has_children() -> bool {
    ended_child() != Err(Errno::ECHILD)
}

/// A child that has ended and was not reaped; 0 if there is none. Not through nix, which has no real-time signals and
/// fails for what one of them killed.
fn ended_child() -> nix::Result<libc::pid_t> {
    // SAFETY: a structure of integers.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    loop {
        // SAFETY: the kernel writes to `info`, a process's part of it or nothing.
        match Errno::result(unsafe { libc::waitid(libc::P_ALL, 0, &mut info, options) }) {
            Err(Errno::EINTR) => {}
            result => return result.map(|_| unsafe { info.si_pid() }),
        }
    }
}

/// The processes whose parent is this one.
pub fn children() -> Vec<Pid> {
    proc::children().into_iter().flatten().collect()
}

/// Held by a test that runs programs: each ends every other child of its process, the ones of a test beside it too.
#[cfg(test)]
pub fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _ = nix::sys::prctl::set_child_subreaper(true);
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
