//! Running tests, one process each, by the exact name under which their binary lists them.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use vmtest_agent::{Event, Program, TestId, TestOutcome, TestResult, Tests};

use crate::channel::Channel;
use crate::output::Capture;
use crate::process::{self, Stop, Watched};

/// The most that a binary may print as its list, in bytes.
const LONGEST_LIST: usize = 4 << 20;

/// Lists the tests, and runs them unless that was all that was asked for.
pub fn perform(tests: &Tests, channel: &mut Channel) -> Result<()> {
    let timeout = Duration::try_from_secs_f64(tests.timeout_s)
        .map_err(|_| anyhow!("{} is no time limit for a test", tests.timeout_s))?;
    let runner = Runner::new(tests, timeout);
    let list = tests.only.clone().unwrap_or_else(|| runner.list());
    channel.send(Event::Listed(list.clone()))?;
    for test in list.iter().filter(|_| !tests.list) {
        channel.send(Event::TestStarted(test.clone()))?;
        let outcome = runner.run_until_passed(test);
        let failed = outcome.result != TestResult::Passed;
        channel.send(Event::TestFinished(outcome))?;
        if failed && tests.fail_fast {
            break;
        }
    }
    Ok(())
}

struct Runner<'a> {
    tests: &'a Tests,
    timeout: Duration,
    /// All that each binary lists, of those that answer as libtest does; with `harness = false` one need not.
    all: BTreeMap<&'a str, Vec<Entry>>,
}

/// A name, and whether it is a benchmark's.
type Entry = (String, bool);

impl<'a> Runner<'a> {
    fn new(tests: &'a Tests, timeout: Duration) -> Self {
        let all = tests.binaries.iter().filter_map(|(id, binary)| {
            let plain = Program { argv: binary.argv.iter().take(1).cloned().collect(), ..binary.clone() };
            let entries = ask(&plain, &[], timeout)?;
            // Libtest says so of a binary without tests, if it may; any other that prints nothing may not have understood.
            let lists = !entries.is_empty() || say(&plain, &["--list"], timeout)?.contains("0 tests, ");
            lists.then_some((id.as_str(), entries))
        });
        Self { tests, timeout, all: all.collect() }
    }

    /// The tests that the binaries would run with their arguments; a binary that cannot list its own is one test.
    fn list(&self) -> Vec<TestId> {
        let mut list = Vec::new();
        for (id, binary) in &self.tests.binaries {
            let test = |name: String| TestId { binary: id.clone(), name };
            match self.selected(id, binary) {
                Some(names) => list.extend(names.into_iter().map(test)),
                None => list.push(test(String::new())),
            }
        }
        list
    }

    fn selected(&self, id: &str, binary: &Program) -> Option<Vec<String>> {
        let entries = match &binary.argv[..] {
            [_] => self.all.get(id)?.clone(),
            _ => self.all.get(id).and_then(|_| ask(binary, &[], self.timeout))?,
        };
        let asked_for = |arg: &String| arg == "--ignored" || arg == "--include-ignored";
        // They are listed with the others, and marked only in JSON, which is unstable.
        let all = binary.argv.iter().any(asked_for);
        let ignored = if all { Vec::new() } else { ask(binary, &["--ignored"], self.timeout)? };
        let is_ignored = |name: &String| ignored.iter().any(|(other, _)| other == name);
        let tests = entries.into_iter().filter(|(name, is_benchmark)| !is_benchmark && !is_ignored(name));
        Some(tests.map(|(name, _)| name).collect())
    }

    fn run_until_passed(&self, test: &TestId) -> TestOutcome {
        let mut outcome = self.run(test);
        while outcome.result != TestResult::Passed && outcome.attempts <= self.tests.retries {
            outcome = TestOutcome { attempts: outcome.attempts + 1, ..self.run(test) };
        }
        outcome
    }

    fn run(&self, test: &TestId) -> TestOutcome {
        let started = Instant::now();
        let mut capture = Capture::default();
        let ended = match self.tests.binaries.get(&test.binary) {
            Some(binary) => watch(binary, test, started + self.timeout, &mut capture),
            None => Err(io::Error::other("the job has no such binary")),
        };
        let seconds = started.elapsed().as_secs_f64();
        let (output, dropped_bytes) = capture.finish();
        let others = self.all.get(&*test.binary).map(|all| all.len().saturating_sub(1));
        let result = match ended {
            Ok(Some(status)) => classify(status, &output, others.filter(|_| !test.name.is_empty())),
            Ok(None) => TestResult::TimedOut,
            Err(error) => TestResult::NotStarted { reason: format!("cannot run {}: {error}", test.binary) },
        };
        TestOutcome { test: test.clone(), result, attempts: 1, seconds, output, dropped_bytes }
    }
}

