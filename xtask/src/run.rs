//! `cargo xtask run`.

use anyhow::{Result, bail};

use crate::flags;

/// Runs the command.
pub fn run(_flags: &flags::Run) -> Result<u8> {
    bail!("not built yet")
}
