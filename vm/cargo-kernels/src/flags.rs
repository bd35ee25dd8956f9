//! The command line that `cargo kernels` and `cargo xtask` have in common.
#![allow(missing_docs, reason = "a field without help is what its type is")]

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use vm_guest::accel::Accel;
use vm_kernels::Arch;

use crate::engine::Options;
use crate::launch::VmOptions;
use crate::metadata::{LONGEST_S, Metadata, RootChoice};
use crate::payload::Chosen;
use crate::selection::Selection;

/// What changes where kernels come from.
pub const KERNELS_HELP: &str = "\
Environment:
  VMTEST_CACHE_DIR       the cache [default: vmtest in the user's cache directory]
  VMTEST_NIX_KERNELS     a directory of kernels, one for each pin; `nix develop` sets it
  VMTEST_KERNELS_TOML    a list of pins, instead of the built-in one and kernels.toml
  VMTEST_DEBIAN_ARCHIVE  an https address that serves files by SHA-1, instead of Debian's archive
  http_proxy, https_proxy, no_proxy, SSL_CERT_FILE, SSL_CERT_DIR  as for other programs";

/// The commands that both have under the same name; one module a variant.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Install what the host needs (Debian, Ubuntu), or list it
    Setup {
        /// Install, too, what kernels of another architecture need
        #[arg(long, value_name = "ARCH", value_parser = architecture)]
        arch: Option<&'static Arch>,
        /// Only say what would be installed
        #[arg(long)]
        dry_run: bool,
    },
    /// Show what the host needs, whether it works, and what to do
    Doctor {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// An interactive shell in a kernel
    Shell(Shell),
    /// One command in a kernel
    Exec(Exec),
    /// Say what every kernel's verifier says of a BPF object
    Load(Box<Load>),
    /// Measure the time to a verdict against a bare QEMU boot
    Bench(Bench),
    /// Run mutants of the program, each of which must be caught
    Selftest(KernelArgs),
    /// Print the pins as a CI matrix (JSON)
    Matrix,
    /// Print a shell's completions
    Completions {
        /// bash, zsh, fish, ...
        shell: clap_complete::Shell,
    },
}

/// Which kernels, and how their VMs run.
#[derive(Debug, Clone, Default, Args)]
pub struct KernelArgs {
    /// A pin's name (5.4), a kernel image, or a directory with an image and lib/modules;
    /// repeatable, comma-separated [default: every pin that is not extra]
    #[arg(short, long = "kernel", value_name = "K", value_delimiter = ',')]
    pub kernels: Vec<String>,
    #[command(flatten)]
    pub of: ArchArgs,
    #[command(flatten)]
    pub vm: VmArgs,
}

/// What kernels are for.
#[derive(Debug, Clone, Default, Args)]
pub struct ArchArgs {
    /// What they are for: x86_64, arm64; comma-separated [default: this machine's]
    #[arg(long = "arch", value_name = "ARCH", value_delimiter = ',', value_parser = architecture)]
    pub arches: Vec<&'static Arch>,
}

fn architecture(name: &str) -> Result<&'static Arch, String> {
    Arch::named(name).ok_or_else(|| format!("expected one of {}", Arch::names()))
}

#[derive(Debug, Clone, Default, Args)]
pub struct VmArgs {
    /// Hardware virtualization or emulation; auto tries whether KVM works
    // To clap, which goes by its short name only, this is a value and not an argument that may be missing.
    #[arg(long, default_value = "auto", value_parser = accel())]
    pub accel: std::option::Option<Accel>,
    /// Seconds that a kernel's run may take, from when the kernel is fetched: waiting, saving, booting and all tests
    /// [default: 60 under KVM or 180 under TCG, plus test-timeout-s, plus 5 or 15 for each test; 600 for load, none for
    /// exec]
    #[arg(long, value_name = "S", value_parser = positive_seconds)]
    pub timeout: Option<f64>,
}

fn accel() -> impl TypedValueParser<Value = Option<Accel>> {
    let named = |given: String| [Accel::Kvm, Accel::Tcg].into_iter().find(|accel| accel.name() == given);
    PossibleValuesParser::new(["auto", "kvm", "tcg"]).map(named)
}

