//! `cargo xtask inspect` on the object that the build makes, and on what is none.

#![allow(clippy::unwrap_used)]

use assert_cmd::Command;
use predicates::prelude::*;
use predicates::str::contains;

fn inspect(arguments: &[&str]) -> assert_cmd::assert::Assert {
    Command::cargo_bin("xtask").unwrap().arg("inspect").args(arguments).assert()
}

/// Whatever program is in this repository: a fork has another.
#[test]
fn the_programs_object_is_found_and_described() {
    let output = inspect(&[]).code(0).get_output().stdout.clone();
    let text = String::from_utf8(output).unwrap();
    let (_, listing) = text.split_once("Disassembly of section ").unwrap();
    let (section, listing) = listing.split_once(":\n\n0000000000000000 <").unwrap();
    let (function, instructions) = listing.split_once(">:\n").unwrap();
    let row = |pattern: String| predicate::str::is_match(pattern).unwrap();
    assert!(row(format!(r"\d  {section} +PROGBITS .* AX ")).eval(&text), "{text}");
    assert!(row(format!(r"FUNC +GLOBAL +{section} +{function}\n")).eval(&text), "{text}");
    assert!(row(r"(?m)^ +0: .*\n +\d+: ".into()).eval(instructions), "{text}");
    assert!(instructions.contains("exit\n"), "{text}");
}

#[test]
fn what_is_no_bpf_object_is_refused_with_the_reason() {
    inspect(&["/nonexistent"]).code(3).stdout("").stderr(contains("cannot read /nonexistent"));
    inspect(&["Cargo.toml"]).code(3).stdout("").stderr(contains("is not a BPF object file"));
    let this_machines = std::env::current_exe().unwrap();
    inspect(&[this_machines.to_str().unwrap()])
        .code(3)
        .stdout("")
        .stderr(contains("another machine"));
}
