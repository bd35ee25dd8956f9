//! `cargo xtask test`: everything that can be tested here, step by step, and a sum at the end.

use std::ffi::OsString;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::cargo;
use crate::exit;
use crate::flags;
use crate::local;
use crate::paths;
use crate::setup;

/// What must have passed in VMs for the whole to pass: a mirror may have dropped a pin, but a run
/// on hardly any kernel proves nothing.
const FEWEST_KERNELS: usize = 3;

/// One kernel that is enough where one is.
const ONE_KERNEL: &str = "6.12";

/// One step: what it is, and what is run for it.
struct Step {
    name: &'static str,
    program: Program,
    args: &'static [&'static str],
    /// Looked at when the program has succeeded.
    then: fn() -> Result<()>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Program {
    /// Cargo itself.
    Cargo,
    /// This program.
    Xtask,
    /// This program, with the options that say how VMs run.
    Vm,
}

const STEPS: &[Step] = &[
    Step {
        name: "tests that need no VM",
        program: Program::Cargo,
        args: &["test", "--workspace", "--quiet"],
        then: nothing,
    },
    Step {
        name: "the tests on every kernel at hand",
        program: Program::Vm,
        args: &["vmtest", "--allow-unavailable", "--report", REPORT],
        then: enough_kernels,
    },
    Step {
        name: "the long tests, on one kernel",
        program: Program::Vm,
        args: &["vmtest", "-k", ONE_KERNEL, "--", "--ignored"],
        then: nothing,
    },
];

const REPORT: &str = "target/vmtest/report";

/// Runs the command.
///
/// # Errors
/// When what the steps need cannot be installed. A failing step is no error: the others still run.
pub fn run(flags: &flags::Test) -> Result<u8> {
    if flags.setup {
        setup::ensure()?;
    }
    if flags.local {
        return local::run();
    }
    let mut failed = Vec::new();
    for step in STEPS {
        println!("\n== {}", step.name);
        if let Err(error) = step.run(flags).and_then(|()| (step.then)()) {
            eprintln!("error: {}: {error:#}", step.name);
            failed.push(step.name);
        }
    }
    println!();
    for name in &failed {
        println!("failed: {name}");
    }
    println!("{} passed, {} failed", STEPS.len() - failed.len(), failed.len());
    Ok(if failed.is_empty() { exit::OK } else { exit::FAILED })
}

impl Step {
    fn run(&self, flags: &flags::Test) -> Result<()> {
        let (name, rest) = self.args.split_at(1);
        let options = match self.program {
            Program::Vm => vm_options(&flags.vm),
            Program::Cargo | Program::Xtask => Vec::new(),
        };
        // Options go right after the command's name: the end may be behind a `--`.
        let mut command = Command::new(self.program.path()?);
        command.current_dir(paths::workspace()).args(name).args(options).args(rest);
        command.env(cargo::TARGET_DIR, cargo::plain_target(&paths::target())?);
        let status = command
            .status()
            .with_context(|| format!("cannot run {}", command.get_program().display()))?;
        if !status.success() {
            bail!("{status}");
        }
        Ok(())
    }
}

impl Program {
    fn path(self) -> Result<OsString> {
        match self {
            Self::Cargo => Ok(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())),
            Self::Xtask | Self::Vm => {
                Ok(std::env::current_exe().context("cannot find this program")?.into())
            }
        }
    }
}

fn vm_options(vm: &flags::VmArgs) -> Vec<String> {
    let accel = vm.accel.to_possible_value().map(|value| value.get_name().to_owned());
    let accel = accel.into_iter().flat_map(|name| ["--accel".to_owned(), name]);
    let timeout = vm.timeout.into_iter().flat_map(|s| ["--timeout".to_owned(), s.to_string()]);
    accel.chain(timeout).collect()
}

fn nothing() -> Result<()> {
    Ok(())
}

fn enough_kernels() -> Result<()> {
    let path = paths::workspace().join(REPORT).join("report.json");
    let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let report: serde_json::Value = serde_json::from_slice(&text).context("report.json")?;
    let kernels = report["kernels"].as_array().map(Vec::as_slice).unwrap_or_default();
    let passed = kernels.iter().filter(|kernel| kernel["verdict"] == "pass").count();
    if passed < FEWEST_KERNELS {
        bail!(
            "only {passed} kernels could be tested, and fewer than {FEWEST_KERNELS} prove too little"
        );
    }
    Ok(())
}