/// What a binary lists with its arguments and further ones; nothing if it does not answer as libtest does.
fn ask(binary: &Program, further: &[&str], timeout: Duration) -> Option<Vec<Entry>> {
    entries(&say(binary, &[&["--list", "--format", "terse"], further].concat(), timeout)?)
}

/// What a binary prints on its standard output; nothing if it fails.
fn say(binary: &Program, further: &[&str], timeout: Duration) -> Option<String> {
    let mut command = process::command(binary).ok()?;
    command.args(further);
    let process = Watched::start_with_two_outputs(command).ok()?;
    let mut text = Vec::new();
    let (stop, status) = process
        .run(Instant::now() + timeout, |number, bytes| {
            if number == 0 {
                text.extend_from_slice(bytes);
            }
            if text.len() > LONGEST_LIST { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .ok()?;
    let text = String::from_utf8(text).ok()?;
    (stop == Stop::Ended && status?.success()).then_some(text)
}

fn entries(list: &str) -> Option<Vec<Entry>> {
    let entry = |line: &str| {
        let (name, kind) = line.rsplit_once(": ")?;
        let is_benchmark = kind == "benchmark";
        (is_benchmark || kind == "test").then(|| (name.to_owned(), is_benchmark))
    };
    list.lines().filter(|line| !line.is_empty()).map(entry).collect()
}

/// How the test's process ended; nothing when it was ended at the deadline.
fn watch(binary: &Program, test: &TestId, deadline: Instant, capture: &mut Capture) -> io::Result<Option<ExitStatus>> {
    let mut one = binary.clone();
    if !test.name.is_empty() {
        // By its full name it runs even if it is ignored by default. A second thread would have no other test to run.
        let arguments = ["--exact", &test.name, "--include-ignored", "--nocapture", "--test-threads=1"];
        one.argv.truncate(1);
        one.argv.extend(arguments.map(str::to_owned));
    }
    let (stop, status) = Watched::start(process::command(&one)?)?.run(deadline, |_, bytes| {
        capture.push(bytes);
        ControlFlow::Continue(())
    })?;
    Ok(status.filter(|_| stop == Stop::Ended))
}

/// `others` is how many other tests the binary lists, if the test was called by its name.
fn classify(status: ExitStatus, output: &str, others: Option<usize>) -> TestResult {
    match (status.code(), status.signal(), others) {
        (Some(0), _, None) => TestResult::Passed,
        (Some(0), _, Some(others)) => classify_summary(output, others),
        (Some(code), ..) => TestResult::Failed { code },
        (None, signal, _) => TestResult::Killed { signal: signal.unwrap_or_default() },
    }
}

/// What a test binary's exit with 0 is worth: it exits so just as well when it has no test of that name, and when the
/// test calls `exit(0)` half-way. A harness like libtest says `running 1 test` first and `test result: ok. 1 passed; …`
/// last, with all of its others filtered out; of one that does neither there is only the exit status to go by.
fn classify_summary(output: &str, others: usize) -> TestResult {
    let announces = |line: &str| {
        let count = line.strip_prefix("running ").and_then(|rest| rest.split_once(" test"));
        count.is_some_and(|(count, end)| count.parse::<u32>().is_ok() && ["", "s"].contains(&end))
    };
    if !output.lines().any(announces) {
        return TestResult::Passed;
    }
    let summary = output.lines().rev().find_map(|line| line.strip_prefix("test result: "));
    let filtered = format!(" {others} filtered out");
    let is_ours = |summary: &str| {
        summary.starts_with("ok. 1 passed; 0 failed;") && summary.split(';').any(|part| part == filtered)
    };
    let reason = match summary {
        Some(summary) if is_ours(summary) => return TestResult::Passed,
        Some(summary) => format!("its binary exited with 0, but not after running this test alone: {summary}"),
        None => "its binary exited with 0 before it had finished the test".to_owned(),
    };
    TestResult::NotStarted { reason }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::MutexGuard;

    use tempfile::TempDir;
    use vmtest_agent::proc;

    use super::*;

    fn id(name: &str) -> TestId {
        TestId { binary: "binary".into(), name: name.into() }
    }

    /// A test binary which is a shell script.
    struct Binary {
        directory: TempDir,
        _alone: MutexGuard<'static, ()>,
    }

    impl Binary {
        fn new(script: &str) -> Self {
            let _alone = crate::process::alone();
            let directory = tempfile::tempdir().unwrap();
            let binary = directory.path().join("binary");
            fs::write(&binary, format!("#!/bin/sh\n{script}")).unwrap();
            fs::set_permissions(&binary, PermissionsExt::from_mode(0o755)).unwrap();
            Self { directory, _alone }
        }

        fn tests(&self, args: &[&str]) -> Tests {
            let path = |name: &str| self.directory.path().join(name).to_str().unwrap().to_owned();
            // In a sandbox like Nix's the programs that tests start are not in the usual places.
            let env = [("FROM_JOB", "yes".into()), ("PATH", std::env::var("PATH").unwrap())];
            let program = Program {
                argv: [path("binary")].into_iter().chain(args.iter().map(|&arg| arg.into())).collect(),
                cwd: path(""),
                env: env.map(|(name, value)| (name.to_owned(), value)).into(),
            };
            Tests {
                binaries: [("binary".to_owned(), program)].into(),
                only: None,
                list: false,
                timeout_s: 60.0,
                retries: 0,
                fail_fast: false,
                facts: None,
            }
        }

        fn run(&self, seconds: u64) -> TestOutcome {
            let tests = self.tests(&[]);
            let all = ["name", "a", "b", "c"].map(|name| (name.to_owned(), false));
            let all = [("binary", all.to_vec())].into();
            Runner { tests: &tests, timeout: Duration::from_secs(seconds), all }.run(&id("name"))
        }

        fn passes(&self) -> TestOutcome {
            let outcome = self.run(500);
            assert_eq!(outcome.result, TestResult::Passed, "{outcome:?}");
            outcome
        }

        fn list(&self, args: &[&str]) -> Vec<String> {
            let tests = self.tests(args);
            let list = Runner::new(&tests, Duration::from_secs(60)).list();
            list.into_iter().map(|test| test.name).collect()
        }
    }

    const RUNNING: &str = "echo; echo 'running 1 test'";
    const PASSED: &str = "echo 'test result: ok. 1 passed; 0 failed; 0 ignored; 3 filtered out'";

    #[test]
    fn listed_tests_run_ignored_and_benchmarks_only_if_asked() {
        let binary = Binary::new(
            "case \"$*\" in *--ignored*) echo 'slow: test' ;; \
             *) printf '%s: test\\n' quick slow \"$1\" ;; esac; echo 'fast: benchmark'",
        );
        assert_eq!(binary.list(&["a"]), ["quick", "a"]);
        assert_eq!(binary.list(&["--include-ignored"]), ["quick", "slow", "--include-ignored"]);
        assert_eq!(binary.list(&["--ignored"]), ["slow"]);
    }

    #[test]
    fn binary_without_list_is_one_test_without_tests_none() {
        for script in ["echo 'running my own tests'", "echo 'a: test'; exit 2", "kill -9 $$", "true"] {
            assert_eq!(Binary::new(script).list(&[]), [""], "{script}");
        }
        // Libtest says nothing of no tests in the terse format.
        let without = "test $# = 1 && echo '0 tests, 0 benchmarks'; exit 0";
        assert_eq!(Binary::new(without).list(&[]), [""; 0]);
        let binary = Binary::new("test \"$1\" = --an-argument && test $# = 1");
        let tests = binary.tests(&["--an-argument"]);
        let outcome = Runner::new(&tests, Duration::from_secs(60)).run(&id(""));
        assert_eq!(outcome.result, TestResult::Passed, "{outcome:?}");
    }

    #[test]
    fn a_test_that_fails_is_run_again_as_often_as_asked() {
        let binary = Binary::new("echo x >> count; test $(wc -l < count) = 3");
        let tests = Tests { retries: 1, ..binary.tests(&[]) };
        let runner = Runner { tests: &tests, timeout: Duration::from_secs(60), all: BTreeMap::new() };
        let outcome = runner.run_until_passed(&id("name"));
        assert_eq!((outcome.result, outcome.attempts), (TestResult::Failed { code: 1 }, 2));
        let outcome = runner.run_until_passed(&id("name"));
        assert_eq!((outcome.result, outcome.attempts), (TestResult::Passed, 1));
    }

    #[test]
    fn test_gets_its_name_directory_and_environment() {
        let outcome = Binary::new("echo \"$*\"; ls; env").passes();
        let called = "--exact name --include-ignored --nocapture --test-threads=1\nbinary\n";
        assert!(outcome.output.starts_with(called) && outcome.output.contains("FROM_JOB=yes\n"), "{outcome:?}");
        assert!(!outcome.output.contains("CARGO"), "inherited: {outcome:?}");
    }

    #[test]
    fn outputs_keep_order_signal_differs_from_exit() {
        let outcome = Binary::new("echo one; echo two >&2; echo three; exit 3").run(60);
        assert_eq!(outcome.output, "one\ntwo\nthree\n");
        assert_eq!(outcome.result, TestResult::Failed { code: 3 });
        // One that has a name, and a real-time signal.
        for signal in [libc::SIGSEGV, 40] {
            let outcome = Binary::new(&format!("kill -{signal} $$")).run(10);
            assert_eq!(outcome.result, TestResult::Killed { signal });
        }
    }

    #[test]
    fn exit_with_0_passes_only_with_a_summary_of_one_passed_test() {
        for (script, passed) in [
            (format!("{RUNNING}; {PASSED}"), true),
            (format!("{RUNNING}; echo; {PASSED}; echo 'of a thread' >&2"), true),
            // It may be a harness that says nothing.
            ("true".to_owned(), true),
            ("echo 'running tests are fun'".to_owned(), true),
            // The test called exit(0).
            (RUNNING.to_owned(), false),
            (format!("{RUNNING}; echo 'test name ... ok'"), false),
            ("echo 'running 0 tests'; echo 'test result: ok. 0 passed; 0 failed;'".to_owned(), false),
            ("echo 'running 2 tests'; echo 'test result: ok. 2 passed; 0 failed;'".to_owned(), false),
            (format!("{RUNNING}; {PASSED}; echo 'test result: FAILED. 0 passed; 1 failed'"), false),
            // The summary of another binary, that the test has run.
            (format!("{RUNNING}; {PASSED} | sed 's/3 filtered/13 filtered/'"), false),
        ] {
            let outcome = Binary::new(&script).run(60);
            assert_eq!(outcome.result == TestResult::Passed, passed, "{script}: {outcome:?}");
        }
    }

    #[test]
    fn what_cannot_be_started_is_named() {
        let binary = Binary::new("");
        fs::remove_file(binary.directory.path().join("binary")).unwrap();
        let outcome = binary.run(60);
        let TestResult::NotStarted { reason } = outcome.result else { panic!("{outcome:?}") };
        assert!(reason.contains("binary") && reason.contains("No such file"), "{reason}");
    }

    #[test]
    fn a_test_that_hangs_is_ended_with_all_that_it_started() {
        let binary = Binary::new("echo begun; sleep 1000 & setsid sleep 1000 & wait");
        let outcome = binary.run(1);
        assert_eq!(outcome.result, TestResult::TimedOut);
        assert_eq!(outcome.output, "begun\n");
        assert_eq!(proc::children().unwrap().count(), 0);
    }

    /// What a test of a daemon does: it waits for the end of one that is not its child any more.
    #[test]
    fn an_orphan_that_has_ended_is_gone_while_its_test_still_runs() {
        let daemon = "pid=$(sh -c 'sleep 1000 > /dev/null 2>&1 & echo $!'); kill -9 $pid";
        Binary::new(&format!("{daemon}; while kill -0 $pid; do :; done\n{RUNNING}; {PASSED}")).passes();
    }

    #[test]
    fn what_a_test_leaves_behind_holds_nothing_up() {
        // The group is killed first; what started a session of its own is found as an orphan.
        let left_behind = "sleep 1000 & setsid sh -c 'while :; do echo spam; done' &";
        let binary = Binary::new(&format!("{left_behind}\n{RUNNING}; {PASSED}"));
        binary.passes();
        assert_eq!(proc::children().unwrap().count(), 0);
    }

    #[test]
    fn a_flood_is_cut() {
        let flood = "echo first; head -c 20000000 /dev/zero; echo";
        let outcome = Binary::new(&format!("{RUNNING}; {flood}; {PASSED}")).passes();
        assert!(outcome.output.contains("\nfirst\n") && outcome.output.len() <= vmtest_agent::OUTPUT_LIMIT);
        assert!(outcome.dropped_bytes > 19_900_000);
    }
}
