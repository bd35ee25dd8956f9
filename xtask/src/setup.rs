//! `cargo xtask setup`.

use anyhow::{Result, bail};

use crate::flags;

/// Runs the command.
pub fn run(_flags: &flags::Setup) -> Result<u8> {
    bail!("not built yet")
}

/// Installs what is missing.
pub fn ensure() -> Result<()> {
    bail!("not built yet")
}
