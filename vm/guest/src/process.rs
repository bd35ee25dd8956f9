//! Programs that never outlive the run: whatever happens to this one, they and all they started end.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use command_fds::CommandFdExt;
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, getpid, pipe2};

use crate::agent::{self, FIRST_OWN_FD};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{fcntl_dupfd_cloexec, retry_on_intr};
use rustix::process::{self, pidfd_send_signal};
use vmtest_agent::proc::{self, pidfd_open};

/// A command to be started with [`Supervised::spawn`].
///
/// The [`Command`] below it starts the supervisor, which hands everything on to the program: arguments, environment,
/// directory, standard descriptors, and those below 256 that `command_fds` maps or preserves.
#[derive(Debug)]
pub struct SupervisedCommand(Command);

impl SupervisedCommand {
    /// Runs `program`, looked up on `PATH` if it has no slash.
    pub fn new(program: impl AsRef<OsStr>) -> Result<Self> {
        let mut command = Command::new(agent::on_this_machine()?);
        command.arg0("vm-supervisor").arg(vmtest_agent::SUPERVISE).arg(getpid().to_string()).arg(program);
        Ok(Self(command))
    }

    /// Runs what `command` runs, but with this process's standard descriptors: nobody can ask it for its own.
    pub fn like(command: &Command) -> Result<Self> {
        let mut supervised = Self::new(command.get_program())?;
        supervised.args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => supervised.env(name, value),
                None => supervised.env_remove(name),
            };
        }
        if let Some(directory) = command.get_current_dir() {
            supervised.current_dir(directory);
        }
        Ok(supervised)
    }
}

impl Deref for SupervisedCommand {
    type Target = Command;

    fn deref(&self) -> &Command {
        &self.0
    }
}

impl DerefMut for SupervisedCommand {
    fn deref_mut(&mut self) -> &mut Command {
        &mut self.0
    }
}

/// A running program that ends, with all it started, when this value is dropped or `cargo-kernels` dies.
///
/// It ends them too when the program itself exits. To be shared between threads by reference: one may be in
/// [`wait`](Self::wait) while another calls [`kill`](Self::kill).
#[derive(Debug)]
pub struct Supervised {
    /// The pipe from the program, if its standard output was made one.
    pub stdout: Option<ChildStdout>,
    /// The pipe from the program, if its standard error was made one.
    pub stderr: Option<ChildStderr>,
    /// The program, as it was named when it was started.
    pub program: String,
    supervisor_exit: OwnedFd,
    supervisor: Mutex<Child>,
}

impl Supervised {
    /// Starts the command; an error names the program and says why it could not be executed.
    pub fn spawn(SupervisedCommand(mut command): SupervisedCommand) -> Result<Self> {
        let program = command.get_args().nth(2).unwrap_or_default().to_string_lossy().into_owned();
        let failed = || format!("cannot start {program}");
        // Through this the supervisor says how starting the program went.
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC).context("cannot make a pipe")?;
        let writer =
            fcntl_dupfd_cloexec(writer, FIRST_OWN_FD).context("cannot have a descriptor above 255: see `ulimit -n`")?;
        command.arg(writer.as_raw_fd().to_string()).preserved_fds(vec![writer]);
        let mut supervisor = command.spawn().with_context(failed)?;
        // With it goes the last copy on this side of what only the program is to hold.
        drop(command);

