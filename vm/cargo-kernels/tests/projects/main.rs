//! `cargo kernels` on a project that knows nothing of it: `any`, a workspace with tests of every kind.
#![allow(clippy::unwrap_used)]

mod page;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// The kernel that all is shown on; one that boots quickly.
const KERNEL: &str = "6.1";
const TOOL: &str = env!("CARGO_BIN_EXE_cargo-kernels");
const PROJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/projects/any");

fn in_project(program: &str) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(PROJECT)
        .env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("any"))
        .envs([("FROM_OUTSIDE", "out side"), ("SECRET", "x")])
        .env_remove("GITHUB_STEP_SUMMARY");
    command
}

/// `cargo kernels test` with these options, restored; tests are chosen by what follows `--`.
fn test(options: &[&str]) -> Command {
    let mut command = in_project(TOOL);
    command.args(["test", "--warm", "-k", KERNEL, "--env", "FROM_OUTSIDE"]).args(options);
    command
}

fn said(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// The exit code, the one kernel's part of report.json, and results by binary and test.
fn reported(options: &[&str]) -> (i32, Value, BTreeMap<String, String>) {
    let dir = tempfile::tempdir().unwrap();
    let output = test(&[&["--report", dir.path().to_str().unwrap()], options].concat()).output().unwrap();
    let report = std::fs::read(dir.path().join("report.json"));
    let report = report.unwrap_or_else(|error| panic!("no report: {error}; {}", said(&output)));
    let report: Value = serde_json::from_slice(&report).unwrap();
    let kernel = report["kernels"][0].clone();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let tests = kernel["tests"].as_array().unwrap().iter();
    let results = tests.map(|test| (text(&test["binary"]) + " " + &text(&test["name"]), text(&test["result"])));
    let results = results.collect();
    (output.status.code().unwrap(), kernel, results)
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn every_kind_of_test_runs_as_under_cargo_test() {
    let (code, _, mut results) = reported(&[]);
    assert_eq!((code, results.remove("one::lists bad").as_deref()), (1, Some("failed")));
    for test in [
        "one tests::of_the_library",
        "one tests::that_should_panic",
        "one::bin/one tests::of_a_binary",
        "one::lists good",
        "one::own-harness ",
        "one::same a_module",
        "two::same of_two",
    ] {
        assert!(results.contains_key(test), "{test} is not among {results:?}");
    }
    assert_eq!(results.len(), 15, "{results:?}");
    assert!(results.values().all(|result| result == "passed"), "{results:?}");
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn programs_bring_libraries_without_host_root() {
    let options = ["--root", "minimal", "-p", "one", "--test", "same", "--", "--skip", "host_"];
    let (code, kernel, results) = reported(&options);
    assert_eq!((code, results.len()), (0, 8), "{kernel:#}");
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn a_test_that_ends_its_guest_or_eats_its_memory_is_told_so() {
    for (test, verdict, words) in [("reboots", "fail", "the guest shut down"), ("eats_memory", "fail", "--memory")] {
        let (code, kernel, _) = reported(&["-p", "one", "--test", "same", "--", "--ignored", test]);
        let reason = kernel["reason"].as_str().unwrap();
        assert_eq!((code, kernel["verdict"].as_str()), (1, Some(verdict)), "{reason}");
        assert!(reason.contains(words), "{reason}");
    }
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn guest_options_keep_and_retries_take_effect() {
    // In the layer above the host's root, where a directory and a file in it are of two devices.
    let options = ["--cpus", "2", "--keep", "/var/kept", "--retries", "1", "-p", "one", "--test", "same"];
    let output = test(&options).args(["--", "--ignored", "two_processors", "passes_the"]).output().unwrap();
    let said = said(&output);
    assert!(output.status.success() && said.contains("flaky: passes_the_second_time"), "{said}");
    let path = said.lines().find_map(|line| line.split_once(" KiB in ")).unwrap().1;
    let kept = Command::new("tar").args(["xOf", path, "var/kept/file"]).output().unwrap();
    assert_eq!(kept.stdout, b"kept", "{kept:?}");
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn the_directory_chooses_the_package_as_with_cargo() {
    let list = |directory: &str, options: &[&str]| {
        let mut list = in_project(TOOL);
        list.current_dir(Path::new(PROJECT).join(directory)).args(["test", "--list", "-k", KERNEL]).args(options);
        said(&list.output().unwrap())
    };
    let (two, other) = (list("two", &[]), list("one", &["--manifest-path", "../two/Cargo.toml"]));
    assert!(two.contains("two") && !two.contains("one::"), "{two}");
    assert!(other.contains("two") && !other.contains("one::"), "{other}");
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn as_cargo_s_runner_it_hands_everything_on() {
    let runner = format!("{TOOL} run -k {KERNEL} --");
    let mut cargo = in_project(env!("CARGO"));
    cargo.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", runner);
    let output = cargo.args(["test", "-p", "one", "--lib", "--test", "lists", "--", "good"]).output().unwrap();
    let said = said(&output);
    // The harness `lists` refuses to be run without a test's exact name.
    assert!(said.contains("running 0 tests") && said.contains("[\"good\"]"), "{said}");
    assert!(!output.status.success(), "{said}");

    let script = "cat; echo error >&2; pwd; echo \"$SECRET\"; exit 42";
    let mut run = in_project(TOOL);
    run.args(["run", "-k", KERNEL, "--", "sh", "-c", script]);
    let mut child = run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"input\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("input\n{PROJECT}\nx\n"));
    assert_eq!((output.status.code(), &*output.stderr), (Some(42), &b"error\n"[..]));
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn untestable_project_is_usage_error_in_one_sentence() {
    let elsewhere = tempfile::tempdir().unwrap();
    for (directory, options, words) in [
        (Path::new(PROJECT), &["-p", "one", "--lib", "--", "no_such_test"][..], "no test matches `no_such_test`"),
        (elsewhere.path(), &[], "there is no cargo project in"),
        (Path::new(PROJECT), &["-p", "two", "--bins"], "cargo has nothing to test here"),
    ] {
        let output = test(options).current_dir(directory).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).contains(words), "{}", said(&output));
    }
}
