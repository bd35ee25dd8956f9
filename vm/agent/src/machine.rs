//! The guest as a whole: up, complete, off.

use std::os::fd::AsRawFd;

use anyhow::{Context, Error};
use nix::errno::Errno;
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::stat::{Mode, umask};

use crate::ivshmem::Ivshmem;
use crate::{modules, mounts};

const HOSTNAME: &str = "vmtest";

nix::ioctl_write_ptr_bad!(set_interface_flags, libc::SIOCSIFFLAGS, libc::ifreq);

/// The guest, as the agent has made or found it.
pub struct Machine {
    /// What went wrong meanwhile. None of it need matter to the job; all of it is worth reading when the job fails.
    pub errors: Vec<Error>,
    /// Where the payload comes through, in a guest that was brought up to wait for one.
    pub ivshmem: Option<Ivshmem>,
}

impl Machine {
    /// Brings the guest up, as its process 1. A guest may be saved after this, so whatever can be
    /// done before there is a job is done here.
    pub fn bring_up() -> Self {
        let mut errors = modules::load_first();
        errors.extend(set_up());
        let ivshmem = Ivshmem::open().unwrap_or_else(|error| {
            errors.push(error);
            None
        });
        Self { errors, ivshmem }
    }

    /// Adds what is missing in a guest that something else brought up.
    pub fn complete() -> Self {
        Self { errors: set_up(), ivshmem: None }
    }
}

fn set_up() -> Vec<Error> {
    umask(Mode::from_bits_truncate(0o022));
    let mut errors = mounts::missing();
    let named = nix::unistd::sethostname(HOSTNAME).context("cannot set the host's name");
    errors.extend([named, loopback_up().context("cannot set lo")].into_iter().filter_map(Result::err));
    errors
}

fn loopback_up() -> nix::Result<()> {
    let socket = match socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None) {
        // A kernel without a network.
        Err(Errno::EAFNOSUPPORT | Errno::ENOSYS) => return Ok(()),
        socket => socket?,
    };
    // SAFETY: a structure of integers and arrays of them.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes()) {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request is one of netdevice(7), which takes this structure.
    unsafe { set_interface_flags(socket.as_raw_fd(), &raw const request) }.map(drop)
}

/// Switches the guest off. Returns only when the kernel refuses.
pub fn power_off() {
    let Err(error) = reboot(RebootMode::RB_POWER_OFF);
    eprintln!("vmtest-agent: cannot power off: {error}");
}
