//! `cargo xtask`: see `cargo xtask --help`, and docs/architecture.md for the way through the code.

mod build;
mod flags;
mod inspect;
mod local;
mod minimum_rust;
mod run;
mod selftest;
mod test;

use std::process::ExitCode;

use cargo_kernels::{command, exit, kernels, vmtest};
use clap::{CommandFactory, Parser};
use flags::{Command, Xtask};

fn main() -> ExitCode {
    let result = match Xtask::parse().command {
        Command::Test(flags) => test::run(&flags),
        Command::Build => build::run(),
        Command::Run(flags) => run::run(&flags),
        Command::Inspect(flags) => inspect::run(&flags),
        Command::Selftest(flags) => selftest::run(&flags),
        Command::Vmtest(flags) => vmtest::run(&flags),
        Command::Kernels(flags) => kernels::command::run(&flags),
        Command::Common(command) => command::run(&command, Xtask::command()),
    };
    exit::conclude(result)
}
