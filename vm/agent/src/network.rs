//! What every machine on a network has: a name, and itself.

use std::os::fd::AsRawFd;

use anyhow::{Context, Error};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// The name of every guest.
const HOSTNAME: &str = "vmtest";

nix::ioctl_write_ptr_bad!(set_interface_flags, libc::SIOCSIFFLAGS, libc::ifreq);

/// Names the machine and turns on its loopback. Returns what went wrong.
pub fn bring_up() -> Vec<Error> {
    let named = nix::unistd::sethostname(HOSTNAME).context("cannot set the host's name");
    [named, loopback_up().context("cannot set lo")].into_iter().filter_map(Result::err).collect()
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
