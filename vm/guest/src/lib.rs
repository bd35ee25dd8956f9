//! Virtual machines: starting them, talking to the agent in them, and making sure they end.
//!
//! How a guest comes to be is behind [`Backend`]; everything after that is shared: the job goes over
//! a serial line, and [`supervise`] watches until it is over.

pub mod accel;
pub mod agent;
mod backend;
pub mod bare;
mod command_line;
pub mod console;
mod deadline;
pub mod decode;
pub mod environment;
pub mod guest_root;
mod initramfs;
pub mod interrupt;
pub mod module_share;
pub mod payload;
pub mod process;
mod qemu;
mod qmp;
pub mod restore;
pub mod rundir;
pub mod snapshots;
mod splat;
pub mod supervise;
pub mod vng;

pub use backend::{Backend, Link, Spec, Vm};

/// The kernel options that every guest needs: the list's name, and its text.
pub const KCONFIG: (&str, &str) = ("vm/kconfig", include_str!("../../kconfig"));
