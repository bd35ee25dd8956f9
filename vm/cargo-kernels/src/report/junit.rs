//! junit.xml, for CI: a test suite a kernel, a test case a test.
//!
//! A verdict that is about no test (a panic, a kernel that could not be had) is a test case of its own, and so is
//! every test that was asked for and did not run: a CI that only counts must not take silence for a pass.

use anyhow::{Context, Result};
use quick_junit::{NonSuccessKind, Property, Report, TestCase, TestCaseStatus, TestSuite};
use vmtest_agent::{TestId, TestOutcome, TestResult};

use super::json::{duration, moment};
use super::words;
use crate::text;
use crate::verdict::{KernelReport, RunReport, Verdict};

/// Lines of output in a failure's text; all of it is in the test case's `system-out`.
const DESCRIPTION_LINES: usize = 40;

pub fn render(run: &RunReport) -> Result<String> {
    let mut report = Report::new(text::line(&run.program));
    report.set_timestamp(moment(run.started, 0.0)).set_time(duration(run.total_s));
    report.add_test_suites(run.kernels.iter().map(|kernel| suite(run, kernel)));
    report.to_string().context("cannot make junit.xml")
}

fn suite(run: &RunReport, kernel: &KernelReport) -> TestSuite {
    let mut suite = TestSuite::new(text::line(&kernel.name));
    suite.set_timestamp(moment(run.started, kernel.start_s)).set_time(duration(kernel.total_s));
    let verdict = kernel.verdict.to_string();
    let properties = [
        ("verdict", Some(&*verdict)),
        ("release", kernel.release.as_deref()),
        ("accel", kernel.accel.as_deref()),
        ("backend", Some(&*kernel.backend)),
        ("console_log", kernel.kept_log.as_deref()),
    ];
    for (name, value) in properties {
        if let Some(value) = value {
            suite.add_property(Property::new(name, text::line(value)));
        }
    }
    suite.add_test_cases(verdict_case(kernel));
    suite.add_test_cases(kernel.tests.iter().map(test_case));
    let mut not_run = unless_tolerated(kernel);
    not_run.set_type(words::NOT_RUN).set_message(format!("not run: {verdict}"));
    suite.add_test_cases(kernel.missing.iter().map(|test| case(test, not_run.clone())));
    suite
}

/// The case for a verdict that no test's case shows.
fn verdict_case(kernel: &KernelReport) -> Option<TestCase> {
    let shown_by_tests =
        kernel.verdict == Verdict::Fail && (words::failures(kernel).next().is_some() || !kernel.missing.is_empty());
    if kernel.verdict == Verdict::Pass || shown_by_tests {
        return None;
    }
    let mut status = unless_tolerated(kernel);
    status.set_type(kernel.verdict.to_string()).set_message(text::line(&kernel.reason));
    let mut lines = words::excerpt(kernel);
    lines.extend(kernel.kept_log.iter().map(|log| format!("console: {log}")));
    if !kernel.tolerated {
        status.set_description(lines.join("\n"));
    }
    let mut case = TestCase::new("verdict", status);
    case.set_classname("vmtest");
    Some(case)
}

fn test_case(outcome: &TestOutcome) -> TestCase {
    let output = text::block(&outcome.output);
    let mut status = match outcome.result {
        TestResult::Passed => TestCaseStatus::success(),
        TestResult::NotStarted { .. } => TestCaseStatus::non_success(NonSuccessKind::Error),
        _ => TestCaseStatus::non_success(NonSuccessKind::Failure),
    };
    if outcome.result != TestResult::Passed {
        let tail = text::tail(&outcome.output, DESCRIPTION_LINES);
        status.set_type(words::result(&outcome.result)).set_message(words::sentence(outcome));
        if !tail.is_empty() {
            status.set_description(tail.join("\n"));
        }
    }
    let mut case = case(&outcome.test, status);
    case.set_time(duration(outcome.seconds));
    if !output.is_empty() {
        case.set_system_out(output);
    }
    case
}

fn case(test: &TestId, status: TestCaseStatus) -> TestCase {
    let mut case = TestCase::new(text::line(&text::test_name(test)), status);
    case.set_classname(text::line(&test.binary));
    case
}

/// An error, or a skip where the user said that this verdict shall not fail the run.
fn unless_tolerated(kernel: &KernelReport) -> TestCaseStatus {
    match kernel.tolerated {
        true => TestCaseStatus::skipped(),
        false => TestCaseStatus::non_success(NonSuccessKind::Error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample::{self, TESTS};

    /// Written, and read again by the JUnit reader.
    fn read(run: &RunReport) -> Report {
        Report::deserialize_from_str(&render(run).unwrap()).unwrap()
    }

    #[test]
    fn each_test_on_each_kernel_is_a_case() {
        let logs = tempfile::tempdir().unwrap();
        let report = read(&sample::run(logs.path()));
        assert_eq!(report.test_suites.len(), 6);
        for suite in &report.test_suites {
            let names = suite.test_cases.iter().map(|case| case.name.as_str()).filter(|name| *name != "verdict");
            assert_eq!(names.collect::<Vec<_>>(), TESTS, "{:?}", suite.name);
        }
        assert_eq!((report.failures, report.skipped), (2, 5));
        // 7.3 panicked with 3 tests to go; 6.18 never came up for 4; a verdict each, and 6.12's.
        assert_eq!(report.errors, 3 + 4 + 3);
        let panic = &report.test_suites[5].test_cases[0].status;
        let TestCaseStatus::NonSuccess { kind: NonSuccessKind::Error, message, ty, .. } = panic else {
            panic!("{panic:?}");
        };
        assert_eq!(ty.as_deref(), Some("panic"));
        assert!(message.as_ref().unwrap().starts_with("the kernel panicked during follow_prints"), "{message:?}");
    }

    #[test]
    fn verdict_without_failed_test_is_error_unless_tolerated() {
        let no_test_failed = KernelReport { verdict: Verdict::Fail, ..sample::passing("6.1") };
        let kernels = [no_test_failed, sample::with_splat("6.12"), sample::unavailable("5.4")];
        for (suite, expected) in read(&sample::report(kernels)).test_suites.iter().zip([(1, 0), (1, 0), (0, 5)]) {
            assert_eq!((suite.errors, suite.skipped, suite.failures, suite.tests), (expected.0, expected.1, 0, 5));
        }
    }

    #[test]
    fn nothing_a_test_prints_breaks_the_xml() {
        let logs = tempfile::tempdir().unwrap();
        let mut run = sample::hostile(logs.path());
        run.kernels[0].tests[1].output = ('\0'..='\u{ffff}').collect();
        run.kernels[0].tests[2].seconds = f64::NAN;
        run.kernels[0].tests[3].seconds = -1e308;
        let suite = read(&run).test_suites.remove(0);
        assert_eq!((suite.tests, suite.failures, suite.errors), (4, 0, 1));
        let hostile = &suite.test_cases[0];
        assert_eq!(hostile.name.as_str(), sample::MARKUP);
        assert!(hostile.system_out.as_ref().unwrap().contains("]]></system-out>"));
        let forbidden = |c: char| matches!(c, '\0'..='\x08' | '\x0b'..='\x1f' | '\u{fffe}' | '\u{ffff}');
        assert!(!render(&run).unwrap().contains(forbidden));
    }
}
