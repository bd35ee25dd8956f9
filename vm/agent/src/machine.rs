//! The guest as a whole: up, complete, off.

use anyhow::Error;
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::stat::{Mode, umask};

use crate::ivshmem::Ivshmem;
use crate::{modules, mounts, network};

/// The guest, as the agent has made or found it.
pub struct Machine {
    /// What went wrong meanwhile. None of it need matter to the job; all of it is worth reading when
    /// the job fails.
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
    errors.extend(network::bring_up());
    errors
}

/// Switches the guest off. Returns only when the kernel refuses.
pub fn power_off() {
    let Err(error) = reboot(RebootMode::RB_POWER_OFF);
    eprintln!("vmtest-agent: cannot power off: {error}");
}
