//! `cargo kernels load`: programs that one real kernel refuses and another loads.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// Object, program, kernel, and the class of the refusal; none if it loads.
#[rustfmt::skip]
const ANSWERS: &[(&str, &str, &str, Option<&str>)] = &[
    ("helpers", "func_ip", "5.10", Some("helper")),
    ("helpers", "func_ip", "6.1", None),
    ("helpers", "callback", "5.10", Some("callback")),
    ("helpers", "callback", "6.1", None),
    ("helpers", "type_syscall", "5.10", Some("type")),
    ("helpers", "type_syscall", "6.1", None),
    ("helpers", "not_for_sockets", "6.1", Some("helper-not-here")),
    ("licence", "prints", "6.1", Some("licence")),
    ("refused", "null_pointer", "6.1", Some("memory-access")),
    ("refused", "endless", "6.1", Some("loop")),
    ("refused", "deep_stack", "5.10", Some("stack")),
];

fn compiled(name: &str, into: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/load/{name}.bpf.c"));
    let object = into.join(format!("{name}.bpf.o"));
    let mut clang = Command::new("clang");
    clang.args(["-target", "bpf", "-g", "-O2", "-c", "-o"]).args([&object, &source]);
    let output = clang.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    object
}

fn load(objects: &[PathBuf], options: &[&str]) -> Output {
    let mut load = Command::new(env!("CARGO_BIN_EXE_cargo-kernels"));
    load.arg("load").args(objects).args(options).output().unwrap()
}

#[test]
#[ignore = "restores VMs: `cargo xtask test` runs it"]
fn each_kernel_s_verifier_is_understood() {
    let dir = tempfile::tempdir().unwrap();
    let objects = ["helpers", "licence", "refused"].map(|name| compiled(name, dir.path()));
    let output = load(&objects, &["-k", "5.10,6.1", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = json["rows"].as_array().unwrap();
    for (object, program, kernel, class) in ANSWERS {
        let wanted = [("object", format!("{object}.bpf.o")), ("program", program.to_string())];
        let is_it = |row: &&Value| row["kernel"] == *kernel && wanted.iter().all(|(key, value)| row[*key] == **value);
        let row = rows.iter().find(is_it).unwrap_or_else(|| panic!("no {object} {program}"));
        let verdict = if class.is_some() { "refused" } else { "loaded" };
        assert_eq!((row["verdict"].as_str(), row["class"].as_str()), (Some(verdict), *class), "{row:#}");
    }
}

#[test]
#[ignore = "restores VMs: `cargo xtask test` runs it"]
fn a_baseline_fails_on_growth_and_the_minimum_is_the_oldest_that_loads_all() {
    let dir = tempfile::tempdir().unwrap();
    let objects = [compiled("helpers", dir.path())];
    let baseline = dir.path().join("baseline.json");
    let path = baseline.to_str().unwrap();
    let one = ["-k", "6.1", "--prog", "counted"];
    assert!(load(&objects, &[&one[..], &["--save", path]].concat()).status.success());
    assert!(load(&objects, &[&one[..], &["--baseline", path]].concat()).status.success());
    let kept = std::fs::read_to_string(&baseline).unwrap();
    assert!(kept.contains("97"), "{kept}");
    std::fs::write(&baseline, kept.replace("97", "80")).unwrap();
    let grown = load(&objects, &[&one[..], &["--baseline", path]].concat());
    assert_eq!(grown.status.code(), Some(1), "{}", String::from_utf8_lossy(&grown.stdout));

    let options = ["-k", "5.10,6.1,6.12", "--minimum", "--optional", "not_for_sockets"];
    let output = load(&objects, &options);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("6.1"), "{said}");
}
