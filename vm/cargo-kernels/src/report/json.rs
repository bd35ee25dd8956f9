//! report.json, for programs. The format is documented in docs/report.md; [`VERSION`] counts its breaks.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};
use vmtest_agent::{TestId, TestOutcome, TestResult};

use super::words;
use crate::exit;
use crate::verdict::{KernelReport, RunReport, Standing};

/// The format's version: it grows when a reader of the older one would go wrong. New keys are no such break.
const VERSION: u32 = 2;

pub fn render(run: &RunReport) -> Result<String> {
    let kernels = run.kernels.iter().map(|report| kernel(run, report));
    let report = json!({
        "version": VERSION,
        "program": run.program,
        "started": timestamp(run.started, 0.0),
        "total_s": run.total_s,
        "exit_code": exit::of_run(run),
        "passed": run.count(Standing::Passed),
        "failed": run.count(Standing::Failed),
        "not_run": run.count(Standing::NotRun),
        "kernels": kernels.collect::<Result<Vec<_>>>()?,
    });
    Ok(format!("{report:#}\n"))
}

fn kernel(run: &RunReport, kernel: &KernelReport) -> Result<Value> {
    let mut value = serde_json::to_value(kernel).context("cannot make report.json")?;
    value["exit_code"] = exit::of_kernel(kernel).into();
    value["started"] = timestamp(run.started, kernel.start_s).into();
    value["tests"] = kernel.tests.iter().map(test).chain(kernel.missing.iter().map(not_run)).collect();
    Ok(value)
}

fn test(outcome: &TestOutcome) -> Value {
    let mut test = not_run(&outcome.test);
    test["result"] = words::result(&outcome.result).into();
    test["attempts"] = outcome.attempts.into();
    test["seconds"] = outcome.seconds.into();
    test["output"] = outcome.output.as_str().into();
    test["dropped_bytes"] = outcome.dropped_bytes.into();
    match &outcome.result {
        TestResult::Passed => test["exit_code"] = 0.into(),
        TestResult::Failed { code } => test["exit_code"] = (*code).into(),
        TestResult::Killed { signal } => test["signal"] = (*signal).into(),
        TestResult::TimedOut => {}
        TestResult::NotStarted { reason } => test["reason"] = reason.as_str().into(),
    }
    test
}

fn not_run(test: &TestId) -> Value {
    json!({
        "binary": test.binary, "name": test.name, "result": words::NOT_RUN, "attempts": 0, "seconds": null,
        "exit_code": null, "signal": null, "reason": null, "output": "", "dropped_bytes": 0,
    })
}

/// RFC 3339, in UTC, to the millisecond.
fn timestamp(start: SystemTime, later_s: f64) -> String {
    moment(start, later_s).to_rfc3339_opts(SecondsFormat::Millis, true)
}

pub fn moment(start: SystemTime, later_s: f64) -> DateTime<Utc> {
    start.checked_add(duration(later_s)).unwrap_or(start).into()
}

/// A guest's seconds may be any number.
pub fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn one_kernel_with_a_failure_is_the_documented_example() {
        let mut kernel = sample::failing("6.1");
        kernel.tests = vec![kernel.tests.swap_remove(2)];
        kernel.expected_tests = 1;
        kernel.tests[0].output = "lines for 50 execves: 49\n".into();
        kernel.reason = "`one_line_for_each_of_50_execves` failed".into();
        kernel.kept_log = Some("console/6.1.log".into());
        let render = |kernel| render(&sample::report([kernel])).unwrap();
        let text = render(kernel.clone());
        let page = include_str!("../../../../docs/report.md");
        kernel.facts = None;
        let [real, example] = [&*render(kernel), page.split("```json").nth(1).unwrap().split("```").next().unwrap()]
            .map(|json| serde_json::from_str::<Value>(json).unwrap());
        assert_eq!(real, example);
        let keys = text.lines().filter_map(|line| line.trim().strip_prefix('"')?.split_once("\":"));
        for (key, _) in keys {
            assert!(page.contains(&format!("| `{key}` |")), "nothing of `{key}` in docs/report.md");
        }
    }

    #[test]
    fn every_test_result_is_a_string_and_output_round_trips() {
        let logs = tempfile::tempdir().unwrap();
        let mut run = sample::hostile(logs.path());
        let kernel = &mut run.kernels[0];
        let output = kernel.tests[0].output.clone();
        kernel.missing = vec![kernel.tests.remove(1).test];
        let results = [TestResult::Failed { code: 101 }, TestResult::Killed { signal: 9 }, TestResult::TimedOut];
        kernel.tests.extend(results.map(|result| sample::outcome("t", result, "")));
        let json: Value = serde_json::from_str(&render(&run).unwrap()).unwrap();
        assert_eq!(json["kernels"][0]["verdict"], "fail");
        let tests = json["kernels"][0]["tests"].as_array().unwrap();
        assert_eq!((&tests[0]["output"], &tests[0]["name"]), (&output.into(), &sample::MARKUP.into()));
        let words: Vec<_> = tests.iter().map(|test| &test["result"]).collect();
        assert_eq!(words, ["not-started", "passed", "passed", "failed", "killed", "timed-out", "not-run"]);
        let codes: Vec<_> = tests.iter().map(|test| test["exit_code"].as_i64()).collect();
        assert_eq!(codes, [None, Some(0), Some(0), Some(101), None, None, None]);
    }
}
