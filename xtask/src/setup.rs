//! `cargo xtask setup`.

use anyhow::{Result, bail};

use crate::flags;

/// Runs the command.
pub fn run(_flags: &flags::Setup) -> Result<u8> {
    bail!("not built yet")
}
