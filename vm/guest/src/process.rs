//! Programs that never outlive the run: whatever happens to this one, they and all they started end.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use command_fds::CommandFdExt;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, getpid, pipe2};

use crate::agent::{self, FIRST_OWN_FD};
use vmtest_agent::proc::{self, pidfd_open};

/// A command to be started with [`Supervised::spawn`].
///
/// It dereferences to the [`Command`] that starts the supervisor, which hands everything on to the program: arguments,
/// environment, directory, standard descriptors, and those below 256 that `command_fds` maps or preserves.
#[derive(Debug)]
pub struct SupervisedCommand {
    command: Command,
    program: String,
    /// Both ends of the pipe through which the supervisor says how starting the program went.
    report: (OwnedFd, OwnedFd),
}

impl SupervisedCommand {
    /// Runs `program`, looked up on `PATH` if it has no slash.
    pub fn new(program: impl AsRef<OsStr>) -> Result<Self> {
        let program = program.as_ref();
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC).context("cannot make a pipe")?;
        let writer = fcntl(&writer, FcntlArg::F_DUPFD_CLOEXEC(FIRST_OWN_FD))
            .context("cannot have a descriptor above 255: see `ulimit -n`")?;
        // SAFETY: fcntl just made it, for nobody else.
        let writer = unsafe { OwnedFd::from_raw_fd(writer) };

        let mut command = Command::new(agent::on_this_machine()?);
        command.arg0("vm-supervisor").arg(vmtest_agent::SUPERVISE);
        command.arg(getpid().to_string()).arg(writer.as_raw_fd().to_string()).arg(program);
        Ok(Self { command, program: program.to_string_lossy().into_owned(), report: (reader, writer) })
    }
}

impl SupervisedCommand {
    /// Runs what `command` runs, with its arguments, environment and directory; not with its standard descriptors, which
    /// nobody can ask it for.
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
        &self.command
    }
}

impl DerefMut for SupervisedCommand {
    fn deref_mut(&mut self) -> &mut Command {
        &mut self.command
    }
}

/// A running program that ends, with all it started, when this value is dropped or `xtask` dies.
///
/// It ends them too when the program itself exits. To be shared between threads by reference: one may be in
/// [`wait`](Self::wait) while another calls [`kill`](Self::kill).
#[derive(Debug)]
pub struct Supervised {
    /// The pipe from the program, if its standard output was made one.
    pub stdout: Option<ChildStdout>,
    /// The pipe from the program, if its standard error was made one.
    pub stderr: Option<ChildStderr>,
    program: String,
    supervisor_pid: Pid,
    supervisor_exit: OwnedFd,
    supervisor: Mutex<Child>,
}

