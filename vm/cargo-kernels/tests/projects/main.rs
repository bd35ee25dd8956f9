//! `cargo kernels` on a project that knows nothing of it: `any`, a workspace with tests of every kind.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// The kernel that all is shown on; one that boots quickly.
const KERNEL: &str = "6.1";
const TOOL: &str = env!("CARGO_BIN_EXE_cargo-kernels");

/// A run in the project, and where its report is.
struct Project {
    command: Command,
    report: TempDir,
}

impl Project {
    /// `cargo kernels test` with these options, restored; tests are chosen by what follows `--`.
    fn test(options: &[&str]) -> Self {
        let report = tempfile::tempdir().unwrap();
        let mut command = in_project(TOOL);
        command.args(["test", "--warm", "-k", KERNEL, "--report"]).arg(report.path());
        command.args(["--env", "FROM_OUTSIDE"]).args(options);
        Self { command, report }
    }

    /// The exit code, and the one kernel's part of report.json.
    fn run(mut self) -> (i32, Value) {
        let output = self.command.output().unwrap();
        let report = std::fs::read(self.report.path().join("report.json"));
        let report = report.unwrap_or_else(|error| panic!("no report: {error}; {}", said(&output)));
        let report: Value = serde_json::from_slice(&report).unwrap();
        (output.status.code().unwrap(), report["kernels"][0].clone())
    }
}

fn in_project(program: &str) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/projects/any"))
        .env("CARGO_TARGET_DIR", target())
        .envs([("FROM_OUTSIDE", "out side"), ("SECRET", "x")])
        .env_remove("GITHUB_STEP_SUMMARY");
    command
}

fn target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("any")
}

fn said(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// Results by binary and test.
fn results(kernel: &Value) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let tests = kernel["tests"].as_array().unwrap().iter();
    tests.map(|test| (text(&test["binary"]) + " " + &text(&test["name"]), text(&test["result"]))).collect()
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn every_kind_of_test_runs_as_under_cargo_test() {
    let (code, kernel) = Project::test(&[]).run();
    let mut results = results(&kernel);
    assert_eq!((code, results.remove("one::lists bad").as_deref()), (1, Some("failed")));
    for test in [
        "one tests::of_the_library",
        "one tests::that_should_panic",
        "one::bin/one tests::of_a_binary",
        "one::lists good",
        "one::own-harness ",
        "one::same a_flood",
        "two::same of_two",
    ] {
        assert!(results.contains_key(test), "{test} is not among {results:?}");
    }
    assert_eq!(results.len(), 16, "{results:?}");
    assert!(results.values().all(|result| result == "passed"), "{results:?}");
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn programs_bring_their_libraries_where_the_host_s_root_is_not() {
    let options = ["--root", "minimal", "-p", "one", "--test", "same", "--", "--skip", "host_"];
    let (code, kernel) = Project::test(&options).run();
    assert_eq!((code, results(&kernel).len()), (0, 9), "{kernel:#}");
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn a_test_that_ends_its_guest_or_eats_its_memory_is_told_so() {
    for (test, verdict, words) in [
        ("reboots", "fail", "the guest shut down"),
        ("panics_the_kernel", "panic", "sysrq triggered crash"),
        ("eats_memory", "fail", "--memory"),
    ] {
        let options = ["-p", "one", "--test", "same", "--", "--ignored", test];
        let (code, kernel) = Project::test(&options).run();
        let reason = kernel["reason"].as_str().unwrap();
        assert_eq!((code, kernel["verdict"].as_str()), (1, Some(verdict)), "{reason}");
        assert!(reason.contains(words), "{reason}");
    }
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn a_guest_has_what_was_asked_for_and_gives_out_a_directory() {
    let options = ["--cpus", "2", "--keep", "/tmp/kept", "-p", "one", "--test", "same"];
    let mut project = Project::test(&options);
    project.command.args(["--", "--ignored", "two_processors"]);
    let output = project.command.output().unwrap();
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    let path = said.lines().find_map(|line| line.split_once(" KiB in ")).unwrap().1;
    let kept = Command::new("tar").args(["xOf", path, "tmp/kept/file"]).output().unwrap();
    assert_eq!(kept.stdout, b"kept", "{kept:?}");
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn a_flaky_test_passes_and_is_named() {
    let options = ["--retries", "1", "-p", "one", "--test", "same", "--", "--ignored", "passes_the"];
    let mut project = Project::test(&options);
    let output = project.command.output().unwrap();
    assert!(output.status.success() && said(&output).contains("flaky: passes_the_second_time"));
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn as_cargo_s_runner_it_hands_everything_on() {
    let runner = format!("{TOOL} run -k {KERNEL} --");
    let mut cargo = in_project(env!("CARGO"));
    cargo.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", runner);
    let output = cargo.args(["test", "-p", "one", "--lib", "--test", "lists", "--", "good"]).output();
    let output = output.unwrap();
    let said = said(&output);
    // The harness `lists` refuses to be run without a test's exact name.
    assert!(said.contains("running 0 tests") && said.contains("[\"good\"]"), "{said}");
    assert!(!output.status.success(), "{said}");

    let script = "cat; echo error >&2; pwd; echo \"$SECRET\"; exit 42";
    let mut run = in_project(TOOL);
    run.args(["run", "-k", KERNEL, "--", "sh", "-c", script]).stdin(std::process::Stdio::piped());
    run.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = run.spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"input\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/projects/any");
    let expected = format!("input\n{}\nx\n", here.display());
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    assert_eq!((output.status.code(), &*output.stderr), (Some(42), &b"error\n"[..]));
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn what_cannot_be_tested_is_wrong_usage_and_said_in_a_sentence() {
    let elsewhere = tempfile::tempdir().unwrap();
    for (directory, options, words) in [
        (None, &["-p", "one", "--lib", "--", "no_such_test"][..], "no test matches `no_such_test`"),
        (Some(elsewhere.path()), &[], "there is no cargo project in"),
        (None, &["-p", "two", "--bins"], "cargo has nothing to test here"),
    ] {
        let mut project = Project::test(options);
        if let Some(directory) = directory {
            project.command.current_dir(directory).env_remove("CARGO_TARGET_DIR");
        }
        let output = project.command.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).contains(words), "{}", said(&output));
    }
}
