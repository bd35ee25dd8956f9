//! The words and marks of a report, the same in every format.

use std::collections::HashSet;

use nix::sys::signal::Signal;
use vmtest_agent::{TestId, TestOutcome, TestResult};

use crate::text;
use crate::verdict::{KernelReport, RunReport, Standing};

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
pub fn sentence(outcome: &TestOutcome) -> String {
    match &outcome.result {
        TestResult::Passed => "passed".into(),
        TestResult::Failed { code } => format!("failed with exit status {code}"),
        TestResult::Killed { signal } => format!("was killed by {}", signal_name(*signal)),
        TestResult::TimedOut => format!("was still running after {:.0} s", outcome.seconds),
        TestResult::NotStarted { reason } => format!("has no result: {}", text::line(reason)),
    }
}

/// `SIGKILL`, or `signal 40` for one that has no name.
pub fn signal_name(number: i32) -> String {
    let signal = Signal::try_from(number);
    signal.map_or_else(|_| format!("signal {number}"), |signal| signal.to_string())
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

/// Passed of asked for: `7/8`; a dash where none could run.
pub fn passed_of(kernel: &KernelReport) -> String {
    match could_run(kernel) {
        true => format!("{}/{}", kernel.tests.len() - failures(kernel).count(), kernel.expected_tests),
        false => "-".into(),
    }
}

/// Whether the guest came up, and it is known which tests are in it.
pub fn could_run(kernel: &KernelReport) -> bool {
    !kernel.tests.is_empty() || kernel.booted && !kernel.missing.is_empty()
}

/// How this run's tests are called: after their binary where there are several of those.
pub struct TestNames {
    with_binary: bool,
}

impl TestNames {
    pub fn of(run: &RunReport) -> Self {
        let binaries: HashSet<&str> = run.kernels.iter().flat_map(all_tests).map(|test| &*test.binary).collect();
        Self { with_binary: binaries.len() > 1 }
    }

    /// One test's name: `trace::one_line`, or just `one_line`.
    pub fn name(&self, test: &TestId) -> String {
        match self.with_binary && !test.name.is_empty() {
            true => text::line(&format!("{}::{}", test.binary, test.name)),
            false => text::line(&text::test_name(test)),
        }
    }
}

/// Every test that a kernel was asked for: those with an outcome, then those without.
pub fn all_tests(kernel: &KernelReport) -> impl Iterator<Item = &TestId> {
    kernel.tests.iter().map(|outcome| &outcome.test).chain(&kernel.missing)
}

/// How many tests have no result, where some have: one was running, the others were not begun.
pub fn not_run(kernel: &KernelReport) -> Option<String> {
    let words = || format!("{} of {} tests have no result", kernel.missing.len(), kernel.expected_tests);
    (!kernel.missing.is_empty() && could_run(kernel)).then(words)
}

pub fn excerpt(kernel: &KernelReport) -> Vec<String> {
    kernel.excerpt.iter().map(|line| text::line(line)).collect()
}

/// How long a test takes that is called slow, in seconds.
const SLOW: f64 = 30.0;

/// What is worth knowing of tests that passed: which failed first, and which took long.
pub fn remarks(kernel: &KernelReport, names: &TestNames) -> Vec<String> {
    let remark = |outcome: &TestOutcome| {
        let name = names.name(&outcome.test);
        let (attempts, seconds) = (outcome.attempts, outcome.seconds);
        let flaky = (attempts > 1 && outcome.result == TestResult::Passed)
            .then(|| format!("flaky: {name} passed at attempt {attempts}"));
        let slow = (seconds >= SLOW).then(|| format!("slow: {name} took {seconds:.0} s"));
        flaky.into_iter().chain(slow)
    };
    kernel.tests.iter().flat_map(remark).collect()
}

pub fn failures(kernel: &KernelReport) -> impl Iterator<Item = &TestOutcome> {
    kernel.tests.iter().filter(|outcome| outcome.result != TestResult::Passed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn tests_are_counted_if_guest_came_up() {
        let mut panicked = sample::panicking("7.3");
        let said = |kernel: &KernelReport| (passed_of(kernel), not_run(kernel));
        assert_eq!(said(&panicked), ("1/4".into(), Some("3 of 4 tests have no result".into())));
        panicked.missing.push(panicked.tests.remove(0).test);
        assert_eq!(said(&panicked), ("0/4".into(), Some("4 of 4 tests have no result".into())));
        assert_eq!(said(&sample::silent("6.18")), ("-".into(), None));
    }

    #[test]
    fn signals_are_named_tests_get_binary_if_several() {
        assert_eq!((&*signal_name(11), &*signal_name(40)), ("SIGSEGV", "signal 40"));

        let mut run = sample::report([sample::passing("6.1")]);
        let first = run.kernels[0].tests[0].test.clone();
        assert_eq!(TestNames::of(&run).name(&first), "control_without_tracer_no_line");
        run.kernels[0].missing.push(TestId { binary: "ring".into(), name: "x".into() });
        assert_eq!(TestNames::of(&run).name(&first), "trace::control_without_tracer_no_line");
    }
}
