//! `cargo xtask kernels`.

use anyhow::{Result, bail};

use crate::flags;

/// Runs the command.
pub fn run(_flags: &flags::Kernels) -> Result<u8> {
    bail!("not built yet")
}
