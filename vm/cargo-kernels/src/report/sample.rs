//! A run as it happens, for the tests of everything that shows one: passes, a failure, a panic, a kernel that
//! could not be had, and a guest that prints what it should not.

use std::path::Path;
use std::time::{Duration, SystemTime};

use vmtest_agent::{Facts, ProgramFacts, TestId, TestOutcome, TestResult};

use crate::verdict::{KernelReport, RunReport, Verdict};

/// The tests that every kernel of [`run`] was asked for.
pub const TESTS: [&str; 4] = [
    "control_without_tracer_no_line",
    "follow_prints_the_line",
    "one_line_for_each_of_50_execves",
    "two_tracers_two_lines",
];

/// What [`hostile`]'s tests print and are named.
pub const MARKUP: &str = "<script>alert('owned')</script>";

const FAILED_OUTPUT: &str = "\
test one_line_for_each_of_50_execves ... FAILED

thread 'main' panicked at tests/trace.rs:88:5:
assertion `left == right` failed: lines for 50 execves
  left: 49
 right: 50
note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace
";

/// Compares a text with a file below `src/`; `VMTEST_BLESS=1` writes the file anew, to be read before it is committed.
pub fn assert_golden(text: &str, path: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(path);
    if std::env::var_os("VMTEST_BLESS").is_some() {
        std::fs::write(&path, text).expect("the golden file can be written");
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(text == golden, "{} is not what came out:\n{text}", path.display());
}

/// Four kernels came up, of which one failed a test, one panicked and one had a splat; one hung before the agent, one could
/// not be had. `logs` is where the console logs are written.
pub fn run(logs: &Path) -> RunReport {
    let kernels = [unavailable("5.4"), passing("5.10"), failing("6.1"), with_splat("6.12"), silent("6.18")];
    with_logs(report(kernels.into_iter().chain([panicking("7.3")])), logs)
}

/// One kernel with a test that tries to break every format, and a console that does too.
pub fn hostile(logs: &Path) -> RunReport {
    let mut kernel = passing("6.1");
    kernel.verdict = Verdict::Fail;
    kernel.release = Some("6.1.0<img src=x>".into());
    kernel.reason = format!("`{MARKUP}` failed | \x1b[2J\u{202e}dessap 8\n8 passed, 0 failed");
    kernel.excerpt = vec!["\x1b]0;title".into(), "a\0b ]]> ``` & < |".into(), "\u{fffe}\u{ffff}".into()];
    let reason = "no such file\x1b[1A\x1b[2K: \"&<>".into();
    let output = format!("{MARKUP}\n```\n# forged\n\x1b[32mtest result: ok\x1b[0m \u{fffd}\0 ]]></system-out>\r\n");
    kernel.tests[0] =
        TestOutcome { dropped_bytes: 199_934_464, ..outcome(MARKUP, TestResult::NotStarted { reason }, &output) };
    with_logs(report([kernel]), logs)
}

pub fn report(kernels: impl IntoIterator<Item = KernelReport>) -> RunReport {
    let mut total_s = 0.0;
    let one_after_the_other = |kernel| {
        let kernel = KernelReport { start_s: total_s, ..kernel };
        total_s += kernel.total_s;
        kernel
    };
    let kernels = kernels.into_iter().map(one_after_the_other).collect();
    // 2026-11-24T06:00:00Z
    let started = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_500_000);
    RunReport { program: "helloworld".into(), started, total_s, kernels }
}

pub fn passing(name: &str) -> KernelReport {
    let program = ProgramFacts {
        name: "bpf_prog".into(),
        verified_insns: Some(17),
        xlated_bytes: Some(136),
        jited_bytes: Some(96),
        event_ns: Some(1904.2),
        events: Some(64),
        attached: Some("link".into()),
    };
    let (btf, jit, load_s) = (Some(true), Some(true), Some(0.0312));
    KernelReport {
        release: Some(format!("{name}.0-47-amd64")),
        verdict: Verdict::Pass,
        accel: Some("tcg".into()),
        boot_s: Some(2.1),
        test_s: Some(1.125),
        total_s: 3.4,
        booted: true,
        facts: Some(Facts { btf, jit, load_s, error: None, programs: vec![program] }),
        tests: TESTS.iter().map(|name| outcome(name, TestResult::Passed, "")).collect(),
        expected_tests: TESTS.len(),
        ..KernelReport::unknown(name, "boot")
    }
}

