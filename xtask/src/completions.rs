//! `cargo xtask completions`.

use anyhow::{Result, bail};

use crate::flags;

/// Runs the command.
pub fn run(_flags: &flags::Completions) -> Result<u8> {
    bail!("not built yet")
}