impl Supervised {
    /// Starts the command; an error names the program and says why it could not be executed.
    pub fn spawn(command: SupervisedCommand) -> Result<Self> {
        let SupervisedCommand { mut command, program, report: (reader, writer) } = command;
        let failed = || format!("cannot start {program}");
        command.preserved_fds(vec![writer]);
        let mut supervisor = command.spawn().with_context(failed)?;
        // With it goes the last copy on this side of what only the program is to hold.
        drop(command);

        let supervisor_pid = proc::pid_of(supervisor.id());
        let supervisor_exit = match pidfd_open(supervisor_pid) {
            Ok(fd) => fd,
            Err(error) => {
                let _ = kill(supervisor_pid, Signal::SIGTERM);
                let _ = supervisor.wait();
                return Err(error).with_context(failed);
            }
        };
        let supervised = Self {
            stdout: supervisor.stdout.take(),
            stderr: supervisor.stderr.take(),
            program: program.clone(),
            supervisor_pid,
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

    /// The program, as it was named when it was started.
    pub fn program(&self) -> &str {
        &self.program
    }

    /// Waits until the program and all it started have ended; the status is the program's, and always the same.
    pub fn wait(&self) -> Result<ExitStatus> {
        self.poll_exit(None)?;
        self.reap()
    }

    /// As [`wait`](Self::wait), for no longer than this; `None` when time is up and it still runs.
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Option<ExitStatus>> {
        if self.poll_exit(Some(timeout))? { self.reap().map(Some) } else { Ok(None) }
    }

    /// Ends the program and all it started, and returns once nothing is left. Does nothing if they have ended.
    pub fn kill(&self) -> Result<ExitStatus> {
        {
            let mut supervisor = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(status) = self.reap_locked(&mut supervisor, false)? {
                return Ok(status);
            }
            // Not collected yet, and nobody can while the lock is held: the pid is still the supervisor's.
            for signal in [Signal::SIGTERM, Signal::SIGCONT] {
                kill(self.supervisor_pid, signal).with_context(|| format!("cannot end {}", self.program))?;
            }
        }
        self.wait()
    }

    /// Whether the supervisor is dead, waiting for it no longer than `timeout`.
    fn poll_exit(&self, timeout: Option<Duration>) -> Result<bool> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let mut fds = [PollFd::new(self.supervisor_exit.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, poll_timeout(left)) {
                Ok(0) if left.is_some_and(|left| left.is_zero()) => return Ok(false),
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(true),
                Err(error) => {
                    return Err(error).with_context(|| format!("waiting for {}", self.program));
                }
            }
        }
    }

    fn reap(&self) -> Result<ExitStatus> {
        let mut supervisor = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner);
        self.reap_locked(&mut supervisor, true)?.context("it has ended and has no status")
    }

    /// The status if the supervisor is dead (`dead`: it is known to be).
    fn reap_locked(&self, supervisor: &mut Child, dead: bool) -> Result<Option<ExitStatus>> {
        let waiting = || format!("waiting for {}", self.program);
        if dead || self.poll_exit(Some(Duration::ZERO))? {
            // Only a supervisor that was killed itself can leave anything; its pid names the session until it is collected.
            let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
            let status = waitid(Id::PIDFd(self.supervisor_exit.as_fd()), flags);
            if matches!(status, Ok(WaitStatus::Signaled(_, Signal::SIGKILL, _))) {
                end_session(self.supervisor_pid).with_context(waiting)?;
            }
            return supervisor.wait().map(Some).with_context(waiting);
        }
        Ok(None)
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
        let mut ending = Vec::new();
        for process in proc::processes()? {
            if process.session != session || process.pid == session || process.zombie {
                continue;
            }
            // Either can fail because it just ended; a process of another user's is not for us to end.
            if let Ok(exit) = pidfd_open(process.pid) {
                if kill(process.pid, Signal::SIGKILL).is_ok() {
                    ending.push(exit);
                }
            }
        }
        if ending.is_empty() {
            return Ok(());
        }
        for exit in ending {
            let mut fds = [PollFd::new(exit.as_fd(), PollFlags::POLLIN)];
            while poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {}
        }
    }
}

