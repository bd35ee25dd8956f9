//! `cargo xtask selftest`.

use anyhow::{Result, bail};

use crate::flags;

/// Runs the command.
pub fn run(_flags: &flags::Selftest) -> Result<u8> {
    bail!("not built yet")
}
