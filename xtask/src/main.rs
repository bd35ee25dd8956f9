//! `cargo xtask`: see `cargo xtask --help`, and docs/architecture.md for the way through the code.

mod inspect;
mod local;
mod minimum_rust;
mod test;

use std::path::PathBuf;
use std::process::ExitCode;

use cargo_kernels::dirs::Dirs;
use cargo_kernels::{build, command, exit, flags, vmtest};
use clap::{CommandFactory, Parser, Subcommand};

/// Proves a BPF program on pinned kernels.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, about, max_term_width = 100)]
struct Xtask {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Boot kernels and run the tests in them
    #[command(after_help = "\
Examples:
  cargo xtask vmtest -k 6.12              one pinned kernel
  cargo xtask vmtest -k 5.10,6.1 --warm   two, from snapshots
  cargo xtask vmtest -k ./bzImage         a kernel of your own
  cargo xtask vmtest -- one_line          only tests with `one_line` in their name

Exit codes: 0 all passed; 1 a kernel failed a test; 2 wrong usage; 3 something could not be run")]
    Vmtest(Box<flags::Vmtest>),
    /// The pinned kernels: list, fetch, verify, add, prune
    #[command(subcommand, after_help = flags::KERNELS_HELP)]
    Kernels(flags::Kernels),
    /// Run every test: those that need no VM, then vmtest on the pins that can be had
    Test(test::Flags),
    /// Build the program as one static executable and print its path
    Build,
    /// Build the program and run it here, through sudo
    Run {
        /// Passed to the program
        #[arg(last = true, value_name = "ARGS")]
        args: Vec<String>,
    },
    /// Show sections, symbols and bytecode of the BPF object
    Inspect {
        /// A BPF object file [default: the one the build made]
        #[arg(value_name = "OBJECT")]
        object: Option<PathBuf>,
    },
    /// What `cargo kernels` does, too.
    #[command(flatten)]
    Common(flags::Command),
}

fn main() -> ExitCode {
    let command = Xtask::parse().command;
    exit::conclude(Dirs::find().and_then(|dirs| match command {
        Command::Test(flags) => test::run(&dirs, &flags),
        Command::Build => build::run(&dirs),
        Command::Run { args } => local::program(&dirs, &args),
        Command::Inspect { object } => inspect::run(&dirs, object),
        Command::Vmtest(flags) => vmtest::run(&dirs, &flags),
        Command::Kernels(flags) => command::kernels::run(&dirs, &flags),
        Command::Common(command) => command::run(&dirs, &command, Xtask::command()),
    }))
}
