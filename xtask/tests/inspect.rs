//! `cargo xtask inspect` on the object that the build makes, and on what is none.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use assert_cmd::Command;
use predicates::str::contains;

fn inspect(arguments: &[&str]) -> assert_cmd::assert::Assert {
    Command::cargo_bin("xtask").unwrap().arg("inspect").args(arguments).assert()
}

/// The lines of a disassembly: instructions, functions, relocations. Blanks differ from one LLVM to another.
fn code(text: &str) -> Vec<String> {
    let (_, code) = text.split_once("Disassembly of section").unwrap();
    let lines = code.split("```").next().unwrap().lines();
    lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// Whatever program is in this repository: a fork has another, and no walkthrough.
#[test]
fn sections_symbols_and_instructions_are_those_of_the_walkthrough() {
    let printed = inspect(&[]).code(0).stdout(contains(".BTF")).stdout(contains("FUNC"));
    let printed = code(&String::from_utf8_lossy(&printed.get_output().stdout));
    assert_eq!(printed.last().unwrap().split(' ').next_back(), Some("exit"), "{printed:?}");
    let walkthrough = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/walkthrough.md");
    if walkthrough.exists() {
        let shown = code(&std::fs::read_to_string(walkthrough).unwrap());
        assert_eq!(
            shown.iter().filter(|line| !line.is_empty()).collect::<Vec<_>>(),
            printed.iter().filter(|line| !line.is_empty()).collect::<Vec<_>>()
        );
    }
}

#[test]
fn what_is_no_object_file_is_refused_by_name() {
    for (file, why) in [("/nonexistent", "No such file"), ("Cargo.toml", "not recognized")] {
        let said = inspect(&[file]).code(3).stdout("");
        said.stderr(contains(format!("cannot inspect {file}"))).stderr(contains(why));
    }
}
