//! `cargo kernels`: see `cargo kernels --help`.

use std::process::ExitCode;

use cargo_kernels::dirs::Dirs;
use cargo_kernels::{command, exec, exit, flags, vmtest};
use clap::{CommandFactory, Parser, Subcommand};

/// Runs a cargo project's tests as root on pinned kernels.
#[derive(Debug, Parser)]
#[command(name = "cargo kernels", bin_name = "cargo kernels", version, about, max_term_width = 100)]
struct CargoKernels {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run this project's tests as root on kernels
    #[command(after_help = "\
Examples:
  cargo kernels test -k 6.12                         everything that `cargo test` runs
  cargo kernels test -k 5.10,6.1 --warm -p mycrate   two kernels, from snapshots, one package
  cargo kernels test -k ./bzImage --test root        a kernel of your own, one test target
  cargo kernels test -k 6.12 -- maps                 only tests with `maps` in their name

Exit codes: 0 all passed; 1 a kernel failed a test; 2 wrong usage; 3 something could not be run")]
    Test(Box<flags::Vmtest>),
    /// Run one program in a restored guest, as cargo's runner
    Run(flags::Exec),
    /// The pinned kernels.
    #[command(flatten)]
    Pins(flags::Kernels),
    /// What `cargo xtask` does, too.
    #[command(flatten)]
    Common(flags::Command),
}

fn main() -> ExitCode {
    // Cargo starts `cargo-kernels kernels …`; people may leave the second word out.
    let mut args: Vec<_> = std::env::args_os().collect();
    if args.get(1).is_some_and(|word| word == "kernels") {
        args.remove(1);
    }
    let command = CargoKernels::parse_from(args).command;
    exit::conclude(Dirs::find().and_then(|dirs| match command {
        Command::Test(flags) => vmtest::run(&dirs, &flags),
        Command::Run(flags) => exec::as_runner(&dirs, &flags),
        Command::Pins(flags) => command::kernels::run(&dirs, &flags),
        Command::Common(flags) => command::run(&dirs, &flags, CargoKernels::command()),
    }))
}
