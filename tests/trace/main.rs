//! The tests that need root and a kernel to trace: in a guest, by `cargo xtask vmtest`, or on this machine, by
//! `cargo xtask test --local`; both set VMTEST=1. Without it every test is there, by name, and ignored.

#![allow(clippy::unwrap_used)]

mod execve;
mod trace_buffer;
mod tracer;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use libbpf_rs::query::ProgInfoIter;
use libtest_mimic::{Arguments, Trial};

use execve::execve;
use trace_buffer::{TraceBuffer, Turn, is_hello_of};
use tracer::{DEADLINE, Tracer};

/// What is shown before the names of tests that are ignored for want of VMTEST=1.
const HOW_TO_RUN: &str = "needs root and a kernel: cargo xtask vmtest, or cargo xtask test --local";

macro_rules! cases {
    ($($stress:literal $name:ident),* $(,)?) => {
        &[$((stringify!($name), $name, $stress)),*]
    };
}

/// Name, function (which panics when it fails), and whether it is a stress test, which is run only when asked for.
const ALL: &[(&str, fn(), bool)] = cases![
    false an_execve_prints_hello_under_its_own_pid,
    false one_line_for_each_execve,
    false after_sigterm_no_line_is_printed_and_no_program_is_left,
    false without_the_tracer_no_line_is_printed,
    false an_unprivileged_user_is_told_what_is_missing,
    false follow_prints_the_line,
    false duration_ends_in_time,
    false two_tracers_print_two_lines,
    true a_storm_of_execves_is_accounted_for,
];

fn main() -> ExitCode {
    if let Some(count) = execve::requested() {
        return execve::work(count);
    }
    let permitted = std::env::var_os("VMTEST").is_some_and(|value| value == "1");
    let trials = ALL.iter().map(|(name, run, stress)| match permitted {
        true => Trial::test(*name, || {
            run();
            Ok(())
        })
        .with_ignored_flag(*stress),
        false => Trial::test(*name, || Err(HOW_TO_RUN.into())).with_ignored_flag(true).with_kind(HOW_TO_RUN),
    });
    let trials = trials.collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn an_execve_prints_hello_under_its_own_pid() {
    let mut buffer = TraceBuffer::open();
    let _tracer = Tracer::start(&[]);
    buffer.assert_lines_of(execve(), 1);
}

fn one_line_for_each_execve() {
    let mut buffer = TraceBuffer::open();
    let _tracer = Tracer::start(&[]);
    // Any number of them: one line for each process that starts, whatever it does then, would not do.
    for execves in (1..=3).cycle().take(50) {
        buffer.assert_lines_of(execve::run(1, execves)[0], execves);
    }
}

fn after_sigterm_no_line_is_printed_and_no_program_is_left() {
    let mut buffer = TraceBuffer::open();
    let others = loaded_programs();
    let tracer = Tracer::start(&[]);
    let ours: BTreeSet<u32> = loaded_programs().difference(&others).copied().collect();
    assert_eq!(ours.len(), 1, "programs that the tracer loaded");

    let status = tracer.terminate();
    assert_eq!(status.code(), Some(0), "{status}");
    buffer.assert_lines_of(execve(), 0);
    wait_until("the program is unloaded", || loaded_programs().is_disjoint(&ours));
}

fn without_the_tracer_no_line_is_printed() {
    let mut buffer = TraceBuffer::open();
    buffer.assert_lines_of(execve(), 0);
}

fn an_unprivileged_user_is_told_what_is_missing() {
    const NOBODY: u32 = 65534;
    // Where it was built may be out of that user's reach.
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let copy = directory.path().join("helloworld");
    // By another process: a child of a test beside this one would inherit what is open for writing here (ETXTBSY).
    assert!(Command::new("cp").arg(tracer::path()).arg(&copy).status().unwrap().success());

    let output = Command::new(copy).uid(NOBODY).gid(NOBODY).output().expect("the tracer starts");
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{message}");
    for words in ["CAP_BPF", "CAP_PERFMON", "CAP_SYS_ADMIN", "sudo"] {
        assert!(message.contains(words), "no {words} in: {message}");
    }
    assert_eq!(message.lines().count(), 1, "{message}");
}

fn follow_prints_the_line() {
    let _turn = Turn::take();
    let mut tracer = Tracer::start(&["--follow"]);
    let pid = execve();
    tracer.wait_for_line("the line of the execve", |line| is_hello_of(line, pid));
    assert_eq!(tracer.terminate().code(), Some(0));
}

fn duration_ends_in_time() {
    let _turn = Turn::take();
    let begin = Instant::now();
    let status = Tracer::start(&["--duration", "0.1"]).wait();
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(begin.elapsed() >= Duration::from_millis(100), "it ended too early");
}

fn two_tracers_print_two_lines() {
    let mut buffer = TraceBuffer::open();
    let _tracers = [Tracer::start(&[]), Tracer::start(&[])];
    buffer.assert_lines_of(execve(), 2);
}

fn a_storm_of_execves_is_accounted_for() {
    const WORKERS: usize = 4;
    const EXECVES: usize = 2000;
    let mut buffer = TraceBuffer::open();
    let others = loaded_programs();
    let tracer = Tracer::start(&[]);
    let lost_before = buffer.lost();
    let workers = execve::run(WORKERS, EXECVES / WORKERS);

    let lines: usize = workers.iter().map(|pid| buffer.lines_of(*pid)).sum();
    let lost = buffer.lost() - lost_before;
    let missed = missed_by(&loaded_programs() - &others);
    let account = format!("{EXECVES} execves, {lines} lines, {lost} records lost, {missed} runs missed");
    assert!(lines <= EXECVES, "{account}");
    assert!(lines + lost + missed >= EXECVES, "{account}");
    // It still works, and ends as it should.
    buffer.assert_lines_of(execve(), 1);
    assert_eq!(tracer.terminate().code(), Some(0));
}

/// How often the kernel says it did not run the programs, because they were running already. A program that is
/// preempted is running, for every other process on that CPU, on kernels that do not keep a system call's tracepoint
/// from being preempted (7.3 is one).
fn missed_by(programs: BTreeSet<u32>) -> usize {
    ProgInfoIter::default()
        .filter(|program| programs.contains(&program.id))
        .map(|program| usize::try_from(program.recursion_misses).unwrap())
        .sum()
}

/// The IDs of the loaded BPF programs that are called as ours is.
fn loaded_programs() -> BTreeSet<u32> {
    ProgInfoIter::default().filter(|program| program.name == "bpf_prog").map(|program| program.id).collect()
}

/// Waits for something that the kernel does in its own time and tells nobody about.
fn wait_until(what: &str, happened: impl Fn() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !happened() {
        assert!(Instant::now() < end, "it never came that {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
