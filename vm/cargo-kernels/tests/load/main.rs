//! `cargo kernels load`: programs that one real kernel refuses and another loads.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// A class, a program that is refused for it, on which kernel, and the kernel that loads the same program, if one does.
#[rustfmt::skip]
const ANSWERS: &[(&str, &str, &str, Option<&str>)] = &[
    ("callback", "helpers/callback", "5.10", Some("6.1")),
    ("core-field", "core/field", "6.1", Some("5.10")),
    ("helper", "helpers/func_ip", "5.10", Some("6.1")),
    ("helper-not-here", "newer/cookie", "5.10", Some("6.1")),
    ("helper-not-here", "helpers/not_for_sockets", "6.1", None),
    ("instruction", "newer/fetches", "5.10", Some("6.1")),
    ("kconfig", "kconfig/configured", "6.1", Some("6.12")),
    ("kfunc", "kfunc/kfunc", "6.1", Some("6.12")),
    ("ksym", "ksym/variable", "6.1", Some("6.12")),
    ("ksym", "symbol/symbol", "5.10", Some("6.1")),
    ("license", "license/prints", "6.1", None),
    ("loop", "refused/endless", "6.1", None),
    ("map", "map/large_value", "5.10", Some("6.1")),
    ("memory", "memory/three_gigabytes", "6.1", None),
    ("memory-access", "refused/null_pointer", "6.1", Some("6.18")),
    ("memory-access", "refused/beyond_value", "6.18", None),
    ("return", "newer/lsm_result", "6.12", Some("6.1")),
    ("sleepable", "core/must_not_sleep", "6.12", None),
    ("stack", "newer/two_stacks", "6.12", Some("6.18")),
    ("stack", "refused/deep_stack", "5.10", None),
    ("struct-ops", "struct_ops/test_1", "5.10", Some("6.1")),
    ("target", "newer/target", "5.10", Some("6.1")),
    ("target", "core/inlined", "6.18", None),
    ("type", "helpers/type_syscall", "5.10", Some("6.1")),
    ("type", "legacy/filters", "5.10", Some("6.1")),
];

fn compiled(name: &str, into: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/load/{name}.bpf.c"));
    let object = into.join(format!("{name}.bpf.o"));
    let mut clang = Command::new("clang");
    clang.args(["-target", "bpf", "-mcpu=v3", "-g", "-O2", "-c", "-o"]).args([&object, &source]);
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
    let names: BTreeSet<&str> = ANSWERS.iter().filter_map(|answer| answer.1.split('/').next()).collect();
    let objects: Vec<PathBuf> = names.iter().map(|name| compiled(name, dir.path())).collect();
    let output = load(&objects, &["-k", "5.10,6.1,6.12,6.18", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = json["rows"].as_array().unwrap();
    for (class, program, refused, loaded) in ANSWERS {
        let (object, program) = program.split_once('/').unwrap();
        let row = |kernel: &str| {
            let wanted =
                [("object", format!("{object}.bpf.o")), ("program", program.into()), ("kernel", kernel.into())];
            let found = rows.iter().find(|row| wanted.iter().all(|(key, value)| row[*key] == **value));
            found.unwrap_or_else(|| panic!("no {object} {program} {kernel}"))
        };
        let row_of_refusal = row(refused);
        assert_eq!(row_of_refusal["verdict"], "refused", "{row_of_refusal:#}");
        assert_eq!(row_of_refusal["class"], *class, "{row_of_refusal:#}");
        if let Some(kernel) = loaded {
            assert_eq!(row(kernel)["verdict"], "loaded", "{:#}", row(kernel));
        }
    }
}

#[test]
#[ignore = "restores VMs: `cargo xtask test` runs it"]
fn baseline_fails_on_growth_minimum_is_oldest_loading_all() {
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
