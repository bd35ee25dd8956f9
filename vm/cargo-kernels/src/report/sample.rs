//! A run as it happens, for the tests of everything that shows one: passes, a failure, a panic, a kernel that
//! could not be had, and a guest that prints what it should not.

use std::path::Path;
use std::time::{Duration, SystemTime};

use vmtest_agent::{Facts, ProgramFacts, TestId, TestOutcome, TestResult};

use super::RunReport;
use crate::verdict::{KernelReport, Verdict};

/// The tests that every kernel of [`run`] was asked for.
pub const TESTS: [&str; 8] = [
    "control_without_tracer_no_line",
    "duration_ends_in_time",
    "follow_prints_the_line",
    "no_line_after_sigterm",
    "one_execve_one_line_under_its_pid",
    "one_line_for_each_of_50_execves",
    "two_tracers_two_lines",
    "unprivileged_user_is_told_what_to_do",
];

/// What [`hostile`]'s tests print and are named.
pub const MARKUP: &str = "<script>alert('owned')</script>";

/// Compares a text with a file below `xtask/src/`; `VMTEST_BLESS=1` writes the file anew, to be read before it is
/// committed.
pub fn assert_golden(text: &str, path: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(path);
    if std::env::var_os("VMTEST_BLESS").is_some() {
        std::fs::write(&path, text).expect("the golden file can be written");
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(text == golden, "{} is not what came out:\n{text}", path.display());
}

/// Eight kernels: six came up, of which one failed a test, one panicked and one complained; one hung before
/// the agent, one could not be had. `logs` is where the console logs are written.
pub fn run(logs: &Path) -> RunReport {
    let kernels = vec![
        unavailable("5.4"),
        passing("5.10", "5.10.0-32-amd64", 0.4),
        passing("5.15", "5.15.135", 3.9),
        failing("6.1", "6.1.0-47-amd64", 7.1),
        passing("6.6", "6.6.80", 8.0),
        with_splat("6.12", "6.12.117+deb13-amd64", 12.6),
        silent("6.18", 13.2),
        panicking("7.3", "7.3.4+deb13-amd64", 19.5),
    ];
    with_logs(report(kernels, 28.4), logs)
}

/// Where [`super::logs`] puts the logs of a run of the above.
pub fn log_paths(run: &RunReport) -> Vec<Option<String>> {
    let path = |kernel: &KernelReport| kernel.console_log.is_some().then(|| format!("console/{}.log", kernel.name));
    run.kernels.iter().map(path).collect()
}

/// One kernel whose tests try to break every format, and whose console does too.
pub fn hostile(logs: &Path) -> RunReport {
    let mut kernel = failing("6.1", "6.1.0<img src=x>", 0.0);
    kernel.reason = format!("`{MARKUP}` failed | \x1b[2J\u{202e}dessap 8\n8 passed, 0 failed");
    kernel.excerpt = vec!["\x1b]0;title".into(), "a\0b ]]> ``` & < |".into(), "\u{fffe}\u{ffff}".into()];
    kernel.tests.push(TestOutcome {
        test: TestId { binary: "trace".into(), name: MARKUP.into() },
        attempts: 1,
        result: TestResult::NotStarted { reason: "no such file\x1b[1A\x1b[2K: \"&<>".into() },
        seconds: 0.0,
        output: format!("{MARKUP}\n```\n# forged\n\x1b[32mtest result: ok\x1b[0m \u{fffd}\0 ]]></system-out>\r\n"),
        dropped_bytes: 199_934_464,
    });
    kernel.expected_tests += 1;
    with_logs(report(vec![kernel], 9.9), logs)
}

/// A run of these kernels.
pub fn report(kernels: Vec<KernelReport>, total_s: f64) -> RunReport {
    // 2026-11-24T06:00:00Z
    let started = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_500_000);
    RunReport { program: "helloworld".into(), started, total_s, kernels }
}

/// All tests passed.
pub fn passing(name: &str, release: &str, start_s: f64) -> KernelReport {
    KernelReport {
        name: name.into(),
        release: Some(release.into()),
        verdict: Verdict::Pass,
        reason: String::new(),
        excerpt: vec![],
        accel: Some("tcg".into()),
        backend: "boot".into(),
        start_s,
        fetch_s: 0.0,
        boot_s: Some(2.1),
        test_s: Some(1.125),
        total_s: 3.4,
        booted: true,
        facts: Some(facts(release)),
        tests: TESTS.iter().map(|name| outcome(name, TestResult::Passed, "")).collect(),
        expected_tests: TESTS.len(),
        missing: vec![],
        tolerated: false,
        console_log: None,
    }
}

/// One test failed, one was killed.
pub fn failing(name: &str, release: &str, start_s: f64) -> KernelReport {
    let mut kernel = passing(name, release, start_s);
    kernel.verdict = Verdict::Fail;
    kernel.reason = "2 of 8 tests did not pass: one_line_for_each_of_50_execves, two_tracers_two_lines".into();
    kernel.tests[5] = outcome(TESTS[5], TestResult::Failed { code: 101 }, FAILED_OUTPUT);
    kernel.tests[6] = outcome(TESTS[6], TestResult::Killed { signal: 11 }, "");
    kernel.fetch_s = 4.2;
    kernel.total_s = 7.9;
    kernel
}