#[derive(Debug, Clone, Default, Args)]
pub struct Vmtest {
    #[command(flatten)]
    pub select: KernelArgs,
    #[command(flatten)]
    pub guest: GuestArgs,
    #[command(flatten)]
    pub selection: Selection,
    /// Restore a snapshot instead of booting; the first run of a kernel makes it
    #[arg(long)]
    pub warm: bool,
    /// Give each test a guest of its own (implies --warm)
    #[arg(long)]
    pub isolate: bool,
    /// Run a test that fails up to N times more; one that passes then is called flaky
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub retries: u32,
    /// Run no further test on a kernel once one has failed there
    #[arg(long, overrides_with = "no_fail_fast")]
    pub fail_fast: bool,
    /// Run all tests, whatever fails (the default)
    #[arg(long)]
    pub no_fail_fast: bool,
    /// A variable for the tests, with its value here or this one; repeatable
    #[arg(long = "env", value_name = "NAME[=VALUE]", value_parser = env_var)]
    pub env: Vec<(String, String)>,
    /// Rerun when sources change
    #[arg(long)]
    pub watch: bool,
    /// How many kernels run at once [default: one per core]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub jobs: Option<u16>,
    /// Run only the M-th of N shares of the kernels
    #[arg(long, value_name = "M/N", value_parser = partition)]
    pub partition: Option<(usize, usize)>,
    /// Write report.json, junit.xml, summary.md, report.html and the console logs here
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,
    /// Show what each kernel says of the program: BTF, JIT, sizes, cost of an event
    #[arg(long)]
    pub facts: bool,
    /// List the tests instead of running them
    #[arg(long)]
    pub list: bool,
    /// Do not fail because a kernel is unavailable
    #[arg(long)]
    pub allow_unavailable: bool,
    /// Do not fail because a kernel printed a warning while the tests passed
    #[arg(long)]
    pub allow_kernel_warnings: bool,
    /// First install what is missing
    #[arg(long)]
    pub setup: bool,
    /// Only tests with this in their names
    #[arg(value_name = "TESTNAME", value_parser = test_name)]
    pub filter: Option<String>,
    /// Passed to the test binaries, as to `cargo test --`: filters, --ignored, --skip, --exact
    #[arg(last = true, value_name = "TEST-ARGS")]
    pub test_args: Vec<String>,
}

fn absolute(path: &str) -> Result<String, String> {
    path.starts_with('/').then(|| path.to_owned()).ok_or("expected an absolute path, as it is in the guest".into())
}

/// No test is called `6.1`, and a kernel that was meant must not choose tests.
fn test_name(text: &str) -> Result<String, String> {
    let is_name =
        text.contains(|c: char| c.is_alphabetic() || c == '_') && !text.starts_with(|c: char| c.is_ascii_digit());
    is_name
        .then(|| text.to_owned())
        .ok_or("expected a part of a test's name; kernels are given with -k, commas between".into())
}

fn partition(text: &str) -> Result<(usize, usize), String> {
    let parsed = text.split_once('/').and_then(|(m, n)| Some((m.parse().ok()?, n.parse().ok()?)));
    let valid = parsed.filter(|(share, count)| (1..=*count).contains(share));
    valid.ok_or("expected M/N with 1 <= M <= N, such as 1/3".into())
}

fn positive_seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds: &f64| *seconds > 0.0 && *seconds <= LONGEST_S);
    seconds.ok_or(format!("expected a number of seconds above 0 and up to {LONGEST_S}"))
}

#[derive(Debug, Clone, Subcommand)]
pub enum Kernels {
    /// Show the pins and which are cached
    List {
        #[command(flatten)]
        of: ArchArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Get kernels into the cache
    Fetch(Pins),
    /// Hash again what is in the cache
    Verify(Pins),
    /// Pin another kernel
    Add {
        /// The pin's name, such as 6.14
        name: String,
        /// An https address, a file, or a release of kernel.org's such as 6.6.144, which is built from source
        #[arg(value_name = "URL|PATH|RELEASE")]
        from: String,
    },
    /// Remove what no pin names, and snapshots
    Prune {
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Clone, Args)]
pub struct Pins {
    #[command(flatten)]
    pub of: ArchArgs,
    /// Pins [default: all]
    #[arg(value_name = "K")]
    pub names: Vec<String>,
}

/// `NAME=VALUE`, or the value that `NAME` has here.
fn env_var(text: &str) -> Result<(String, String), String> {
    let given = text.split_once('=').map(|(name, value)| (name, Ok(value.to_owned())));
    let (name, value) = given.unwrap_or_else(|| (text, std::env::var(text)));
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(is_name) {
        return Err("expected NAME or NAME=VALUE".into());
    }
    Ok((name.to_owned(), value.map_err(|error| error.to_string())?))
}

/// `cargo xtask shell`, and the part of `exec` that is the same: one kernel's guest.
#[derive(Debug, Clone, Args)]
pub struct Shell {
    /// A pin's name, a kernel image, or a directory [default: the one that metadata.kernels names]
    #[arg(short, long = "kernel", value_name = "K")]
    pub kernel: Option<String>,
    /// What it is for: x86_64, arm64 [default: this machine's]
    #[arg(long, value_name = "ARCH", value_parser = architecture)]
    pub arch: Option<&'static Arch>,
    /// A variable of the guest's environment, with its value here or this one; repeatable
    #[arg(long = "env", value_name = "NAME[=VALUE]", value_parser = env_var)]
    pub env: Vec<(String, String)>,
    #[command(flatten)]
    pub vm: VmArgs,
}

#[derive(Debug, Clone, Args)]
pub struct Exec {
    #[command(flatten)]
    pub one: Shell,
    #[command(flatten)]
    pub guest: GuestArgs,
    /// Restore a snapshot instead of booting; the first run of a kernel makes it
    #[arg(long)]
    pub warm: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// What a guest is like; each comes before what metadata.kernels says.
#[derive(Debug, Clone, Default, Args)]
pub struct GuestArgs {
    /// The guest's memory in MiB [default: 512]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(64..))]
    pub memory: Option<u32>,
    /// How many processors it has [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub cpus: Option<u32>,
    /// What programs find as their root directory [default: auto]
    #[arg(long, value_name = "WHAT")]
    pub root: Option<RootChoice>,
    /// Copy this directory of the guest out at the end, as a tar archive beside the console's log
    #[arg(long, value_name = "DIR", value_parser = absolute)]
    pub keep: Option<String>,
}

impl VmArgs {
    pub fn options(&self) -> VmOptions {
        VmOptions { accel: self.accel, timeout: self.timeout.map(Duration::from_secs_f64) }
    }
}

impl Vmtest {
    /// How the tests are run.
    pub fn options(&self) -> Options {
        Options {
            vm: self.select.vm.options(),
            keep: self.guest.keep.clone(),
            retries: self.retries,
            fail_fast: self.fail_fast,
            // The reports have them.
            facts: self.facts || self.report.is_some(),
            allow_unavailable: self.allow_unavailable,
            allow_kernel_warnings: self.allow_kernel_warnings,
        }
    }

