//! Virtual machines: starting them, talking to the agent in them, and making sure they end.

pub mod accel;
mod guard;
pub mod process;

pub use guard::become_guard_if_asked;
