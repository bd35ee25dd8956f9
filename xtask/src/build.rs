//! `cargo xtask build`.

use anyhow::{Result, bail};

/// Runs the command.
pub fn run() -> Result<u8> {
    bail!("not built yet")
}
