//! Kernels: which are pinned, where they come from, and getting them onto this machine.
//!
//! What a caller needs: [`pins`] to read a list, a [`Store`] to say where things are, [`select`] to find what was
//! asked for, [`Target::obtain`] to get it, [`kconfig`] and [`modules`] to look into what came.

pub mod arch;
pub mod archive;
pub mod build;
pub mod cache;
mod compression;
mod debian;
pub mod digest;
pub mod download;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
pub mod image;
pub mod kconfig;
mod kernel;
pub mod lock;
pub mod modules;
pub mod obtain;
pub mod pins;
mod progress;
pub mod sysroot;
mod target;
mod tree;
pub mod whole_file;

pub use arch::{ARCHES, Arch};
pub use digest::sha256_file;
pub use kernel::{Expected, Kernel};
pub use obtain::{NIX_VARIABLE, Store, Unavailable};
pub use pins::Pin;
pub use progress::{Progress, Silent};
pub use target::{Target, select};
