//! `cargo xtask matrix`: the pins as a CI matrix.

use std::io::Write;

use anyhow::Result;
use serde::Serialize;

use crate::dirs::Dirs;
use crate::exit;
use crate::kernels;

/// What `strategy.matrix` of a GitHub workflow takes: one job for each of `include`.
#[derive(Debug, Serialize)]
struct Matrix {
    include: Vec<Job>,
}

/// One job of the matrix.
#[derive(Debug, Serialize)]
struct Job {
    /// The pin's name, for `-k`.
    kernel: String,
    /// Changes whenever the pin's kernel may: the key under which a CI caches it.
    cache_key: String,
}

/// Runs the command.
pub fn run(dirs: &Dirs) -> Result<u8> {
    let include = kernels::pinned(dirs)?
        .iter()
        .filter(|pin| !pin.extra && pin.arch.is_host())
        .map(|pin| Job { kernel: pin.name.clone(), cache_key: kernels::obtain::key(pin) })
        .collect();
    let matrix = serde_json::to_string(&Matrix { include })?;
    // Without a reader (`| head`) there is nothing to complain of.
    let _ = writeln!(std::io::stdout(), "{matrix}");
    Ok(exit::OK)
}
