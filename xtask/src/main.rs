//! `cargo xtask`: see `cargo xtask --help`, and docs/architecture.md for the way through the code.

mod flags;
mod inspect;
mod local;
mod minimum_rust;
mod test;

use std::process::ExitCode;

use cargo_kernels::dirs::Dirs;
use cargo_kernels::{build, command, exit, kernels, vmtest};
use clap::{CommandFactory, Parser};
use flags::{Command, Xtask};

fn main() -> ExitCode {
    let command = Xtask::parse().command;
    exit::conclude(Dirs::find().and_then(|dirs| match command {
        Command::Test(flags) => test::run(&dirs, &flags),
        Command::Build => build::run(&dirs),
        Command::Run { args } => local::program(&dirs, &args),
        Command::Inspect { object } => inspect::run(&dirs, object),
        Command::Vmtest(flags) => vmtest::run(&dirs, &flags),
        Command::Kernels(flags) => kernels::command::run(&dirs, &flags),
        Command::Common(command) => command::run(&dirs, &command, Xtask::command()),
    }))
}
