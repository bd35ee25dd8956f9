//! The program as `cargo xtask build`, `inspect` and `load` show it.

use std::fs;
use std::path::Path;

use cargo_kernels::closure;
use predicates::str::contains;

use crate::{workspace, xtask};

/// What the README promises of the executable.
const MOST_BYTES: u64 = 2_000_000;

fn built() -> String {
    let output = xtask(&["build"]).unwrap();
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

#[test]
fn the_executable_is_static_and_small() {
    let built = built();
    let executable = Path::new(&built);
    let bytes = fs::metadata(executable).unwrap().len();
    assert!(bytes <= MOST_BYTES, "{} has {bytes} bytes", executable.display());
    assert_eq!(closure::loader(executable).unwrap(), None, "{} is not static", executable.display());
}

/// The lines of a disassembly: instructions, functions, relocations. Blanks differ from one LLVM to another.
fn code(text: &str) -> Vec<String> {
    let (_, code) = text.split_once("Disassembly of section").unwrap();
    let lines = code.split("```").next().unwrap().lines();
    let lines = lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    lines.filter(|line| !line.is_empty()).collect()
}

/// Whatever program is in this repository: a fork has another, and no walkthrough.
#[test]
fn inspect_output_matches_walkthrough() {
    let inspected = xtask(&["inspect"]).assert().code(0).stdout(contains(".BTF")).stdout(contains("FUNC"));
    let printed = code(&String::from_utf8_lossy(&inspected.get_output().stdout));
    assert_eq!(printed.last().unwrap().split(' ').next_back(), Some("exit"), "{printed:?}");
    if let Ok(walkthrough) = fs::read_to_string(workspace().join("docs/walkthrough.md")) {
        assert_eq!(code(&walkthrough), printed);
    }
}

#[test]
fn what_is_no_object_file_is_refused_by_name() {
    for (file, why) in [("/nonexistent", "No such file"), ("Cargo.toml", "not recognized")] {
        let said = xtask(&["inspect", file]).assert().code(3).stdout("");
        said.stderr(contains(format!("cannot inspect {file}"))).stderr(contains(why));
    }
}

/// Against what verifiers said when bpf/baseline.json was made:
/// `cargo xtask load $(cargo xtask build) -k 5.10,6.1,6.12,6.18,7.3 --save bpf/baseline.json`.
#[test]
#[ignore = "restores VMs: `cargo xtask test` runs it"]
fn the_tracer_loads_as_it_did() {
    xtask(&["load", &built(), "-k", "5.10,6.1,6.12,6.18,7.3", "--baseline", "bpf/baseline.json"]).unwrap();
}
