//! `cargo xtask shell`.

use anyhow::{Result, bail};

use crate::flags;

/// Runs the command.
pub fn run(_flags: &flags::Shell) -> Result<u8> {
    bail!("not built yet")
}
