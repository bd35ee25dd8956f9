//! `cargo xtask test`: everything that can be tested here, step by step, and a sum at the end.

use std::ffi::OsString;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::cargo;
use crate::exit;
use crate::flags;
use crate::local;
use crate::paths;
use crate::setup;
use crate::tools::{self, Tool};

/// What must have passed in VMs for the whole to pass: a mirror may have dropped a pin, but a run
/// on hardly any kernel proves nothing.
const FEWEST_KERNELS: usize = 3;

/// One kernel that is enough where one is.
const ONE_KERNEL: &str = "6.12";

/// Where the reports of the two matrices go, below the workspace.
const REPORT: &str = "target/vmtest/report";

/// One step: what it is, and what is run for it.
struct Step {
    name: &'static str,
    program: Program,
    args: &'static [&'static str],
    /// Without it the step is not run, which is said, and is no failure.
    needs: Option<Tool>,
    /// Looked at when the program has succeeded.
    then: fn() -> Result<()>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Program {
    /// Cargo itself.
    Cargo,
    /// This program, with the options that say how VMs run.
    Xtask,
    /// The cargo of the oldest Rust that Cargo.toml promises.
    MinimumCargo,
}

const STEPS: &[Step] = &[
    Step {
        name: "tests that need no VM",
        program: Program::Cargo,
        args: &["test", "--workspace", "--quiet", "--no-fail-fast"],
        needs: None,
        then: nothing,
    },
    Step {
        name: "the workspace, with the oldest Rust that it promises",
        program: Program::MinimumCargo,
        args: &["check", "--workspace", "--all-targets", "--locked", "--quiet"],
        needs: None,
        then: nothing,
    },
    Step {
        name: "the tests on every kernel at hand, booted",
        program: Program::Xtask,
        args: &["vmtest", "--allow-unavailable", "--report", REPORT],
        needs: None,
        then: enough_kernels,
    },
    Step {
        name: "the tests on every kernel at hand, restored",
        program: Program::Xtask,
        args: &["vmtest", "--warm", "--allow-unavailable", "--report", REPORT],
        needs: None,
        then: enough_kernels,
    },
    Step {
        name: "the long tests, on one kernel",
        program: Program::Xtask,
        args: &["vmtest", "--warm", "-k", ONE_KERNEL, "--", "--ignored"],
        needs: None,
        then: nothing,
    },
    Step {
        name: "mutants of the program, on one kernel",
        program: Program::Xtask,
        args: &["selftest", "-k", ONE_KERNEL],
        needs: None,
        then: nothing,
    },
    Step {
        name: "faults: programs, guests and hosts that misbehave",
        program: Program::Cargo,
        args: &["test", "--quiet", "--package", "xtask", "--test", "faults", "--", "--ignored"],
        needs: None,
        then: nothing,
    },
    Step {
        name: "a program of one's own, as its page says",
        program: Program::Cargo,
        args: &["test", "--quiet", "--package", "xtask", "--test", "fork", "--", "--ignored"],
        needs: None,
        then: nothing,
    },
    Step {
        name: "the workflow",
        program: Program::Cargo,
        args: &["test", "--quiet", "-p", "xtask", "--test", "github_workflow", "--", "--ignored"],
        needs: None,
        then: nothing,
    },
    Step {
        name: "the flake, against a mock of nixpkgs",
        program: Program::Cargo,
        args: &["test", "--quiet", "--package", "xtask", "--test", "nix_flake", "--", "--ignored"],
        needs: Some(Tool::Nix),
        then: nothing,
    },
    Step {
        name: "report.html in a browser",
        program: Program::Cargo,
        args: &["test", "--quiet", "-p", "xtask", "--bins", "in_chromium", "--", "--ignored"],
        needs: Some(Tool::Chromium),
        then: nothing,
    },
];

/// How a step ended.
enum End {
    Passed,
    Failed,
    NotRun,
}

/// Runs the command.
///
/// # Errors
/// When what the steps need cannot be installed. A failing step is no error: the others still run.
pub fn run(flags: &flags::Test) -> Result<u8> {
    if flags.setup {
        setup::ensure_for_tests()?;
        crate::minimum_rust::install()?;
    }
    if flags.local {
        return local::run();
    }
    // Asked once: cargo may replace the file while this program runs.
    let xtask = std::env::current_exe().context("cannot find this program")?;
    let mut ends = Vec::new();
    for step in STEPS {
        println!("\n== {}", step.name);
        let begun = Instant::now();
        let end = step.run(&xtask.clone().into(), flags);
        println!("== {} after {:.0} s", end.word(), begun.elapsed().as_secs_f64());
        ends.push(end);
    }
    let count = |word: &str| ends.iter().filter(|end| end.word() == word).count();
    println!();
    for (step, end) in STEPS.iter().zip(&ends) {
        println!("{:8}  {}", end.word(), step.name);
    }
    let (passed, failed, not_run) = (count("passed"), count("failed"), count("not run"));
    println!("\n{passed} passed, {failed} failed, {not_run} skipped");
    Ok(if failed == 0 { exit::OK } else { exit::FAILED })
}

impl End {
    fn word(&self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::NotRun => "not run",
        }
    }
}

impl Step {
    fn run(&self, xtask: &OsString, flags: &flags::Test) -> End {
        if let Some(Err(missing)) = self.needs.map(tools::find) {
            println!("{missing:#}");
            return End::NotRun;
        }
        match self.succeed(xtask, flags).and_then(|()| (self.then)()) {
            Ok(()) => End::Passed,
            Err(error) => {
                eprintln!("error: {}: {error:#}", self.name);
                End::Failed
            }
        }
    }

    fn succeed(&self, xtask: &OsString, flags: &flags::Test) -> Result<()> {
        let (name, rest) = self.args.split_at(1);
        let (program, options) = match self.program {
            Program::Cargo => {
                (std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()), Vec::new())
            }
            Program::Xtask => (xtask.clone(), vm_options(&flags.vm)),
            Program::MinimumCargo => return crate::minimum_rust::run(self.args),
        };
        // Options go right after the command's name: the end may be behind a `--`.
        let mut command = Command::new(program);
        command.current_dir(paths::workspace()).args(name).args(options).args(rest);
        command.env(cargo::TARGET_DIR, cargo::plain_target(&paths::target())?);
        let status =
            command.status().with_context(|| format!("cannot run {:?}", command.get_program()))?;
        if !status.success() {
            bail!("{status}");
        }
        Ok(())
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
