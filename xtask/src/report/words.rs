//! The words and marks of a report, the same in every format.

use nix::sys::signal::Signal;
use vmtest_agent::{TestId, TestOutcome, TestResult};

use super::RunReport;
use crate::text;
use crate::verdict::{KernelReport, Standing};

/// The word for a test that was asked for and has no outcome.
pub const NOT_RUN: &str = "not-run";

/// One word for what came of a test, as in report.json.
pub fn result(result: &TestResult) -> &'static str {
    match result {
        TestResult::Passed => "passed",
        TestResult::Failed { .. } => "failed",
        TestResult::Killed { .. } => "killed",
        TestResult::TimedOut => "timed-out",
        TestResult::NotStarted { .. } => "not-started",
    }
}

/// What came of a test, in a few words: `failed with exit status 101`.
pub fn sentence(result: &TestResult) -> String {
    match result {
        TestResult::Passed => "passed".into(),
        TestResult::Failed { code } => format!("failed with exit status {code}"),
        TestResult::Killed { signal } => match Signal::try_from(*signal) {
            Ok(name) => format!("killed by signal {signal} ({name})"),
            Err(_) => format!("killed by signal {signal}"),
        },
        TestResult::TimedOut => "timed out".into(),
        TestResult::NotStarted { reason } => {
            format!("could not be started: {}", text::line(reason))
        }
    }
}

/// A mark that says without colour how a kernel stands.
pub fn mark(kernel: &KernelReport) -> &'static str {
    match kernel.standing() {
        Standing::Passed => "✓",
        Standing::Failed => "✗",
        Standing::NotRun if kernel.tolerated => "–",
        Standing::NotRun => "!",
    }
}

/// Passed of asked for: `7/8`; a dash where no test ran.
pub fn passed_of(kernel: &KernelReport) -> String {
    match kernel.tests.len() {
        0 => "-".into(),
        _ => format!("{}/{}", kernel.passed_tests(), kernel.expected_tests),
    }
}

/// A test's name, after its binary's where the run has several of those.
pub fn test_name(run: &RunReport, test: &TestId) -> String {
    let mut binaries = run.kernels.iter().flat_map(all_tests).map(|test| &test.binary);
    if binaries.all(|binary| *binary == test.binary) {
        text::line(&test.name)
    } else {
        text::line(&format!("{}::{}", test.binary, test.name))
    }
}

/// Every test that a kernel was asked for: those with an outcome, then those without.
pub fn all_tests(kernel: &KernelReport) -> impl Iterator<Item = &TestId> {
    kernel.tests.iter().map(|outcome| &outcome.test).chain(&kernel.missing)
}

/// The tests that did not pass.
pub fn failures(kernel: &KernelReport) -> impl Iterator<Item = &TestOutcome> {
    kernel.tests.iter().filter(|outcome| outcome.result != TestResult::Passed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::report::sample;

    #[test]
    fn a_signal_is_named() {
        assert_eq!(sentence(&TestResult::Killed { signal: 11 }), "killed by signal 11 (SIGSEGV)");
        assert_eq!(sentence(&TestResult::Killed { signal: 40 }), "killed by signal 40");
    }

    #[test]
    fn a_test_is_named_with_its_binary_only_where_there_are_several() {
        let mut run = sample::report(vec![sample::passing("6.1", "6.1.0", 0.0)], 1.0);
        let first = run.kernels[0].tests[0].test.clone();
        assert_eq!(test_name(&run, &first), "control_without_tracer_no_line");
        run.kernels[0].missing.push(TestId { binary: "ring".into(), name: "x".into() });
        assert_eq!(test_name(&run, &first), "trace::control_without_tracer_no_line");
    }
}
