//! `cargo xtask vmtest`.

use anyhow::{Result, bail};

use crate::flags;

/// Runs the command.
pub fn run(_flags: &flags::Vmtest) -> Result<u8> {
    bail!("not built yet")
}
