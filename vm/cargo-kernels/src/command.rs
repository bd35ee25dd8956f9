//! The commands that `cargo kernels` and `cargo xtask` have in common: which function runs which.

use anyhow::Result;

use crate::flags::Command;
use crate::{bench, completions, doctor, exec, matrix, selftest, setup, shell};

/// Runs a command and returns the exit code; `program` is the whole command line, for completions.
///
/// # Errors
/// Those of the command.
pub fn run(command: &Command, program: clap::Command) -> Result<u8> {
    match command {
        Command::Setup(flags) => setup::run(flags),
        Command::Doctor(flags) => doctor::run(flags),
        Command::Shell(flags) => shell::run(flags),
        Command::Exec(flags) => exec::run(flags),
        Command::Bench(flags) => bench::run(flags),
        Command::Selftest(flags) => selftest::run(flags),
        Command::Matrix => matrix::run(),
        Command::Completions(flags) => completions::run(flags, program),
    }
}
