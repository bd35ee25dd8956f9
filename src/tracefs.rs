//! The file system in which the kernel shows its trace buffer and its tracepoints.

use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{TRACEFS_MAGIC, statfs};

use crate::failure::{Failure, Kind};

/// Where it is, in the order of preference: of its own, or, mounted by the kernel when somebody looks, in debugfs.
/// libbpf knows the same two.
pub const PLACES: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// A mounted tracefs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracefs {
    root: PathBuf,
}

impl Tracefs {
    /// Finds it; none when it is mounted at neither of the [`PLACES`].
    pub fn find() -> Option<Self> {
        PLACES
            .iter()
            .map(Path::new)
            .find(|place| statfs(*place).is_ok_and(|fs| fs.filesystem_type() == TRACEFS_MAGIC))
            .map(|place| Self { root: place.to_owned() })
    }

    /// Mounts it at the first of the [`PLACES`].
    ///
    /// # Errors
    ///
    /// When the kernel has none, or the process may not mount.
    pub fn mount() -> Result<Self, Failure> {
        let [place, _] = PLACES;
        mount(Some("tracefs"), place, Some("tracefs"), MsFlags::empty(), None::<&str>)
            .map_err(|errno| mount_failure(place, errno))?;
        Ok(Self { root: place.into() })
    }

    /// What to say when it was not found.
    pub fn absent() -> Failure {
        let [first, second] = PLACES;
        Failure::new(
            Kind::NoTracefs,
            format!(
                "tracefs is mounted neither at {first} nor at {second}; mount it with \
                 `mount -t tracefs tracefs {first}`, or let --mount-tracefs do it"
            ),
        )
    }

    /// The file that the lines are read from.
    pub fn trace_pipe(&self) -> PathBuf {
        self.root.join("trace_pipe")
    }

    /// Whether there is a tracepoint of this name, such as `syscalls/sys_enter_execve`.
    ///
    /// # Errors
    ///
    /// When it cannot be told, for lack of permission.
    pub fn has_tracepoint(&self, name: &str) -> io::Result<bool> {
        // Opened, not looked at: what lockdown forbids is opening.
        match std::fs::File::open(self.root.join("events").join(name).join("id")) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether the kernel is writing to the buffer (`tracing_on`); when it cannot be told, it is.
    pub fn is_on(&self) -> bool {
        std::fs::read(self.switch()).map_or(true, |value| !value.starts_with(b"0"))
    }

    /// The file that turns writing to the buffer on and off.
    pub fn switch(&self) -> PathBuf {
        self.root.join("tracing_on")
    }
}

fn mount_failure(place: &str, errno: nix::Error) -> Failure {
    use nix::errno::Errno;
    match errno {
        Errno::ENODEV | Errno::ENOENT => Failure::new(
            Kind::NoTracefs,
            format!(
                "cannot mount tracefs at {place}: {errno}; this takes a kernel built with CONFIG_TRACING=y, and sysfs at /sys"
            ),
        ),
        Errno::EPERM | Errno::EACCES => Failure::new(
            Kind::Privileges,
            format!(
                "cannot mount tracefs at {place}: this needs CAP_SYS_ADMIN; run it as root, with sudo"
            ),
        ),
        _ => Failure::other(format!("cannot mount tracefs at {place}"), errno),
    }
}