/// Whole milliseconds, rounded up so that waiting does not end in a rush of empty polls.
fn poll_timeout(left: Option<Duration>) -> PollTimeout {
    let Some(left) = left else { return PollTimeout::NONE };
    let milliseconds = left.as_micros().div_ceil(1000);
    i32::try_from(milliseconds).ok().and_then(|ms| ms.try_into().ok()).unwrap_or(PollTimeout::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixStream;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Stdio;
    use std::sync::Arc;

    use super::*;

    /// What [`parent`] is to run, as words for a shell.
    const PARENT: &str = "VM_GUEST_TEST_PARENT";

    /// A process that runs a supervised program and is to be killed: this test binary, running only this test.
    fn start_parent(script: &str) -> Child {
        Command::new("/proc/self/exe")
            .args(["process::tests::parent", "--exact", "--ignored", "--nocapture"])
            .env(PARENT, script)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    #[test]
    #[ignore = "is no test: the process that tests kill"]
    fn parent() {
        let script = std::env::var(PARENT).unwrap();
        Supervised::spawn(sh(&script)).unwrap().wait().unwrap();
    }

    const DEADLINE: Duration = Duration::from_secs(20);

    fn sh(script: &str) -> SupervisedCommand {
        let mut command = SupervisedCommand::new("sh").unwrap();
        command.args(["-c", script]).stdin(Stdio::null());
        command
    }

    /// Reads to the end, which comes when the last process that holds the other end is gone.
    fn read_to_end(from: impl AsFd + Read) -> String {
        let deadline = Instant::now() + DEADLINE;
        let mut from = from;
        let mut text = Vec::new();
        loop {
            let left = Some(deadline.saturating_duration_since(Instant::now()));
            let mut fds = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
            assert_ne!(poll(&mut fds, poll_timeout(left)), Ok(0), "still open after {DEADLINE:?}");
            let mut chunk = [0; 4096];
            match from.read(&mut chunk).unwrap() {
                0 => return String::from_utf8(text).unwrap(),
                n => text.extend(&chunk[..n]),
            }
        }
    }

    /// Children in the program's group, in a session of their own, and orphaned in one; then `ready`.
    const FAMILY: &str = "sleep 1000 & setsid sleep 1000 & \
        setsid sh -c 'sleep 1000 & setsid sleep 1000 & echo ready; wait' & wait";

    fn read_ready(from: impl Read) -> impl BufRead {
        let mut lines = BufReader::new(from);
        let mut line = String::new();
        while line != "ready\n" {
            line.clear();
            assert_ne!(lines.read_line(&mut line).unwrap(), 0, "ended before it was ready");
        }
        lines
    }

    /// The test's own end of a pipe that every process of the family holds.
    fn start_family() -> (Supervised, ChildStdout) {
        let mut command = sh(FAMILY);
        command.stdout(Stdio::piped());
        let mut supervised = Supervised::spawn(command).unwrap();
        let mut stdout = supervised.stdout.take().unwrap();
        read_ready(&mut stdout);
        (supervised, stdout)
    }

    #[test]
    fn the_exit_code_output_and_input_are_the_programs() {
        let mut command = SupervisedCommand::new("sh").unwrap();
        command.args(["-c", "cat; echo \"$A\" >&2; pwd; exit 7"]);
        command.env("A", "é b").current_dir("/");
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
        command.stdin(reader).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut supervised = Supervised::spawn(command).unwrap();
        File::from(writer).write_all(b"in\n").unwrap();
        assert_eq!(read_to_end(supervised.stdout.take().unwrap()), "in\n/\n");
        assert_eq!(read_to_end(supervised.stderr.take().unwrap()), "é b\n");
        assert_eq!(supervised.wait().unwrap().code(), Some(7));
        assert_eq!(supervised.wait().unwrap().code(), Some(7), "and again");
        assert_eq!(supervised.kill().unwrap().code(), Some(7), "killing the dead changes nothing");
    }

    #[test]
    fn a_death_by_signal_is_told_apart_from_an_exit_code() {
        for signal in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGSEGV] {
            let supervised = Supervised::spawn(sh(&format!("kill -{} $$", signal as i32))).unwrap();
            assert_eq!(supervised.wait().unwrap().signal(), Some(signal as i32));
        }
        let status = Supervised::spawn(sh("exit 137")).unwrap().wait().unwrap();
        assert_eq!(status.code(), Some(137));
    }

    #[test]
    fn a_program_that_cannot_be_executed_is_an_error_that_names_it() {
        let spawn = |program| Supervised::spawn(SupervisedCommand::new(program).unwrap());
        let error = format!("{:#}", spawn("no-such-program-here").unwrap_err());
        assert!(error.contains("cannot start no-such-program-here: No such file"), "{error}");
        let error = format!("{:#}", spawn("/etc/passwd").unwrap_err());
        assert!(error.contains("cannot start /etc/passwd: Permission denied"), "{error}");
    }

    #[test]
    fn signals_are_neither_blocked_nor_ignored_in_the_program() {
        let mut command = SupervisedCommand::new("cat").unwrap();
        command.arg("/proc/self/status").stdout(Stdio::piped());
        let mut supervised = Supervised::spawn(command).unwrap();
        let status = read_to_end(supervised.stdout.take().unwrap());
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
    fn kill_ends_everything_while_another_thread_waits() {
        let (supervised, stdout) = start_family();
        let supervised = Arc::new(supervised);
        let waiter = std::thread::spawn({
            let supervised = supervised.clone();
            move || supervised.wait().unwrap()
        });
        assert_eq!(supervised.kill().unwrap().signal(), Some(libc::SIGKILL));
        assert_eq!(supervised.kill().unwrap().signal(), Some(libc::SIGKILL));
        assert_eq!(waiter.join().unwrap().signal(), Some(libc::SIGKILL));
        read_to_end(stdout);
    }

    #[test]
    fn drop_ends_everything() {
        let (supervised, stdout) = start_family();
        drop(supervised);
        read_to_end(stdout);
    }

    #[test]
    fn what_the_program_leaves_behind_ends_with_it() {
        let mut command = sh("setsid sh -c 'sleep 1000 & setsid sleep 1000 & wait' & exit 3");
        command.stdout(Stdio::piped());
        let mut supervised = Supervised::spawn(command).unwrap();
        read_to_end(supervised.stdout.take().unwrap());
        assert_eq!(supervised.wait().unwrap().code(), Some(3));
    }

    #[test]
    fn sigkill_of_the_parent_ends_everything() {
        let mut parent = start_parent(FAMILY);
        let mut stdout = parent.stdout.take().unwrap();
        read_ready(&mut stdout);
        parent.kill().unwrap();
        parent.wait().unwrap();
        read_to_end(stdout);
    }

    #[test]
    fn sigkill_of_the_guard_ends_the_program_and_its_session() {
        let mut command = sh("sleep 1000 & (sleep 1000 &) ; echo ready; wait");
        command.stdout(Stdio::piped());
        let mut supervised = Supervised::spawn(command).unwrap();
        let mut stdout = supervised.stdout.take().unwrap();
        read_ready(&mut stdout);
        kill(supervised.supervisor_pid, Signal::SIGKILL).unwrap();
        assert_eq!(supervised.wait().unwrap().signal(), Some(libc::SIGKILL));
        read_to_end(stdout);
    }

    #[test]
    fn sigkill_of_the_guard_ends_the_program_also_when_the_parent_cannot_act() {
        let mut parent = start_parent("echo ready; exec sleep 1000");
        let mut stdout = parent.stdout.take().unwrap();
        read_ready(&mut stdout);
        let pid = proc::pid_of(parent.id());
        let supervisor = proc::processes().unwrap().find(|process| process.parent == pid).unwrap();
        // The parent's own output is the pipe too, so it has to be gone as well; but first it may do nothing.
        kill(pid, Signal::SIGSTOP).unwrap();
        kill(supervisor.pid, Signal::SIGKILL).unwrap();
        kill(pid, Signal::SIGKILL).unwrap();
        parent.wait().unwrap();
        read_to_end(stdout);
    }

    #[test]
    fn a_descriptor_is_handed_through_and_belongs_to_the_program_alone() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut command = sh("echo through >&3; exec 3>&-; exec sleep 1000");
        command.fd_mappings(vec![command_fds::FdMapping { parent_fd: theirs.into(), child_fd: 3 }]).unwrap();
        let supervised = Supervised::spawn(command).unwrap();
        assert_eq!(read_to_end(&ours), "through\n", "the end comes although it still runs");
        assert_eq!(supervised.wait_timeout(Duration::ZERO).unwrap(), None);
        supervised.kill().unwrap();
        assert!(supervised.wait_timeout(Duration::ZERO).unwrap().is_some());
    }
}
