//! Running tests, one process each.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};
use vmtest_agent::{TestId, TestOutcome, TestResult};

use crate::output::Capture;
use crate::process::{Stop, Watched};

/// What every program of a job gets, unless the job says otherwise.
const ENVIRONMENT: [(&str, &str); 3] =
    [("HOME", "/root"), ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), ("TMPDIR", "/tmp")];

/// What libtest says first (since Rust 1.86) when it is told where to log; of no interest to anyone who reads
/// what a test printed.
const LOGFILE_WARNING: &str = "warning: `--logfile` is deprecated\n";

/// How tests are run.
pub struct Runner<'a> {
    /// The directory with the payload's files; tests run in it.
    pub payload: &'a Path,
    /// The environment of the tests.
    pub env: &'a BTreeMap<String, String>,
    /// The longest one test may take.
    pub timeout: Duration,
}

impl Runner<'_> {
    /// Runs one test to its end, whatever that is.
    pub fn run(&self, test: &TestId) -> TestOutcome {
        let started = Instant::now();
        let mut capture = Capture::default();
        let result = self.watch(test, started, &mut capture).unwrap_or_else(|error| {
            TestResult::NotStarted { reason: format!("cannot run {}: {error}", test.binary) }
        });
        let seconds = started.elapsed().as_secs_f64();
        let output = capture.finish();
        let printed = output.text.strip_prefix(LOGFILE_WARNING).unwrap_or(&output.text);
        TestOutcome {
            test: test.clone(),
            result,
            seconds,
            output: printed.to_owned(),
            dropped_bytes: output.dropped_bytes,
        }
    }

    /// A program of the payload, ready to be started.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.payload.join(program));
        command.current_dir(self.payload).env_clear().envs(ENVIRONMENT).envs(self.env);
        command
    }

    fn watch(
        &self,
        test: &TestId,
        started: Instant,
        capture: &mut Capture,
    ) -> io::Result<TestResult> {
        let mut command = self.command(&test.binary);
        // It is asked for by its full name, so it runs even if it is ignored by default. There is no
        // other test that a second thread could run.
        command.args(["--exact", &test.name, "--include-ignored", "--nocapture"]);
        command.arg("--test-threads=1");
        let log = Log::create()?;
        command.args(["--logfile", &log.path()]);
        let mut process = Watched::start(command)?;
        let stop = process.follow(started + self.timeout, |_, bytes| {
            capture.push(bytes);
            ControlFlow::Continue(())
        })?;
        let status = process.finish(|_, bytes| capture.push(bytes))?;
        let log = log.read()?;
        if log.contains(SUMMARY) {
            // What libtest-mimic writes there it does not print.
            capture.push(log.as_bytes());
        }
        Ok(match (stop, status) {
            (Stop::Ended, Some(status)) => judge(status, &log, test),
            _ => TestResult::TimedOut,
        })
    }
}

/// What the test binary itself says of the test, and not what is printed while the test runs: there anyone
/// may say that it has passed. It is a file in memory that the binary inherits.
struct Log(File);

/// The most of a log that is read, in bytes. libtest writes a line, libtest-mimic what it would print.
const LOG_LIMIT: u64 = 16 * 1024;

impl Log {
    fn create() -> io::Result<Self> {
        // Inherited, since it is not closed on exec.
        Ok(Self(memfd_create(c"log", MFdFlags::empty())?.into()))
    }

    fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.0.as_raw_fd())
    }

    fn read(self) -> io::Result<String> {
        let mut text = Vec::new();
        // The binary has opened it anew, so the position here is still the beginning.
        self.0.take(LOG_LIMIT).read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

fn judge(status: ExitStatus, log: &str, test: &TestId) -> TestResult {
    match (status.code(), status.signal()) {
        (Some(0), _) => judge_log(log, test),
        (Some(code), _) => TestResult::Failed { code },
        (None, signal) => TestResult::Killed { signal: signal.unwrap_or_default() },
    }
}

/// How the last line of libtest-mimic's log begins.
const SUMMARY: &str = "test result: ";

/// What a test binary's exit with 0 is worth: it exits so just as well when it has no test of that name, and
/// when the test calls `exit(0)` half-way. libtest logs `ok NAME`, libtest-mimic ends its log with the line
/// `test result: ok. 1 passed; 0 failed; …`.
fn judge_log(log: &str, test: &TestId) -> TestResult {
    let logged = format!("ok {}", test.name);
    let summary = log.lines().rev().find_map(|line| line.strip_prefix(SUMMARY));
    let reason = match summary {
        None if log.lines().any(|line| line == logged) => return TestResult::Passed,
        Some(summary) if summary.starts_with("ok. 1 passed; 0 failed;") => {
            return TestResult::Passed;
        }
        Some(summary) => format!("{} exited with 0, but says: {summary}", test.binary),
        None => "it exited with 0 before it had finished the test, or there is no such test".into(),
    };
    TestResult::NotStarted { reason }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::MutexGuard;

    use nix::sys::prctl::set_child_subreaper;

    use super::*;

    /// A payload with one test binary, which is a shell script.
    struct Payload {
        directory: std::path::PathBuf,
        _alone: MutexGuard<'static, ()>,
    }

    impl Payload {
        fn new(script: &str) -> Self {
            let _alone = crate::process::alone();
            set_child_subreaper(true).unwrap();
            let directory =
                std::env::temp_dir().join(format!("vmtest-agent-{}", std::process::id()));
            let _ = fs::remove_dir_all(&directory);
            fs::create_dir(&directory).unwrap();
            let binary = directory.join("binary");
            fs::write(&binary, format!("#!/bin/sh\n{script}")).unwrap();
            fs::set_permissions(&binary, PermissionsExt::from_mode(0o755)).unwrap();
            Self { directory, _alone }
        }

        fn run(&self, seconds: u64) -> TestOutcome {
            // In a sandbox like Nix's the programs that tests start are not in the usual places.
            let path = std::env::var("PATH").unwrap();
            let env = BTreeMap::from([("FROM_JOB".into(), "yes".into()), ("PATH".into(), path)]);
            let timeout = Duration::from_secs(seconds);
            let test = TestId { binary: "binary".into(), name: "name".into() };
            Runner { payload: &self.directory, env: &env, timeout }.run(&test)
        }
    }

    impl Drop for Payload {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }

    /// What libtest does at the end: $7 is the log.
    const PASSED: &str = "echo 'ok name' > $7";

    #[test]
    fn a_test_is_called_by_its_name_in_the_payload_with_the_job_s_environment() {
        let payload = Payload::new(&format!("echo \"$*\"; pwd; env; {PASSED}"));
        let outcome = payload.run(60);
        assert_eq!(outcome.result, TestResult::Passed, "{outcome:?}");
        let mut lines = outcome.output.lines();
        let arguments =
            "--exact name --include-ignored --nocapture --test-threads=1 --logfile /proc/self/fd/";
        assert!(lines.next().unwrap().starts_with(arguments), "{outcome:?}");
        assert_eq!(lines.next(), payload.directory.to_str());
        assert!(outcome.output.contains("FROM_JOB=yes\n"), "{outcome:?}");
        assert!(outcome.output.contains("HOME=/root\n"), "{outcome:?}");
        assert!(!outcome.output.contains("CARGO"), "inherited: {outcome:?}");
    }

    #[test]
    fn both_outputs_are_kept_in_order() {
        let outcome = Payload::new("echo one; echo two >&2; echo three; exit 3").run(60);
        assert_eq!(outcome.output, "one\ntwo\nthree\n");
        assert_eq!(outcome.result, TestResult::Failed { code: 3 });
    }

    #[test]
    fn a_signal_is_told_from_an_exit() {
        let outcome = Payload::new("kill -SEGV $$").run(60);
        assert_eq!(outcome.result, TestResult::Killed { signal: libc::SIGSEGV });
    }

    #[test]
    fn only_the_log_says_that_a_test_has_passed() {
        const SUMMARY: &str =
            "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out";
        for (script, passed) in [
            ("true", false),
            // Anyone can print that.
            (&*format!("echo; echo 'ok name'; echo '{SUMMARY}'"), false),
            ("echo 'ok name' > $7", true),
            ("echo 'ok name_of_another' > $7", false),
            ("echo 'failed name' > $7", false),
            (&format!("(echo 'test name ... ok'; echo; echo '{SUMMARY}') > $7"), true),
            ("echo 'test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured' > $7", false),
            ("(echo 'ok name'; echo 'test result: FAILED. 0 passed; 1 failed') > $7", false),
        ] {
            let outcome = Payload::new(script).run(60);
            assert_eq!(outcome.result == TestResult::Passed, passed, "{script}: {outcome:?}");
        }
    }

    #[test]
    fn what_a_harness_logs_instead_of_printing_is_part_of_the_output() {
        let script = "echo 'warning: `--logfile` is deprecated'; echo printed; \
                      (echo 'failures:'; echo 'test result: FAILED. 0 passed; 1 failed') > $7; exit 101";
        let outcome = Payload::new(script).run(60);
        let output = "printed\nfailures:\ntest result: FAILED. 0 passed; 1 failed\n";
        assert_eq!(outcome.output, output);
    }

    #[test]
    fn what_cannot_be_started_is_named() {
        let payload = Payload::new("");
        fs::remove_file(payload.directory.join("binary")).unwrap();
        let outcome = payload.run(60);
        let TestResult::NotStarted { reason } = outcome.result else { panic!("{outcome:?}") };
        assert!(reason.contains("binary") && reason.contains("No such file"), "{reason}");
    }

    #[test]
    fn a_test_that_hangs_is_ended_with_all_that_it_started() {
        let payload = Payload::new("echo begun; sleep 1000 & setsid sleep 1000 & wait");
        let outcome = payload.run(1);
        assert_eq!(outcome.result, TestResult::TimedOut);
        assert_eq!(outcome.output, "begun\n");
        assert_eq!(crate::process::children(), []);
    }

    /// What a test of a daemon does: it waits for the end of one that is not its child any more.
    #[test]
    fn an_orphan_that_has_ended_is_gone_while_its_test_still_runs() {
        let daemon = "pid=$(sh -c 'sleep 1000 > /dev/null 2>&1 & echo $!'); kill -9 $pid";
        let payload = Payload::new(&format!("{daemon}; while kill -0 $pid; do :; done\n{PASSED}"));
        let outcome = payload.run(60);
        assert_eq!(outcome.result, TestResult::Passed, "{outcome:?}");
    }

    #[test]
    fn what_a_test_leaves_behind_holds_nothing_up() {
        // The group is killed first; what started a session of its own is found as a stray.
        let left_behind = "sleep 1000 & setsid sh -c 'while :; do echo spam; done' &";
        let payload = Payload::new(&format!("{left_behind}\n{PASSED}"));
        let outcome = payload.run(500);
        assert_eq!(outcome.result, TestResult::Passed, "{outcome:?}");
        assert_eq!(crate::process::children(), []);
    }

    #[test]
    fn a_flood_is_cut() {
        let flood = "echo first; head -c 20000000 /dev/zero; echo";
        let outcome = Payload::new(&format!("{flood}; {PASSED}")).run(500);
        assert_eq!(outcome.result, TestResult::Passed);
        assert!(outcome.output.starts_with("first\n"));
        assert!(outcome.output.len() <= vmtest_agent::OUTPUT_LIMIT);
        assert!(outcome.dropped_bytes > 19_900_000);
    }
}