        let pid = Pid::from_raw(supervisor.id() as i32);
        let supervisor_exit = pidfd_open(pid).inspect_err(|_| {
            let _ = kill(pid, Signal::SIGTERM);
            let _ = supervisor.wait();
        });
        let supervisor_exit = supervisor_exit.with_context(failed)?;
        let supervised = Self {
            stdout: supervisor.stdout.take(),
            stderr: supervisor.stderr.take(),
            program: program.clone(),
            supervisor_exit,
            supervisor: Mutex::new(supervisor),
        };
        let mut errno = [0; size_of::<i32>()];
        match File::from(reader).read_exact(&mut errno).map(|()| i32::from_ne_bytes(errno)) {
            Ok(0) => Ok(supervised),
            Ok(errno) => Err(io::Error::from_raw_os_error(errno)).with_context(failed),
            Err(_) => {
                let status = supervised.wait()?;
                bail!("{}: its supervisor ended first ({status})", failed())
            }
        }
    }

    /// Waits until the program and all it started have ended; the status is the program's, and always the same.
    pub fn wait(&self) -> Result<ExitStatus> {
        let wait = || -> io::Result<ExitStatus> {
            poll_exit(&self.supervisor_exit)?;
            let mut supervisor = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner);
            // Only a supervisor that was killed itself can leave anything; its pid names the session until it is collected.
            let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
            let status = waitid(Id::PIDFd(self.supervisor_exit.as_fd()), flags);
            if let Ok(WaitStatus::Signaled(session, Signal::SIGKILL, _)) = status {
                end_session(session)?;
            }
            supervisor.wait()
        };
        wait().with_context(|| format!("waiting for {}", self.program))
    }

    /// Ends the program and all it started, and returns once nothing is left. Does nothing if they have ended.
    pub fn kill(&self) -> Result<ExitStatus> {
        for signal in [process::Signal::TERM, process::Signal::CONT] {
            match pidfd_send_signal(&self.supervisor_exit, signal) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(error).with_context(|| format!("cannot end {}", self.program)),
            }
        }
        self.wait()
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        // There is nobody left to tell; the supervisor sees to the rest when this process ends.
        let _ = self.kill();
    }
}

/// Kills what a dead supervisor left behind, and waits for its end.
fn end_session(session: Pid) -> io::Result<()> {
    loop {
        let left = proc::processes()?.filter(|it| it.session == session && it.pid != session && !it.zombie);
        // Either can fail because it just ended; a process of another user's is not for us to end.
        let end = |it: proc::Process| pidfd_open(it.pid).ok().filter(|_| kill(it.pid, Signal::SIGKILL).is_ok());
        let ending: Vec<OwnedFd> = left.filter_map(end).collect();
        if ending.is_empty() {
            return Ok(());
        }
        ending.iter().try_for_each(poll_exit)?;
    }
}

