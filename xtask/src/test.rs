//! `cargo xtask test`.

use anyhow::{Result, bail};

use crate::flags;

/// Runs the command.
pub fn run(_flags: &flags::Test) -> Result<u8> {
    bail!("not built yet")
}
