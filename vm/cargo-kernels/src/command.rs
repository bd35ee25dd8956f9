//! The commands that `cargo kernels` and `cargo xtask` have in common: which function runs which.

use anyhow::Result;

use crate::dirs::Dirs;
use crate::flags::Command;
use crate::{bench, completions, doctor, exec, load, matrix, selftest, setup, shell};

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
        Command::Matrix => matrix::run(dirs),
        Command::Completions { shell } => completions::run(*shell, program),
    }
}

/// The commands that `cargo xtask` has below `kernels`.
const OF_KERNELS: [&str; 5] = ["list", "fetch", "verify", "add", "prune"];

/// A command line of the program that runs, for a person to type: `cargo xtask setup`, `cargo kernels fetch 6.12`.
pub fn hint(command: &str) -> String {
    let program = std::env::args_os().next().map(std::path::PathBuf::from).unwrap_or_default();
    if program.file_stem().is_none_or(|name| name != "xtask") {
        return format!("cargo kernels {command}");
    }
    let of_kernels = OF_KERNELS.contains(&command.split(' ').next().unwrap_or_default());
    format!("cargo xtask {}{command}", if of_kernels { "kernels " } else { "" })
}
