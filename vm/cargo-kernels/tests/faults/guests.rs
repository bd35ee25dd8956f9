//! What goes wrong inside of a guest.

use crate::support::{Ended, Run, Scene};

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn the_kernel_panics_at_boot() {
    let scene = Scene::new().metadata("kernel-args = ['rdinit=/nonexistent']");
    let words = "before the agent was up: Kernel panic - not syncing: VFS: Unable to mount root fs";
    Run::whole(&scene, scene.vmtest("contained::")).expect("panic", 3, words);
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn the_kernel_panics_during_a_test() {
    let words = "while `fatal::panics_the_kernel` ran: Kernel panic - not syncing: sysrq triggered crash";
    let scene = Scene::new();
    let verdict = run(&scene, "fatal::panics_the_kernel").expect("panic", 1, words);
    let excerpt = verdict.kernel["excerpt"].to_string();
    assert!(excerpt.contains("Call Trace"), "{excerpt}");
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn the_kernel_panics_during_a_test_in_a_saved_guest() {
    let words = "while `fatal::panics_the_kernel` ran: Kernel panic - not syncing: sysrq triggered crash";
    run_warm(&Scene::new(), &[], "fatal::panics_the_kernel").expect("panic", 1, words);
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn the_guest_hangs_before_the_agent() {
    let args = "kernel-args = ['rdinit=/nonexistent', 'rootdelay=10000', 'ignore_loglevel']";
    let scene = Scene::new().metadata(args).timeout(25);
    let words = "nothing was heard of the agent within 25 s; the kernel got as far as: ";
    run(&scene, "contained::").expect("no-boot", 3, words);
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn the_guest_hangs_in_a_test() {
    let scene = Scene::new().timeout(45);
    let words = "not finished within 45 s: the guest hung while `fatal::stops_the_agent` ran";
    run(&scene, "fatal::stops_the_agent").expect("hang", 1, words);
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn a_test_hangs_for_longer_than_the_guest_is_given() {
    let scene = Scene::new().metadata("test-timeout-s = 1000.0").timeout(20);
    let words = "not finished within 20 s: the guest hung while `failing::hangs` ran";
    run_warm(&scene, &[], "failing::hangs").expect("hang", 1, words);
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn the_guest_has_too_little_memory_to_boot() {
    let scene = Scene::new().metadata("memory-mib = 40");
    let verdict = run(&scene, "contained::").expect("no-boot", 3, "before the agent was up");
    assert!(verdict.reason.contains("40 MiB of memory"), "{}", verdict.reason);
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn the_agent_is_killed() {
    let words = "its agent was killed, while `fatal::kills_the_agent` ran";
    run(&Scene::new(), "fatal::kills_the_agent").expect("fail", 1, words);
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn the_guest_is_switched_off() {
    let words = "the guest shut down, or its agent was killed, while `fatal::switches_the_guest_off` ran";
    run(&Scene::new(), "fatal::switches_the_guest_off").expect("fail", 1, words);
}

/// How each test of `failing` ends: `result`, and the key and value that say more of it.
const FAILING: &[(&str, &str, &str, i64)] = &[
    ("failing::aborts", "killed", "signal", 6),
    ("failing::claims_to_have_passed_and_fails", "failed", "exit_code", 101),
    ("failing::exits_with_a_status", "failed", "exit_code", 7),
    ("failing::is_terminated", "killed", "signal", 15),
    ("failing::segfaults", "killed", "signal", 11),
];

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn tests_fail_in_every_way_and_each_is_told() {
    let scene = Scene::new().metadata("test-timeout-s = 5.0");
    let words = "`failing::aborts` was killed by SIGABRT, and 7 more of 8 tests";
    let ended = run_warm(&scene, &[], "failing::");
    let verdict = ended.expect("fail", 1, words);
    assert!(!ended.printed.contains(['\0', '\x1b', '\x07', '\u{202e}']), "{:?}", ended.printed);
    for (name, result, key, value) in FAILING {
        let test = verdict.test(name);
        assert_eq!((&test["result"], &test[key]), (&(*result).into(), &(*value).into()), "{test:#}");
    }
    assert_eq!(verdict.test("failing::hangs")["result"], "timed-out");
    for name in ["failing::exits_as_if_it_had_passed", "failing::claims_to_have_passed_and_exits"] {
        let test = verdict.test(name);
        assert_eq!(test["result"], "not-started", "{test:#}");
        let reason = test["reason"].as_str().unwrap();
        assert!(reason.contains("its binary exited with 0"), "{reason}");
    }
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn a_test_forges_an_outcome_and_knows_no_token() {
    let words = "someone other than the agent wrote on the agent's line while \
                 `fatal::forges_an_outcome_without_a_token` ran: a message without this run's token";
    run_warm(&Scene::new(), &[], "fatal::forges_an_outcome_without_a_token").expect("fail", 1, words);
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn a_test_forges_an_outcome_and_guesses_the_token() {
    let words = "a message without this run's token";
    run_warm(&Scene::new(), &[], "fatal::forges_an_outcome_with_a_guess").expect("fail", 1, words);
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn a_test_scribbles_on_the_agents_line() {
    let words = "not a message of the agent's";
    run_warm(&Scene::new(), &[], "fatal::scribbles_on_the_agents_line").expect("fail", 1, words);
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn the_kernel_prints_a_splat_and_the_tests_pass() {
    let scene = Scene::new();
    let words = "the tests passed, but the kernel reported: WARNING: CPU: 0 PID: 1 at kernel/misbehave.c:1";
    let verdict = run_warm(&scene, &[], "fatal::makes_the_kernel_warn").expect("kernel-splat", 1, words);
    assert_eq!(verdict.test("fatal::makes_the_kernel_warn")["result"], "passed");
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn the_kernel_prints_a_splat_and_that_is_allowed() {
    let scene = Scene::new();
    let allow = ["--allow-kernel-warnings"];
    let words = "the tests passed, but the kernel reported";
    let ended = run_warm(&scene, &allow, "fatal::makes_the_kernel_warn");
    ended.expect("kernel-splat", 0, words);
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn the_kernel_warns_where_nobody_sees_it() {
    let words = "there was a warning (taint flag W)";
    let scene = Scene::new();
    run_warm(&scene, &[], "fatal::hides_a_warning").expect("kernel-splat", 1, words);
}

/// With a report there are facts, for which the program is waited for.
#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn a_program_that_is_never_ready_costs_facts_and_no_verdict() {
    let scene = Scene::new().timeout(120).metadata("test-timeout-s = 1000.0");
    let scene = scene.metadata("ready-line = 'never said'");
    let verdict = run_warm(&scene, &[], "contained::tells").expect("pass", 0, "");
    let error = verdict.kernel["facts"]["error"].to_string();
    assert!(error.contains("did not print"), "{:#}", verdict.kernel);
}

/// Of the files that virtme-ng and QEMU have open, the guest can reach one.
#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn a_test_fills_the_hosts_disk() {
    // A kernel that has virtio ports without a module.
    let scene = Scene::new().kernels("6.12").metadata("test-timeout-s = 20.0");
    let words = "`fatal::fills_the_hosts_disk` was still running";
    run(&scene, "fatal::fills_the_hosts_disk").expect("fail", 1, words);
}

fn run<'a>(scene: &'a Scene, tests: &str) -> Ended<'a> {
    Run::whole(scene, scene.vmtest(tests))
}

/// In a guest that was saved, for what does not depend on how a guest came to be.
fn run_warm<'a>(scene: &'a Scene, options: &[&str], tests: &str) -> Ended<'a> {
    let mut command = scene.xtask();
    scene.vmtest_args(&mut command, &[&["--warm"], options].concat(), tests);
    Run::whole(scene, command)
}
