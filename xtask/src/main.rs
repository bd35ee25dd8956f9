//! `cargo xtask`: see `cargo xtask --help`, and docs/architecture.md for the way through the code.

mod agree;
mod bench;
mod build;
mod cargo;
mod completions;
mod doctor;
mod engine;
mod exec;
mod exit;
mod flags;
mod inspect;
mod interrupt;
mod judge;
mod kernels;
mod local;
mod matrix;
mod metadata;
mod paths;
mod payload;
mod report;
mod run;
mod selftest;
mod setup;
mod shell;
mod static_build;
mod test;
mod text;
mod tools;
mod ui;
mod verdict;
mod vm;
mod vmtest;
mod whole_file;

use std::process::ExitCode;

use clap::Parser;
use flags::Command;

fn main() -> ExitCode {
    vm::become_guard_if_asked();
    kernels::direct::become_unpacker_if_asked();
    let result = match flags::Xtask::parse().command {
        Command::Vmtest(flags) => vmtest::run(&flags),
        Command::Test(flags) => test::run(&flags),
        Command::Setup(flags) => setup::run(&flags),
        Command::Doctor(flags) => doctor::run(&flags),
        Command::Kernels(flags) => kernels::command::run(&flags),
        Command::Shell(flags) => shell::run(&flags),
        Command::Exec(flags) => exec::run(&flags),
        Command::Build => build::run(),
        Command::Run(flags) => run::run(&flags),
        Command::Inspect(flags) => inspect::run(&flags),
        Command::Bench(flags) => bench::run(&flags),
        Command::Selftest(flags) => selftest::run(&flags),
        Command::Agree(flags) => agree::run(&flags),
        Command::Matrix => matrix::run(),
        Command::Completions(flags) => completions::run(&flags),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(exit::code_of(&error))
        }
    }
}
