//! `cargo xtask inspect`.

use anyhow::{Result, bail};

use crate::flags;

/// Runs the command.
pub fn run(_flags: &flags::Inspect) -> Result<u8> {
    bail!("not built yet")
}
