//! `cargo xtask matrix`: the pins as a CI matrix.

use anyhow::Result;
use serde_json::json;

use crate::dirs::Dirs;
use crate::exit;
use crate::kernels;

/// Runs the command: what `strategy.matrix` of a GitHub workflow takes, one job for each of `include`.
pub fn run(dirs: &Dirs) -> Result<u8> {
    let pins = kernels::pinned(dirs)?;
    let jobs = pins.iter().filter(|pin| !pin.extra && pin.arch.is_host());
    // The name is for `-k`; the key, under which a CI caches the kernel, changes whenever that may.
    let jobs = jobs.map(|pin| json!({ "kernel": pin.name, "cache_key": kernels::obtain::key(pin) }));
    let matrix = json!({ "include": jobs.collect::<Vec<_>>() });
    kernels::command::show::print(&format!("{matrix}\n"));
    Ok(exit::OK)
}
