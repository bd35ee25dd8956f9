//! The guest as a whole: up, complete, off.

use std::path::Path;

use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::stat::{Mode, umask};

use crate::{modules, mounts};

/// Where the harness puts the modules in its initramfs.
const MODULES: &str = "/modules";

/// Brings the guest up as its process 1. Returns what went wrong: none of it need matter to the
/// job, and all of it is worth reading when the job fails.
pub fn bring_up() -> Vec<String> {
    umask(Mode::from_bits_truncate(0o022));
    let mut troubles = mounts::all();
    troubles.extend(modules::load(Path::new(MODULES)));
    troubles
}

/// Adds what tests need to a guest that something else brought up.
pub fn complete() -> Vec<String> {
    mounts::missing()
}

/// Switches the guest off. Returns only when the kernel refuses.
pub fn power_off() {
    let Err(error) = reboot(RebootMode::RB_POWER_OFF);
    eprintln!("vmtest-agent: cannot power off: {error}");
}
