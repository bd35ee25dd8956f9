//! Processes as Linux shows them: `/proc` and pidfds.

use std::io;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::unistd::{Pid, getpid};
use rustix::process::PidfdFlags;

/// A process, as `/proc/PID/stat` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Its pid.
    pub pid: Pid,
    /// Its parent.
    pub parent: Pid,
    /// The session it belongs to.
    pub session: Pid,
    /// Dead, and not yet collected by its parent.
    pub zombie: bool,
}

/// Every process that this one can see.
pub fn processes() -> io::Result<impl Iterator<Item = Process>> {
    let listing = std::fs::read_dir("/proc")?;
    Ok(listing.filter_map(|entry| {
        let entry = entry.ok()?;
        let pid = entry.file_name().to_str()?.parse().ok()?;
        // It may be gone by now.
        parse_stat(pid, &std::fs::read_to_string(entry.path().join("stat")).ok()?)
    }))
}

/// The processes whose parent is this one.
pub fn children() -> io::Result<impl Iterator<Item = Pid>> {
    let own = getpid();
    Ok(processes()?.filter(move |process| process.parent == own).map(|process| process.pid))
}

/// proc_pid_stat(5): `pid (comm) state ppid pgrp session …`, where comm may hold anything, parentheses included.
fn parse_stat(pid: i32, stat: &str) -> Option<Process> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    Some(Process {
        pid: Pid::from_raw(pid),
        parent: Pid::from_raw(parent),
        session: Pid::from_raw(session),
        zombie: matches!(state, "Z" | "X"),
    })
}

/// A descriptor of a process; it is readable (poll) once the process is dead.
pub fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid.as_raw()).ok_or(Errno::ESRCH)?;
    rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(|error| match error.raw_os_error() {
        libc::ENOSYS => io::Error::other("this machine's kernel has no pidfd_open: Linux 5.3 is needed"),
        _ => error.into(),
    })
}

#[cfg(test)]
mod tests {
    use nix::unistd::getppid;

    use super::*;

    #[test]
    fn a_stat_line_is_read_past_a_hostile_command_name() {
        let process = parse_stat(7, "7 (a) Z 1 2) S 3 4 5 0 -1").unwrap();
        assert_eq!((process.parent, process.session), (Pid::from_raw(3), Pid::from_raw(5)));
        assert!(!process.zombie);
        assert!(parse_stat(7, "7 (a) Z 3 4 5 0").unwrap().zombie);
        assert_eq!(parse_stat(7, "7 (a"), None);
        let me = processes().unwrap().find(|process| process.pid == getpid()).unwrap();
        assert_eq!(me.parent, getppid());
    }
}
