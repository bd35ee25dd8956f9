//! The guest as a whole: up, complete, off.

use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::stat::{Mode, umask};
use vmtest_agent::PAYLOAD_DIR;

use crate::window::Window;
use crate::{modules, mounts, network};

/// The guest, as the agent has made or found it.
pub struct Machine {
    /// What went wrong meanwhile. None of it need matter to the job; all of it is worth reading when
    /// the job fails.
    pub troubles: Vec<String>,
    /// Where the payload comes through, in a guest that was brought up to wait for one.
    pub window: Option<Window>,
}

impl Machine {
    /// Brings the guest up, as its process 1. A guest may be saved after this, so whatever can be
    /// done before there is a job is done here.
    pub fn bring_up() -> Self {
        umask(Mode::from_bits_truncate(0o022));
        let mut troubles = modules::load_first();
        troubles.extend(set_up());
        let window = Window::open().unwrap_or_else(|error| {
            troubles.push(format!("{error:#}"));
            None
        });
        if window.is_some() {
            troubles.extend(mounts::tmpfs(PAYLOAD_DIR).err());
        }
        Self { troubles, window }
    }

    /// Adds what is missing in a guest that something else brought up.
    pub fn complete() -> Self {
        Self { troubles: set_up(), window: None }
    }
}

fn set_up() -> Vec<String> {
    let mut troubles = mounts::missing();
    troubles.extend(network::bring_up());
    troubles
}

/// Switches the guest off. Returns only when the kernel refuses.
pub fn power_off() {
    let Err(error) = reboot(RebootMode::RB_POWER_OFF);
    eprintln!("vmtest-agent: cannot power off: {error}");
}
