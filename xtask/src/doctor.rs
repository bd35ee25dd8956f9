//! `cargo xtask doctor`.

use anyhow::{Result, bail};

use crate::flags;

/// Runs the command.
pub fn run(_flags: &flags::Doctor) -> Result<u8> {
    bail!("not built yet")
}