    /// What is tested.
    pub fn chosen(&self) -> Chosen {
        Chosen {
            cargo_args: self.selection.0.clone(),
            test_args: self.filter.iter().chain(&self.test_args).cloned().collect(),
            env: self.env.clone(),
        }
    }
}

impl GuestArgs {
    /// The metadata with these instead of its own.
    pub fn over(&self, mut metadata: Metadata) -> Metadata {
        metadata.memory_mib = self.memory.unwrap_or(metadata.memory_mib);
        metadata.cpus = self.cpus.unwrap_or(metadata.cpus);
        metadata.root = self.root.unwrap_or(metadata.root);
        metadata
    }
}

#[derive(Debug, Clone, Args)]
pub struct Bench {
    #[command(flatten)]
    pub select: KernelArgs,
    /// How often each way is measured
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub rounds: u16,
    /// Print one JSON object a kernel
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  cargo kernels load tracer.bpf.o                      on every pin
  cargo kernels load target/release/tracer -k 5.4,6.12 the object that a skeleton embeds
  cargo kernels load tracer.bpf.o --minimum            the oldest kernel on which all programs load
  cargo kernels load *.bpf.o --save load.json          to be compared with `--baseline load.json`

Exit codes: 0 all loaded; 1 a program was refused or has grown; 2 wrong usage; 3 something could not be run")]
pub struct Load {
    /// BPF objects, and executables that embed some
    #[arg(required = true, value_name = "OBJ")]
    pub objects: Vec<PathBuf>,
    #[command(flatten)]
    pub select: KernelArgs,
    /// How many kernels run at once [default: one per core]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub jobs: Option<u16>,
    /// Only this program; repeatable
    #[arg(long = "prog", value_name = "NAME")]
    pub programs: Vec<String>,
    /// A program that is loaded although its section begins with `?`; repeatable
    #[arg(long, value_name = "NAME")]
    pub autoload: Vec<String>,
    /// A program that may be refused; repeatable
    #[arg(long, value_name = "NAME")]
    pub optional: Vec<String>,
    /// A global variable's value before loading; repeatable
    #[arg(long, value_name = "VAR=NUMBER", value_parser = variable)]
    pub set: Vec<(String, i64)>,
    /// Show the verifier's log of every program, of level 1 or 2
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(u8).range(1..=2))]
    pub log: Option<u8>,
    /// Say on which kernel, of those that could be run, all programs load first
    #[arg(long)]
    pub minimum: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Write load.json, junit.xml, summary.md, load.html and the logs here
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,
    /// Write what was seen to a file for --baseline
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,
    /// Fail only where it is worse than this file says
    #[arg(long, value_name = "FILE")]
    pub baseline: Option<PathBuf>,
    /// By how much the instructions that are verified may grow
    #[arg(long, value_name = "PERCENT", default_value = "10%", value_parser = percent)]
    pub max_growth: f64,
}

fn variable(text: &str) -> Result<(String, i64), String> {
    let (name, value) = text.split_once('=').ok_or("expected VAR=NUMBER")?;
    let number = match value {
        "true" => Some(1),
        "false" => Some(0),
        _ => match value.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok().map(|number| number as i64),
            None => value.parse().ok().or_else(|| Some(value.parse::<u64>().ok()? as i64)),
        },
    };
    Ok((name.into(), number.ok_or("expected a number, true or false after the =")?))
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse();
    number.ok().filter(|number: &f64| *number >= 0.0).ok_or("expected a number such as 10%".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_one_of_so_many() {
        assert_eq!(partition("2/3"), Ok((2, 3)));
        for wrong in ["0/3", "4/3", "1/0", "-1/3", "1", "a/b", ""] {
            assert!(partition(wrong).is_err(), "{wrong}");
        }
    }
}
