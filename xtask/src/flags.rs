//! The whole command line of `cargo xtask`.

use std::path::PathBuf;

use cargo_kernels::flags;
pub use cargo_kernels::flags::VmArgs;
use clap::{Args, Parser, Subcommand};

/// Proves a BPF program on pinned kernels.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, about, max_term_width = 100)]
pub struct Xtask {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// One variant a command, one module a variant.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boot kernels and run the tests in them
    #[command(after_help = "\
Examples:
  cargo xtask vmtest -k 6.12              one pinned kernel
  cargo xtask vmtest -k 5.10,6.1 --warm   two, from saved snapshots
  cargo xtask vmtest -k ./bzImage         a kernel of your own
  cargo xtask vmtest -- one_line          only tests with `one_line` in their name

Exit codes: 0 all passed; 1 a kernel failed a test; 2 wrong usage; 3 something could not be run")]
    Vmtest(Box<flags::Vmtest>),
    /// The pinned kernels: list, fetch, verify, add, prune
    #[command(subcommand, after_help = flags::KERNELS_HELP)]
    Kernels(flags::Kernels),
    /// Run every test: those that need no VM, then vmtest on the pins at hand
    Test(Test),
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

/// `cargo xtask test`
#[derive(Debug, Clone, Args)]
pub struct Test {
    /// First install what is missing
    #[arg(long)]
    pub setup: bool,
    /// Run the root tests on this machine's own kernel, through sudo, instead of in VMs
    #[arg(long)]
    pub local: bool,
    /// How VMs run.
    #[command(flatten)]
    pub vm: VmArgs,
}
