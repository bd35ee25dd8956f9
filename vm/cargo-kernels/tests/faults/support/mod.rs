//! Running `xtask` where something goes wrong, and looking at what it said of it.

mod process;
mod run;
mod scene;
mod verdict;

pub use process::Process;
pub use run::{Ended, Run};
pub use scene::{Scene, target, tool};
pub use verdict::Verdict;
