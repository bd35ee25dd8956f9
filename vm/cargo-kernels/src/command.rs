//! The commands that `cargo kernels` and `cargo xtask` have in common: which function runs which.

pub mod kernels;

use anyhow::Result;
use serde_json::json;

use crate::dirs::Dirs;
use crate::flags::Command;
use crate::{bench, doctor, exec, exit, load, selftest, setup, shell, ui};

/// Runs a command and returns the exit code; `program` is the whole command line, for completions.
pub fn run(dirs: &Dirs, command: &Command, program: clap::Command) -> Result<u8> {
    match command {
        Command::Setup { arch, dry_run } => setup::run(dirs, *arch, *dry_run),
        Command::Doctor { json } => doctor::run(dirs, *json),
        Command::Shell(flags) => shell::run(dirs, flags),
        Command::Exec(flags) => exec::exec(dirs, flags),
        Command::Load(flags) => load::run(dirs, flags),
        Command::Bench(flags) => bench::run(dirs, flags),
        Command::Selftest(flags) => selftest::run(dirs, flags),
        Command::Matrix => matrix(dirs),
        Command::Completions { shell } => completions(*shell, program),
    }
}

/// Prints the pins as what `strategy.matrix` of a GitHub workflow takes, one job for each of `include`.
fn matrix(dirs: &Dirs) -> Result<u8> {
    let pins = crate::kernels::pinned(dirs)?;
    let jobs = pins.iter().filter(|pin| !pin.extra && pin.arch.is_host());
    // The name is for `-k`; the key, under which a CI caches the kernel, changes whenever that may.
    let jobs = jobs.map(|pin| json!({ "kernel": pin.name, "cache_key": crate::kernels::obtain::key(pin) }));
    let matrix = json!({ "include": jobs.collect::<Vec<_>>() });
    ui::print(&format!("{matrix}\n"))?;
    Ok(exit::OK)
}

/// Prints what a shell needs to complete the command line. The script's functions are named for `cargo-xtask`, which is
/// what zsh's own completion of cargo asks for; save it as `_cargo-xtask` in a directory of `$fpath`.
fn completions(shell: clap_complete::Shell, program: clap::Command) -> Result<u8> {
    let name = program.get_name().replace(' ', "-");
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut program.bin_name(&name), &name, &mut script);
    ui::print(&String::from_utf8_lossy(&script))?;
    Ok(exit::OK)
}
