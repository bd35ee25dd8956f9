//! `cargo xtask test`: everything that can be tested here, step by step, and a sum at the end.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;

use cargo_kernels::dirs::Dirs;
use cargo_kernels::kernels::Arch;
use cargo_kernels::tools::{self, Need};
use cargo_kernels::{cargo, cross, exit, flags, setup};

use crate::{local, minimum_rust};

/// What must have passed in VMs for the whole to pass: a mirror may have dropped a pin, but a run
/// on hardly any kernel proves nothing.
const FEWEST_KERNELS: usize = 3;

/// `cargo xtask test`
#[derive(Debug, Clone, Args)]
pub struct Flags {
    /// First install what is missing
    #[arg(long)]
    pub setup: bool,
    /// Run the root tests on this machine's own kernel, through sudo, instead of in VMs
    #[arg(long)]
    pub local: bool,
    #[command(flatten)]
    pub vm: flags::VmArgs,
}

struct Step {
    name: &'static str,
    /// A program and its arguments, blanks between them. `xtask` is this program, with the options that say how VMs run;
    /// `oldest-cargo` is the cargo of the oldest Rust that Cargo.toml promises; `ignored` runs tests that are ignored by
    /// default. These are of the workspace, as in the first step: of one package cargo would build much again, with fewer
    /// features.
    line: &'static str,
    /// Where it fails the step is not run, which is said, and is no failure.
    needs: fn(&Dirs) -> Result<()>,
    /// Looked at when the program has succeeded.
    then: fn(&Dirs) -> Result<()>,
}

const fn step(name: &'static str, line: &'static str) -> Step {
    Step { name, line, needs: |_| Ok(()), then: |_| Ok(()) }
}

#[rustfmt::skip]
const STEPS: &[Step] = &[
    step("tests that need no VM", "cargo test --workspace --no-fail-fast -- --quiet"),
    step("the workspace, with the oldest Rust that it promises",
        "oldest-cargo check --workspace --all-targets --locked"),
    Step { then: enough_kernels, ..step("the tests on every kernel that can be had, booted",
        "xtask vmtest --allow-unavailable --report target/vmtest/report") },
    Step { then: enough_kernels, ..step("the tests on every kernel that can be had, restored",
        "xtask vmtest --warm --allow-unavailable --report target/vmtest/report") },
    step("the long tests, on one kernel", "xtask vmtest --warm -k 6.12 -- --ignored"),
    step("mutants of the program, on one kernel", "xtask selftest -k 6.12"),
    Step { needs: |dirs| Arch::named("arm64").map_or(Ok(()), |arch| cross::require(dirs, arch)),
        ..step("an arm64 kernel, restored", "xtask vmtest --warm --arch arm64 -k 6.12") },
    step("faults: programs, guests and hosts that misbehave", "ignored --test faults"),
    step("projects that know nothing of the harness", "ignored --test projects"),
    step("what verifiers say of programs", "ignored --test load"),
    step("what verifiers say of the tracer", "ignored --test repository program::"),
    step("the workflow", "ignored --test repository github_workflow::"),
    Step { needs: |dirs| tools::find(dirs, "nix").map(drop),
        ..step("the flake, against a mock of nixpkgs", "ignored --test repository nix_flake::") },
    Step { needs: |dirs| tools::find(dirs, "chromium").map(drop),
        ..step("report.html in a browser", "ignored --lib in_chromium") },
];

/// Runs the command. A failing step is no error: the others still run.
pub fn run(dirs: &Dirs, flags: &Flags) -> Result<u8> {
    if flags.setup {
        setup::ensure(dirs, &[Need::Test])?;
        minimum_rust::install(dirs)?;
    }
    if flags.local {
        return local::tests(dirs);
    }
    // Asked once: cargo may replace the file while this program runs.
    let xtask = std::env::current_exe().context("cannot find this program")?;
    let mut ends = Vec::new();
    for step in STEPS {
        println!("\n== {}", step.name);
        let begun = Instant::now();
        let end = match (step.needs)(dirs).map(|()| step.run(dirs, &xtask, flags)) {
            Ok(Ok(())) => "passed",
            Ok(Err(error)) => {
                eprintln!("error: {}: {error:#}", step.name);
                "failed"
            }
            Err(missing) => {
                println!("{missing:#}");
                "not run"
            }
        };
        println!("== {end} after {:.0} s", begun.elapsed().as_secs_f64());
        ends.push(end);
    }
    let count = |word: &str| ends.iter().filter(|end| **end == word).count();
    println!();
    for (step, end) in STEPS.iter().zip(&ends) {
        println!("{end:8}  {}", step.name);
    }
    let (passed, failed, not_run) = (count("passed"), count("failed"), count("not run"));
    println!("\n{passed} passed, {failed} failed, {not_run} skipped");
    Ok(if failed == 0 { exit::OK } else { exit::FAILED })
}

impl Step {
    fn run(&self, dirs: &Dirs, xtask: &Path, flags: &Flags) -> Result<()> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let (program, line) = self.line.split_once(' ').unwrap_or((self.line, ""));
        let mut arguments: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let program = match program {
            "oldest-cargo" => return minimum_rust::run(dirs, &arguments),
            "xtask" => {
                // Options go right after the command's name: the end may be behind a `--`.
                let timeout = flags.vm.timeout.map(|seconds| format!("--timeout={seconds}"));
                let accel = flags.vm.accel.map_or("auto", |accel| accel.name());
                arguments.splice(1..1, timeout.into_iter().chain([format!("--accel={accel}")]));
                xtask.into()
            }
            "ignored" => {
                arguments.splice(0..0, ["test", "--workspace", "--quiet"].map(str::to_owned));
                arguments.extend(["--", "--ignored"].map(str::to_owned));
                // Cargo calls it a success if no test has such a name.
                let list = command(dirs, &cargo, &arguments)?.arg("--list").stderr(Stdio::inherit()).output()?;
                ensure!(list.status.success(), "{}", list.status);
                ensure!(String::from_utf8_lossy(&list.stdout).contains(": test\n"), "there is no such test");
                // Most of them wait for a guest or a deadline, so that two cores have time for more than two.
                arguments.extend(["--test-threads", "4"].map(str::to_owned));
                cargo
            }
            _ => cargo,
        };
        let status =
            command(dirs, &program, &arguments)?.status().with_context(|| format!("cannot run {program:?}"))?;
        ensure!(status.success(), "{status}");
        (self.then)(dirs)
    }
}

fn command(dirs: &Dirs, program: &OsStr, arguments: &[String]) -> Result<Command> {
    let mut command = Command::new(program);
    command.current_dir(&dirs.project).args(arguments);
    command.env(cargo::TARGET_DIR, cargo::plain_target(dirs, &dirs.target)?);
    Ok(command)
}

fn enough_kernels(dirs: &Dirs) -> Result<()> {
    let path = dirs.project.join("target/vmtest/report/report.json");
    let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let report: serde_json::Value = serde_json::from_slice(&text).context("report.json")?;
    let kernels = report["kernels"].as_array().into_iter().flatten();
    let passed = kernels.filter(|kernel| kernel["verdict"] == "pass").count();
    let fewest = FEWEST_KERNELS;
    ensure!(passed >= fewest, "only {passed} kernels could be tested, and fewer than {fewest} prove too little");
    Ok(())
}
