//! What goes wrong inside of a guest.

use serde_json::Value;

use crate::support::{Scene, test};

/// Where virtme-ng's init is above the agent: a restored guest's first process can be neither killed nor stopped.
const BOOTED: &[&str] = &[];
/// In a guest that was saved, for what does not depend on how a guest came to be.
const WARM: &[&str] = &["--warm"];

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn the_kernel_panics_at_boot() {
    let scene = Scene::new().metadata("kernel-args = ['rdinit=/nonexistent']");
    let words = "before the agent was up: Kernel panic - not syncing: VFS: Unable to mount root fs";
    does_not_come_up(scene, "panic", words);
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn the_guest_hangs_before_the_agent() {
    let args = "kernel-args = ['rdinit=/nonexistent', 'rootdelay=10000', 'ignore_loglevel']";
    let words = "nothing was heard of the agent within 25 s; the kernel got as far as: ";
    does_not_come_up(Scene { timeout: 25, ..Scene::new().metadata(args) }, "no-boot", words);
}

/// However the guest was to come to be. It is not tried twice, and nothing is saved.
fn does_not_come_up(scene: Scene, verdict: &str, words: &str) {
    let scene = scene.own_cache();
    for options in [BOOTED, WARM] {
        let ended = scene.run(options, "contained::");
        ended.expect(verdict, 3, words);
        assert!(!ended.printed.contains("so it is booted"), "{}", ended.printed);
        assert!(scene.saved().is_empty());
    }
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn the_guest_has_too_little_memory_to_boot() {
    let scene = Scene::new().metadata("memory-mib = 40");
    let kernel = scene.run(BOOTED, "contained::").expect("no-boot", 3, "before the agent was up");
    assert!(kernel["reason"].as_str().unwrap().contains("40 MiB of memory"), "{kernel:#}");
}

/// Runs one test, after which the run is no pass.
fn told(options: &[&str], test: &str, verdict: &str, words: &str) -> Value {
    Scene::new().run(options, test).expect(verdict, 1, words)
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn the_kernel_panics_during_a_test() {
    let test = "fatal::panics_the_kernel";
    let words = "while `fatal::panics_the_kernel` ran: Kernel panic - not syncing: sysrq triggered crash";
    for options in [BOOTED, WARM] {
        let excerpt = told(options, test, "panic", words)["excerpt"].to_string();
        assert!(excerpt.contains("Call Trace"), "{excerpt}");
    }
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn the_agent_is_killed_or_the_guest_switched_off() {
    let killed = "its agent was killed, while `fatal::kills_the_agent` ran";
    told(BOOTED, "fatal::kills_the_agent", "fail", killed);
    let off = "the guest shut down, or its agent was killed, while `fatal::switches_the_guest_off` ran";
    told(BOOTED, "fatal::switches_the_guest_off", "fail", off);
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn the_guest_hangs_in_a_test() {
    for (options, test, seconds) in [(BOOTED, "fatal::stops_the_agent", 45), (WARM, "failing::hangs", 20)] {
        let scene = Scene { timeout: seconds, ..Scene::new().metadata("test-timeout-s = 1000.0") };
        let words = format!("not finished within {seconds} s: the guest hung while `{test}` ran");
        scene.run(options, test).expect("hang", 1, &words);
    }
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
    let ended = scene.run(WARM, "failing::");
    let kernel = ended.expect("fail", 1, words);
    assert!(!ended.printed.contains(['\0', '\x1b', '\x07', '\u{202e}']), "{:?}", ended.printed);
    for (name, result, key, value) in FAILING {
        let test = test(&kernel, name);
        assert_eq!((&test["result"], &test[key]), (&(*result).into(), &(*value).into()), "{test:#}");
    }
    assert_eq!(test(&kernel, "failing::hangs")["result"], "timed-out");
    for name in ["failing::exits_as_if_it_had_passed", "failing::claims_to_have_passed_and_exits"] {
        let test = test(&kernel, name);
        assert_eq!(test["result"], "not-started", "{test:#}");
        let reason = test["reason"].as_str().unwrap();
        assert!(reason.contains("its binary exited with 0"), "{reason}");
    }
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn a_test_writes_on_the_agents_line() {
    let forged = "someone other than the agent wrote on the agent's line while \
                  `fatal::forges_an_outcome_without_a_token` ran: a message without this run's token";
    told(WARM, "fatal::forges_an_outcome_without_a_token", "fail", forged);
    told(WARM, "fatal::forges_an_outcome_with_a_guess", "fail", "a message without this run's token");
    told(WARM, "fatal::scribbles_on_the_agents_line", "fail", "not a message of the agent's");
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn the_kernel_warns_and_the_tests_pass() {
    let warning = "the tests passed, but the kernel reported: WARNING: CPU: 0 PID: 1 at kernel/misbehave.c:1";
    let warns = "fatal::makes_the_kernel_warn";
    assert_eq!(test(&told(WARM, warns, "kernel-splat", warning), warns)["result"], "passed");
    Scene::new().run(&["--warm", "--allow-kernel-warnings"], warns).expect("kernel-splat", 0, warning);
    told(WARM, "fatal::hides_a_warning", "kernel-splat", "there was a warning (taint flag W)");
}

/// With a report there are facts, for which the program is waited for.
#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn a_program_that_is_never_ready_costs_facts_and_no_verdict() {
    let scene = Scene::new().metadata("ready-line = 'never said'");
    let kernel = scene.run(WARM, "contained::tells").expect("pass", 0, "");
    let error = kernel["facts"]["error"].to_string();
    assert!(error.contains("did not print"), "{kernel:#}");
}

/// Of the files that virtme-ng and QEMU have open, the guest can reach one.
#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn a_test_fills_the_hosts_disk() {
    // A kernel that has virtio ports without a module.
    let scene = Scene { kernel: "6.12", ..Scene::new().metadata("test-timeout-s = 10.0") };
    let words = "`fatal::fills_the_hosts_disk` was still running";
    scene.run(BOOTED, "fatal::fills_the_hosts_disk").expect("fail", 1, words);
}
