//! The most memory that a process ever used.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Waits for the end of a child and says how it ended, and how much of its memory was resident at most, in bytes.
///
/// wait4(2) would tell the peak of whichever is larger, the child or a descendant of its own, which is QEMU. The kernel's
/// own high-water mark is gone with the child; so the child is stopped when it is about to exit (ptrace(2),
/// `PTRACE_O_TRACEEXIT`).
pub fn of(child: Pid) -> (ExitStatus, u64) {
    ptrace::seize(child, ptrace::Options::PTRACE_O_TRACEEXIT).unwrap();
    let mut peak = 0;
    loop {
        let go_on = match waitpid(child, Some(WaitPidFlag::__WALL)).unwrap() {
            WaitStatus::PtraceEvent(..) => {
                peak = resident_peak(child);
                None
            }
            WaitStatus::Stopped(_, signal) => Some(signal),
            WaitStatus::Exited(_, code) => return (ExitStatus::from_raw(code << 8), peak),
            WaitStatus::Signaled(_, signal, _) => {
                return (ExitStatus::from_raw(signal as i32), peak);
            }
            other => panic!("{other:?}"),
        };
        ptrace::cont(child, go_on.filter(|signal| *signal != Signal::SIGTRAP)).unwrap();
    }
}

fn resident_peak(pid: Pid) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}
