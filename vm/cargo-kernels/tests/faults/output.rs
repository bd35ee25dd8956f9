//! What tests print, write and leave behind, and what must come of it: a pass, and reports that can be read.

use std::fs;
use std::process::Stdio;

use crate::support::{Process, Run, Scene, Verdict};

/// What `xtask` itself may use, in bytes.
pub const MEMORY: u64 = 200 * 1000 * 1000;
/// What of a test's output is kept, in bytes.
const OUTPUT: usize = 64 * 1024;

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn tests_misbehave_and_pass() {
    let scene = Scene::new();
    let qemu = scene.qemu_with("-rtc base=1970-01-02");
    let mut vmtest = scene.xtask();
    scene.vmtest_args(&mut vmtest, &["--accel", "tcg"], "contained::");
    vmtest.env("VMTEST_QEMU", qemu);

    let (ended, peak) = Run::start(&scene, vmtest).end_with_peak();

    let verdict = ended.expect("pass", 0, "");
    assert!(peak < MEMORY, "xtask used {peak} bytes");
    println!("peak memory of xtask: {} MB", peak / 1_000_000);
    let flood = verdict.test("contained::floods_stdout");
    assert!(flood["dropped_bytes"].as_u64().unwrap() > 199_000_000, "{}", flood["dropped_bytes"]);
    for test in verdict.kernel["tests"].as_array().unwrap() {
        assert!(test["output"].as_str().unwrap().len() <= OUTPUT, "{}", test["name"]);
        let seconds = test["seconds"].as_f64().unwrap();
        assert!((0.0..600.0).contains(&seconds), "{} s for {}: the clock was set", seconds, test["name"]);
    }
    let text = verdict.test("contained::prints_what_is_no_text")["output"].as_str().unwrap();
    assert!(text.contains("\u{fffd}\u{fffd}\u{fffd}( invalid, \0 a NUL"), "{text:?}");
    the_reports_are_well_formed(&scene, verdict.kernel["tests"].as_array().unwrap().len());
    assert!(!ended.printed.contains(['\0', '\x1b', '\x07']), "{:?}", ended.printed);
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
    let output = scene.xtask().arg("matrix").stdout(nobody()).output().unwrap();
    assert!(output.status.success(), "{}", output.status);
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn a_reader_of_verdicts_goes_away() {
    let scene = Scene::new();
    let mut vmtest = scene.xtask();
    scene.vmtest_args(&mut vmtest, &["--warm"], "contained::prints_the_agents_words");
    let output = vmtest.stdout(nobody()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", output.status);
    assert_eq!(Verdict::read(&scene.reports(), 0).unwrap().word, "pass");
    assert_eq!(Process::marked(&scene.mark()), []);
}

fn the_reports_are_well_formed(scene: &Scene, tests: usize) {
    let junit = fs::read_to_string(scene.reports().join("junit.xml")).unwrap();
    let junit = quick_junit::Report::deserialize_from_str(&junit).unwrap();
    assert_eq!((junit.tests, junit.failures, junit.errors), (tests, 0, 0));
    let summary = fs::read_to_string(scene.reports().join("summary.md")).unwrap();
    assert!(!summary.contains(['\0', '\x1b', '\u{202e}']), "{summary:?}");
}
