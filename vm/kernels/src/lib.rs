#![allow(missing_docs, dead_code)]
#[path = "../../../xtask/src/kernels/mod.rs"]
pub mod kernels;
pub use kernels::*;
#[path = "../../cargo-kernels/src/exit.rs"]
pub mod exit;
#[path = "../../cargo-kernels/src/paths.rs"]
pub mod paths;
#[path = "../../../xtask/src/whole_file.rs"]
pub mod whole_file;