/// Waits until a process is dead of which this is the pidfd.
fn poll_exit(pidfd: &OwnedFd) -> io::Result<()> {
    retry_on_intr(|| poll(&mut [PollFd::new(pidfd, PollFlags::IN)], None))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixStream;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Stdio;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::deadline::Until;

    fn sh(script: &str) -> SupervisedCommand {
        let mut command = SupervisedCommand::new("sh").unwrap();
        command.args(["-c", script]).stdin(Stdio::null());
        command
    }

    /// Starts a command, and returns this end of its output, which ends when the last process that holds the other does.
    fn start(mut command: SupervisedCommand) -> (Supervised, BufReader<Until>) {
        let (stream, output) = UnixStream::pair().unwrap();
        command.stdout(OwnedFd::from(output));
        let deadline = Instant::now() + Duration::from_secs(20);
        (Supervised::spawn(command).unwrap(), BufReader::new(Until { stream, deadline }))
    }

    /// Children in the program's group, in a session of their own, and orphaned in one; then `ready`.
    const FAMILY: &str = "sleep 1000 & setsid sleep 1000 & \
        setsid sh -c 'sleep 1000 & setsid sleep 1000 & echo ready; wait' & wait";

    /// A program that is as far as to say so.
    fn start_ready(script: &str) -> (Supervised, impl Read) {
        let (supervised, mut output) = start(sh(script));
        assert_eq!(output.by_ref().lines().next().unwrap().unwrap(), "ready");
        (supervised, output)
    }

    #[test]
    fn status_output_and_input_are_the_programs() {
        let mut command = sh("cat; echo \"$A\"; pwd; exit 7");
        command.env("A", "é b").current_dir("/");
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
        command.stdin(reader);
        let (supervised, output) = start(command);
        File::from(writer).write_all(b"in\n").unwrap();
        assert_eq!(io::read_to_string(output).unwrap(), "in\né b\n/\n");
        assert_eq!(supervised.wait().unwrap().code(), Some(7));
        assert_eq!(supervised.wait().unwrap().code(), Some(7), "and again");
        assert_eq!(supervised.kill().unwrap().code(), Some(7), "killing the dead changes nothing");
        // One that has no name, too: a real-time signal.
        for signal in [libc::SIGKILL, libc::SIGTERM, libc::SIGSEGV, 40] {
            let supervised = Supervised::spawn(sh(&format!("kill -{signal} $$"))).unwrap();
            assert_eq!(supervised.wait().unwrap().signal(), Some(signal));
        }
    }

    #[test]
    fn a_program_that_cannot_be_executed_is_an_error_that_names_it() {
        for (program, words) in [("no-such-program-here", "No such file"), ("/etc/passwd", "Permission denied")] {
            let error = Supervised::spawn(SupervisedCommand::new(program).unwrap()).unwrap_err();
            let error = format!("{error:#}");
            assert!(error.contains(&format!("cannot start {program}: {words}")), "{error}");
        }
    }

    #[test]
    fn a_supervisor_that_ends_before_it_reports_is_an_error() {
        let error = Supervised::spawn(SupervisedCommand(Command::new("true"))).unwrap_err().to_string();
        assert!(error.contains("its supervisor ended first"), "{error}");
    }

    #[test]
    fn signals_are_neither_blocked_nor_ignored_in_the_program() {
        let mut command = SupervisedCommand::new("cat").unwrap();
        command.arg("/proc/self/status");
        let status = io::read_to_string(start(command).1).unwrap();
        let mask = |status: &str, name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            u64::from_str_radix(line.trim(), 16).unwrap()
        };
        // Whoever runs the tests may ignore some, as nohup does, and has them ignored in the program
        // too; but SIGPIPE, which Rust's own runtime ignores, must not be.
        let own = std::fs::read_to_string("/proc/self/status").unwrap();
        let outside = mask(&own, "SigIgn:") & !(1 << (libc::SIGPIPE - 1));
        assert_eq!(mask(&status, "SigBlk:"), mask(&own, "SigBlk:"), "{status}");
        assert_eq!(mask(&status, "SigIgn:") & !outside, 0, "{status}");
    }

    #[test]
    fn kill_ends_everything_also_while_another_thread_waits() {
        let (supervised, output) = start_ready(FAMILY);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| supervised.wait().unwrap());
            assert_eq!(supervised.kill().unwrap().signal(), Some(libc::SIGKILL));
            assert_eq!(waiter.join().unwrap().signal(), Some(libc::SIGKILL));
        });
        io::read_to_string(output).unwrap();
    }

    #[test]
    fn no_process_is_left_after_drop_exit_or_killed_supervisor() {
        let (supervised, output) = start_ready(FAMILY);
        drop(supervised);
        io::read_to_string(output).unwrap();
        let (supervised, output) = start(sh("setsid sh -c 'sleep 1000 & setsid sleep 1000 & wait' & exit 3"));
        io::read_to_string(output).unwrap();
        assert_eq!(supervised.wait().unwrap().code(), Some(3));
        let (supervised, output) = start_ready("sleep 1000 & (sleep 1000 &) ; echo ready; wait");
        pidfd_send_signal(&supervised.supervisor_exit, process::Signal::KILL).unwrap();
        assert_eq!(supervised.wait().unwrap().signal(), Some(libc::SIGKILL));
        io::read_to_string(output).unwrap();
    }

    #[test]
    fn a_descriptor_belongs_to_the_program_alone() {
        let (supervised, output) = start(sh("echo through; exec >&-; exec sleep 1000"));
        assert_eq!(io::read_to_string(output).unwrap(), "through\n", "the end comes although it still runs");
        assert_eq!(supervised.kill().unwrap().signal(), Some(libc::SIGKILL));
    }
}
