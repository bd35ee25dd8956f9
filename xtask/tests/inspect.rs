//! `cargo xtask inspect` on the object that the build makes, and on what is none.

#![allow(clippy::unwrap_used)]

use assert_cmd::Command;
use predicates::prelude::*;
use predicates::str::contains;

fn inspect(arguments: &[&str]) -> assert_cmd::assert::Assert {
    Command::cargo_bin("xtask").unwrap().arg("inspect").args(arguments).assert()
}

#[test]
fn the_programs_object_is_found_and_described() {
    let section = "tracepoint/syscalls/sys_enter_execve";
    inspect(&[])
        .code(0)
        .stdout(predicate::str::is_match(format!(r"\d  {section} +PROGBITS .* AX ")).unwrap())
        .stdout(predicate::str::is_match(format!(r"FUNC +GLOBAL +{section} +bpf_prog\n")).unwrap())
        .stdout(contains(format!(
            "Disassembly of section {section}:\n\n0000000000000000 <bpf_prog>:\n"
        )))
        .stdout(contains("call 0x6  ; bpf_trace_printk\n"))
        .stdout(contains("R_BPF_64_64  .rodata\n"))
        .stdout(predicate::str::ends_with("exit\n"));
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
