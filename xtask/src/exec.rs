//! `cargo xtask exec`.

use anyhow::{Result, bail};

use crate::flags;

/// Runs the command.
pub fn run(_flags: &flags::Exec) -> Result<u8> {
    bail!("not built yet")
}
