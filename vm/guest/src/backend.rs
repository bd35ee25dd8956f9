//! A way of getting a guest: what it is given, and what it gives.

use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use vm_kernels::Kernel;
use vmtest_agent::{Payload, Ready, Root};

use crate::accel::Accel;
use crate::payload::Files;
use crate::process::Supervised;
use crate::rundir::RunDir;

/// A way of getting a guest in which the agent waits for a job.
pub trait Backend: Sync {
    /// `boot` or `snapshot`, for people.
    fn name(&self) -> &'static str;

    /// The kernel options that only this way needs, as [`KCONFIG`](crate::KCONFIG).
    fn kconfig(&self) -> Option<(&'static str, &'static str)> {
        None
    }

    /// Starts a guest, and does not wait until it is up; one from a snapshot that is yet to be made is booted and saved
    /// before. `note` is told of what a person should know.
    fn start(&self, spec: &Spec<'_>, note: &dyn Fn(String)) -> Result<Vm>;

    /// Looks, when a guest did not pass, whether what it was made of is still sound, and clears away
    /// what is not: then it says what was wrong, and the run is worth nothing.
    fn verify_snapshot(&self, _spec: &Spec<'_>) -> Result<Option<String>> {
        Ok(None)
    }
}

/// What a guest is made of.
#[derive(Debug, Clone, Copy)]
pub struct Spec<'a> {
    /// The kernel to run.
    pub kernel: &'a Kernel,
    /// Files that are put into its root directory.
    pub files: &'a Files,
    /// A directory of this run's own, removed when the run is over.
    pub run: &'a RunDir,
    /// What is made of kernels and kept is below this directory.
    pub cache: &'a Path,
    /// KVM or TCG.
    pub accel: Accel,
    /// When the run is over, however far it got.
    pub deadline: Instant,
    /// The guest's memory in MiB.
    pub memory_mib: u32,
    /// How many processors it has.
    pub cpus: u32,
    /// Whether its programs find the host's root directory, or a minimal one.
    pub host_root: bool,
    /// Directories that must be found where they are on the host, whatever else the guest mounts there.
    pub keep: &'a [String],
    /// Further kernel parameters, each one word without quotes or anything else that a shell reads.
    pub kernel_args: &'a [String],
}

/// A guest that was started.
pub struct Vm {
    /// The processes behind it; dropping this ends them.
    pub process: Supervised,
    /// What the guest's kernel prints, and what the tools that started it print.
    pub console: Vec<Box<dyn Read + Send>>,
    /// The serial port that the agent speaks on.
    pub channel: Arc<Link>,
    /// QEMU's own voice: why the machine stopped.
    pub qmp: Arc<Link>,
    /// Where the agent finds the payload.
    pub payload: Payload,
    /// What its programs find as their root directory.
    pub root: Root,
    /// What the agent said when it became ready, for a guest that was saved after that.
    pub ready: Option<Ready>,
}

/// One end of a byte stream to QEMU.
#[derive(Debug)]
pub enum Link {
    /// Connected from the start (a socket pair).
    Connected(UnixStream),
    /// QEMU will connect to this.
    Listening(UnixListener),
}

impl Link {
    /// Waits until QEMU is there.
    pub fn connect(&self) -> std::io::Result<UnixStream> {
        match self {
            Self::Connected(stream) => stream.try_clone(),
            Self::Listening(listener) => listener.accept().map(|(stream, _)| stream),
        }
    }

    /// Ends a wait for QEMU to connect.
    pub fn close(&self) {
        if let Self::Listening(listener) = self {
            // On Linux this wakes a thread that is blocked in accept(2) with EINVAL.
            let _ = nix::sys::socket::shutdown(listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        }
    }
}