pub fn failing(name: &str) -> KernelReport {
    let mut kernel = passing(name);
    kernel.verdict = Verdict::Fail;
    kernel.reason = "2 of 4 tests did not pass: one_line_for_each_of_50_execves, two_tracers_two_lines".into();
    kernel.tests[2] = outcome(TESTS[2], TestResult::Failed { code: 101 }, FAILED_OUTPUT);
    kernel.tests[3] = outcome(TESTS[3], TestResult::Killed { signal: 11 }, "");
    (kernel.fetch_s, kernel.total_s) = (4.2, 7.9);
    kernel
}

pub fn with_splat(name: &str) -> KernelReport {
    let warning = "WARNING: CPU: 0 PID: 77 at kernel/trace/trace_event_perf.c:406 perf_trace_buf_alloc+0x9c/0xb0";
    let error = Some("helloworld: it ended with exit status 4 before its ready line".into());
    KernelReport {
        verdict: Verdict::KernelSplat,
        reason: "the tests passed, but the kernel printed a WARNING".into(),
        excerpt: vec![warning.into()],
        facts: Some(Facts { jit: Some(false), error, ..Facts::default() }),
        ..passing(name)
    }
}

/// The kernel panicked during the second test.
pub fn panicking(name: &str) -> KernelReport {
    let mut kernel = passing(name);
    kernel.verdict = Verdict::Panic;
    kernel.reason = "the kernel panicked during follow_prints_the_line: sysrq triggered crash".into();
    kernel.excerpt = vec![
        "Kernel panic - not syncing: sysrq triggered crash".into(),
        "CPU: 0 UID: 0 PID: 91 Comm: trace Not tainted 7.3.4+deb13-amd64 #1".into(),
    ];
    kernel.tests.truncate(1);
    kernel.missing = TESTS[1..].iter().map(|name| test_id(name)).collect();
    (kernel.fetch_s, kernel.test_s, kernel.total_s) = (5.5, None, 8.8);
    kernel.facts = None;
    kernel
}

/// The guest never got to the agent.
pub fn silent(name: &str) -> KernelReport {
    let last = "Calibrating delay loop...";
    KernelReport {
        verdict: Verdict::NoBoot,
        excerpt: vec![],
        reason: format!("nothing was heard of the guest in 15 s; the last line on its console is `{last}`"),
        accel: Some("tcg".into()),
        tolerated: false,
        total_s: 15.2,
        ..unavailable(name)
    }
}

/// No source had the kernel, and the user allowed for that.
pub fn unavailable(name: &str) -> KernelReport {
    KernelReport {
        verdict: Verdict::Unavailable,
        reason: "none of its sources could be had".into(),
        excerpt: vec![
            "nix: it is not in the directory that VMTEST_NIX_KERNELS names, which is /nix/store/kernels".into(),
            "debian: 404 Not Found".into(),
        ],
        total_s: 0.3,
        expected_tests: TESTS.len(),
        missing: TESTS.iter().map(|name| test_id(name)).collect(),
        tolerated: true,
        ..KernelReport::unknown(name, "boot")
    }
}

/// A test's outcome, 0.125 s long.
pub fn outcome(name: &str, result: TestResult, output: &str) -> TestOutcome {
    TestOutcome { test: test_id(name), attempts: 1, result, seconds: 0.125, output: output.into(), dropped_bytes: 0 }
}

pub fn test_id(name: &str) -> TestId {
    TestId { binary: "trace".into(), name: name.into() }
}

/// Gives each kernel that was started a console log.
fn with_logs(mut run: RunReport, logs: &Path) -> RunReport {
    for kernel in run.kernels.iter_mut().filter(|kernel| kernel.accel.is_some()) {
        let path = logs.join(format!("{}.log", kernel.name));
        let excerpt = kernel.excerpt.iter().map(|line| format!("[    2.417003] {line}\r\n"));
        let log = format!("[    0.000000] Linux version\r\n{}", excerpt.collect::<String>());
        std::fs::write(&path, log).expect("the log can be written");
        kernel.console_log = Some(path);
        kernel.kept_log = Some(format!("console/{}.log", kernel.name));
    }
    run
}
