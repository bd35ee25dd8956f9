//! `cargo xtask bench`.

use anyhow::{Result, bail};

use crate::flags;

/// Runs the command.
pub fn run(_flags: &flags::Bench) -> Result<u8> {
    bail!("not built yet")
}