/// The tests passed, and the kernel printed a warning.
pub fn with_splat(name: &str, release: &str, start_s: f64) -> KernelReport {
    let mut kernel = passing(name, release, start_s);
    kernel.verdict = Verdict::KernelSplat;
    kernel.reason = "the tests passed, but the kernel printed a WARNING".into();
    kernel.excerpt =
        vec!["WARNING: CPU: 0 PID: 77 at kernel/trace/trace_event_perf.c:406 perf_trace_buf_alloc+0x9c/0xb0".into()];
    kernel.facts = Some(Facts {
        btf: Some(true),
        jit: Some(true),
        error: Some("helloworld: it ended with exit status 4 before its ready line".into()),
        ..Facts::default()
    });
    kernel.backend = "snapshot".into();
    kernel.boot_s = Some(0.11);
    kernel.test_s = Some(0.62);
    kernel.total_s = 0.9;
    kernel
}

/// The kernel panicked during the third test.
pub fn panicking(name: &str, release: &str, start_s: f64) -> KernelReport {
    let mut kernel = passing(name, release, start_s);
    kernel.verdict = Verdict::Panic;
    kernel.reason = "the kernel panicked during follow_prints_the_line: sysrq triggered crash".into();
    kernel.excerpt = vec![
        "Kernel panic - not syncing: sysrq triggered crash".into(),
        "CPU: 0 UID: 0 PID: 91 Comm: trace Not tainted 7.3.4+deb13-amd64 #1".into(),
        "Call Trace:".into(),
        " sysrq_handle_crash+0x1a/0x20".into(),
    ];
    kernel.tests.truncate(2);
    kernel.missing = TESTS[2..].iter().map(|name| test_id(name)).collect();
    kernel.fetch_s = 5.5;
    kernel.test_s = None;
    kernel.total_s = 8.8;
    kernel.facts = None;
    kernel
}

/// The guest never got to the agent.
pub fn silent(name: &str, start_s: f64) -> KernelReport {
    let mut kernel = unavailable(name);
    kernel.verdict = Verdict::NoBoot;
    kernel.reason =
        "nothing was heard of the guest in 15 s; the last line on its console is `Calibrating delay loop...`".into();
    kernel.accel = Some("tcg".into());
    kernel.tolerated = false;
    kernel.start_s = start_s;
    kernel.total_s = 15.2;
    kernel
}

/// No source had the kernel, and the user allowed for that.
pub fn unavailable(name: &str) -> KernelReport {
    KernelReport {
        release: None,
        verdict: Verdict::Unavailable,
        reason: "no source has this kernel: nix: not in a Nix shell; debian: this host's mirror and the permanent archive do not answer".into(),
        accel: None,
        boot_s: None,
        test_s: None,
        total_s: 0.3,
        booted: false,
        facts: None,
        tests: vec![],
        missing: TESTS.iter().map(|name| test_id(name)).collect(),
        tolerated: true,
        ..passing(name, "", 0.0)
    }
}

/// A test's outcome, 0.125 s long.
pub fn outcome(name: &str, result: TestResult, output: &str) -> TestOutcome {
    TestOutcome { test: test_id(name), attempts: 1, result, seconds: 0.125, output: output.into(), dropped_bytes: 0 }
}

fn test_id(name: &str) -> TestId {
    TestId { binary: "trace".into(), name: name.into() }
}

fn facts(release: &str) -> Facts {
    let old = release.starts_with("5.");
    let program = ProgramFacts {
        name: "bpf_prog".into(),
        verified_insns: (!release.starts_with("5.10")).then_some(17),
        xlated_bytes: Some(if old { 144 } else { 136 }),
        jited_bytes: Some(if old { 103 } else { 96 }),
        event_ns: Some(if old { 2841.7 } else { 1904.2 }),
        events: Some(64),
        attached: Some(if release.starts_with("5.10") { "ioctl" } else { "link" }.into()),
    };
    Facts { btf: Some(true), jit: Some(true), load_s: Some(0.0312), programs: vec![program], ..Facts::default() }
}

/// Gives each kernel that was started a console log.
fn with_logs(mut run: RunReport, logs: &Path) -> RunReport {
    for kernel in run.kernels.iter_mut().filter(|kernel| kernel.accel.is_some()) {
        let path = logs.join(format!("{}.log", kernel.name));
        let mut log = format!("[    0.000000] Linux version {}\r\n", kernel.release.as_deref().unwrap_or("?"));
        log += "[    0.000000] Command line: console=ttyS0 panic=-1\r\n";
        log += &kernel.excerpt.iter().map(|line| format!("[    2.417003] {line}\r\n")).collect::<String>();
        std::fs::write(&path, log).expect("the log can be written");
        kernel.console_log = Some(path);
    }
    run
}

const FAILED_OUTPUT: &str = "\
running 1 test
test one_line_for_each_of_50_execves ... FAILED

failures:

---- one_line_for_each_of_50_execves ----
thread 'main' panicked at tests/trace.rs:88:5:
assertion `left == right` failed: lines for 50 execves
  left: 49
 right: 50
note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace

test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 7 filtered out
";
