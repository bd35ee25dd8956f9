//! What tests print, write and leave behind, and what must come of it: a pass, and reports that can be read.

use std::fs;
use std::process::Stdio;

use crate::support::{Process, Run, Scene, test, tool};

/// What of a test's output is kept, in bytes.
const OUTPUT: usize = 64 * 1024;

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn tests_misbehave_and_pass() {
    let scene = Scene::new();
    let qemu = tool("VMTEST_QEMU", "qemu-system-x86_64");
    // The guest's clock is wrong when it starts.
    let qemu = format!(
        "case $1 in --version) exec '{0}' \"$1\" ;; *) exec '{0}' \"$@\" -rtc base=1970-01-02 ;; esac",
        qemu.display()
    );
    let mut vmtest = scene.vmtest(&["--accel", "tcg"], "contained::");
    vmtest.env("VMTEST_QEMU", scene.script("qemu", &qemu));

    let ended = Run::start(&scene, vmtest).end_within_memory();

    let kernel = ended.expect("pass", 0, "");
    let flood = test(&kernel, "contained::floods_stdout");
    assert!(flood["dropped_bytes"].as_u64().unwrap() > 199_000_000, "{}", flood["dropped_bytes"]);
    let tests = kernel["tests"].as_array().unwrap();
    for test in tests {
        assert!(test["output"].as_str().unwrap().len() <= OUTPUT, "{}", test["name"]);
        let seconds = test["seconds"].as_f64().unwrap();
        assert!((0.0..600.0).contains(&seconds), "{} s for {}: the clock was set", seconds, test["name"]);
    }
    let text = test(&kernel, "contained::prints_what_is_no_text")["output"].as_str().unwrap();
    assert!(text.contains("\u{fffd}\u{fffd}\u{fffd}( invalid, \0 a NUL"), "{text:?}");
    assert!(!ended.printed.contains(['\0', '\x1b', '\x07']), "{:?}", ended.printed);

    let junit = fs::read_to_string(scene.reports().join("junit.xml")).unwrap();
    let junit = quick_junit::Report::deserialize_from_str(&junit).unwrap();
    assert_eq!((junit.tests, junit.failures, junit.errors), (tests.len(), 0, 0));
    let summary = fs::read_to_string(scene.reports().join("summary.md")).unwrap();
    assert!(!summary.contains(['\0', '\x1b', '\u{202e}']), "{summary:?}");
}

/// A pipe that nobody reads.
fn nobody() -> Stdio {
    let (reader, writer) = nix::unistd::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[test]
fn a_reader_goes_away() {
    let scene = Scene::new();
    let output = scene.harness().arg("matrix").stdout(nobody()).output().unwrap();
    assert!(output.status.success(), "{}", output.status);
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn a_reader_of_verdicts_goes_away() {
    let scene = Scene::new();
    let mut vmtest = scene.vmtest(&["--warm"], "contained::prints_the_agents_words");
    let output = vmtest.stdout(nobody()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", output.status);
    assert_eq!(scene.reported()["verdict"], "pass");
    assert_eq!(Process::marked(&scene.mark()), []);
}
