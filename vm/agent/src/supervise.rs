//! The supervisor: on the host, the small process between the harness and a program it starts, which ends that program
//! and all it started when the harness is gone, in whatever way it went.
//!
//! Three facts of Linux make it work:
//!
//! - a pidfd of the harness becomes readable when the whole process is dead, `SIGKILL` included (pidfd_open(2), Linux 5.3).
//!   `PR_SET_PDEATHSIG` would not do: it fires when the *thread* dies that started the supervisor;
//! - a subreaper inherits its descendants' orphans (prctl(2), `PR_SET_CHILD_SUBREAPER`), so that whatever is killed here
//!   hands its children over, until there are none: a program cannot leave by forking twice or by setsid;
//! - the supervisor leads a session of its own, so that nothing typed at a terminal reaches it or the program.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, getpid, getppid, setsid};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::retry_on_intr;
use rustix::process::WaitOptions;
use vmtest_agent::proc::{children, pidfd_open};

use crate::process::reap;

/// The exit code of a supervisor that could not do its work; the reason is on its standard error.
const FAILED: i32 = 125;

/// Is the supervisor of the program that `args` name, `PARENT-PID PROGRAM ARGS… REPORT-FD`, and ends as it ended.
///
/// To the report descriptor it writes one `i32`: 0 once the program runs, or the errno of not being able to run it.
pub fn supervise(args: impl DoubleEndedIterator<Item = OsString>) -> ! {
    match run(args) {
        Ok(status) => exit_like(status),
        Err(error) => {
            eprintln!("error: the supervisor of a program that the harness started: {error}");
            std::process::exit(FAILED);
        }
    }
}

fn run(mut args: impl DoubleEndedIterator<Item = OsString>) -> io::Result<ExitStatus> {
    let parent = Pid::from_raw(number(args.next())?);
    let report = take_report_fd(number(args.next_back())?)?;
    let program = args.next().ok_or_else(|| io::Error::other("no program was named"))?;

    let parent_alive = pidfd_open(parent)?;
    if getppid() != parent {
        // It died before it could be watched, and took its purpose with it.
        return Err(io::Error::other("the harness is gone"));
    }
    setsid()?;
    prctl::set_name(c"vm-supervisor")?;
    prctl::set_child_subreaper(true)?;
    let signals = block_signals()?;

    let started = start(&program, args);
    let errno = started.as_ref().map_or_else(|error| error.raw_os_error().unwrap_or(libc::EIO), |_| 0);
    // When nobody reads it any more the harness died, which the watch is about to see.
    let _ = File::from(report).write_all(&errno.to_ne_bytes());
    let Ok(program) = started else { return Ok(ExitStatus::from_raw(FAILED << 8)) };
    let mut status = None;
    // What was handed to the program must be the program's alone: a pipe it closes has to read as closed.
    let watched = close_inherited(&[parent_alive.as_fd(), signals.as_fd()])
        .and_then(|()| watch(program, &mut status, parent_alive.as_fd(), &signals));
    end_descendants(program, &mut status)?;
    watched?;
    Ok(status.unwrap_or_else(|| ExitStatus::from_raw(libc::SIGKILL)))
}

fn number(arg: Option<OsString>) -> io::Result<i32> {
    let number = arg.and_then(|arg| arg.to_str()?.parse().ok());
    number.ok_or_else(|| io::Error::other("expected `supervise PARENT-PID PROGRAM ARGS… REPORT-FD`"))
}

/// Takes over a descriptor that was inherited for this, and keeps it from the program.
fn take_report_fd(raw: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: touches no memory; should the number be of no open descriptor, it says so.
    Errno::result(unsafe { libc::fcntl(raw, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: it is open, and nothing else in this process knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Makes the signals that matter here readable from a descriptor instead of deadly.
fn block_signals() -> io::Result<SignalFd> {
    let signals = [Signal::SIGCHLD, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM];
    let signals = SigSet::from_iter(signals);
    signals.thread_block()?;
    Ok(SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// Starts the program in a process group of its own; it dies when the supervisor does.
fn start(program: &OsStr, args: impl Iterator<Item = OsString>) -> io::Result<Pid> {
    let supervisor = getpid();
    let mut command = Command::new(program);
    command.args(args).process_group(0);
    // SAFETY: only system calls and no allocation between fork and exec.
    unsafe {
        command.pre_exec(move || {
            SigSet::empty().thread_set_mask()?;
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            // The supervisor may have died before that took effect.
            if getppid() == supervisor { Ok(()) } else { Err(Errno::ESRCH.into()) }
        });
    }
    // Not waited for through this handle: the watch reaps everything, orphans that it inherits included.
    let child = command.spawn()?;
    Ok(Pid::from_raw(child.id() as i32))
}

fn close_inherited(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    // The listing's own descriptor is among them and is closed by now; closing it again does no harm.
    let open: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for fd in open {
        if fd <= libc::STDERR_FILENO {
            // SAFETY: replaces a standard descriptor by another valid one.
            Errno::result(unsafe { libc::dup2(null.as_raw_fd(), fd) })?;
        } else if fd != null.as_raw_fd() && keep.iter().all(|kept| kept.as_raw_fd() != fd) {
            // SAFETY: inherited from the harness, so that nothing in this process owns it.
            unsafe { libc::close(fd) };
        }
    }
    Ok(())
}

/// Waits until the program has ended, or has to: the harness is dead, or asks for it with a signal.
fn watch(
    program: Pid,
    status: &mut Option<ExitStatus>,
    parent_alive: BorrowedFd<'_>,
    signals: &SignalFd,
) -> io::Result<()> {
    while status.is_none() {
        let mut fds = [parent_alive, signals.as_fd()].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        retry_on_intr(|| poll(&mut fds, None))?;
        if !fds[0].revents().is_empty() {
            return Ok(());
        }
        while let Some(signal) = signals.read_signal()? {
            if signal.ssi_signo != Signal::SIGCHLD as u32 {
                return Ok(());
            }
        }
        reap(program, status, WaitOptions::NOHANG)?;
    }
    Ok(())
}

/// Kills everything below this process and waits until nothing is left.
///
/// A killed child's own children become the supervisor's, so that each round sees one generation more.
fn end_descendants(program: Pid, status: &mut Option<ExitStatus>) -> io::Result<()> {
    let mut options = WaitOptions::NOHANG;
    while reap(program, status, options)? {
        let killed = children()?.filter(|child| kill(*child, Signal::SIGKILL).is_ok()).count();
        if killed == 0 {
            // What changed to another user cannot be killed; waiting for it could take for ever.
            break;
        }
        options = WaitOptions::empty();
    }
    Ok(())
}

/// Ends this process as the program ended: by its exit code, or by its signal.
fn exit_like(status: ExitStatus) -> ! {
    if let Some(signal) = status.signal() {
        // The program may have left a core dump; one of the supervisor would only mislead.
        let _ = prctl::set_dumpable(false);
        let _ = SigSet::all().thread_unblock();
        // SAFETY: installs no handler. (nix has no real-time signals.)
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        }
    }
    std::process::exit(status.code().unwrap_or(FAILED))
}
