//! `cargo kernels`: see `cargo kernels --help`.

use std::process::ExitCode;

use cargo_kernels::flags::Command;
use cargo_kernels::{command, exit};
use clap::{CommandFactory, Parser};

/// Runs a cargo project's tests as root on pinned kernels.
#[derive(Debug, Parser)]
#[command(name = "cargo kernels", bin_name = "cargo kernels", version, about, max_term_width = 100)]
struct CargoKernels {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    // Cargo starts `cargo-kernels kernels …`; people may leave the second word out.
    let mut args: Vec<_> = std::env::args_os().collect();
    if args.get(1).is_some_and(|word| word == "kernels") {
        args.remove(1);
    }
    let command = CargoKernels::parse_from(args).command;
    exit::conclude(command::run(&command, CargoKernels::command()))
}
