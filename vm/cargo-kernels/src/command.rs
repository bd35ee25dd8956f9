//! The commands that `cargo kernels` and `cargo xtask` have in common: which function runs which.

use anyhow::Result;

use crate::dirs::Dirs;
use crate::flags::Command;
use crate::{bench, completions, doctor, exec, matrix, selftest, setup, shell};

/// Runs a command and returns the exit code; `program` is the whole command line, for completions.
///
/// # Errors
/// Those of the command.
pub fn run(dirs: &Dirs, command: &Command, program: clap::Command) -> Result<u8> {
    match command {
        Command::Setup(flags) => setup::run(dirs, flags),
        Command::Doctor(flags) => doctor::run(dirs, flags),
        Command::Shell(flags) => shell::run(dirs, flags),
        Command::Exec(flags) => exec::run(dirs, flags),
        Command::Bench(flags) => bench::run(dirs, flags),
        Command::Selftest(flags) => selftest::run(dirs, flags),
        Command::Matrix => matrix::run(dirs),
        Command::Completions(flags) => completions::run(flags, program),
    }
}
