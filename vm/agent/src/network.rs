//! What every machine on a network has: a name, and itself.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// The name of every guest.
const HOSTNAME: &str = "vmtest";

/// Names the machine and turns on its loopback. Returns what went wrong.
pub fn bring_up() -> Vec<String> {
    let named = nix::unistd::sethostname(HOSTNAME).map_err(io::Error::from);
    let up = loopback_up();
    [("the host's name", named), ("lo", up)]
        .into_iter()
        .filter_map(|(what, result)| Some(format!("cannot set {what}: {}", result.err()?)))
        .collect()
}

fn loopback_up() -> io::Result<()> {
    // SAFETY: it takes three integers, and returns a descriptor of ours.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        let error = io::Error::last_os_error();
        // A kernel without a network.
        let without = [libc::EAFNOSUPPORT, libc::ENOSYS].map(Some);
        return if without.contains(&error.raw_os_error()) { Ok(()) } else { Err(error) };
    }
    // SAFETY: as above.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: a structure of integers and arrays of them.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes()) {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request is one of netdevice(7), which takes this structure.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
