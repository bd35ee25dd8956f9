//! Running `cargo kernels` where something goes wrong, and looking at what it said of it.

mod process;
mod run;
mod scene;

pub use process::Process;
pub use run::{Run, test};
pub use scene::{Scene, tool};
