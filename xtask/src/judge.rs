//! From what was seen of a guest to a verdict: pure, so that every case is a test.

use std::collections::BTreeSet;

use vmtest_agent::{PROTOCOL, TestId, TestOutcome, TestResult};

use crate::kernels::{Expected, Kernel};
use crate::verdict::Verdict;
use crate::vm::supervise::{End, Observed};

/// How many lines of evidence are shown.
const EXCERPT: usize = 12;

/// A verdict and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// The answer.
    pub verdict: Verdict,
    /// One sentence; empty for a pass.
    pub reason: String,
    /// A few lines that show it.
    pub excerpt: Vec<String>,
}

/// What the judge has to know besides what was seen.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    /// The kernel that was asked for.
    pub kernel: &'a Kernel,
    /// The tests that were asked for.
    pub tests: &'a [TestId],
    /// Seconds that the guest was given.
    pub timeout_s: f64,
    /// Whether a kernel's warnings are accepted.
    pub allow_kernel_warnings: bool,
}

impl Case<'_> {
    /// The verdict. A pass needs every expected test's own report of success, and nothing else.
    pub fn judge(&self, seen: &Observed) -> Judgement {
        self.panic(seen)
            .or_else(|| self.wrong_kernel(seen))
            .or_else(|| self.cut_short(seen))
            .or_else(|| self.failed_tests(seen))
            .or_else(|| self.complaint(seen))
            .unwrap_or(Judgement { verdict: Verdict::Pass, reason: String::new(), excerpt: vec![] })
    }

    fn panic(&self, seen: &Observed) -> Option<Judgement> {
        let words = seen.console.panic.as_ref()?;
        let when = match (&seen.running, &seen.ready) {
            (Some(test), _) => format!("while `{}` ran", test.name),
            (None, Some(_)) => "between two tests".into(),
            (None, None) => "before the agent was up".into(),
        };
        let reason = format!("the kernel panicked {when}: {words}");
        Some(judgement(Verdict::Panic, reason, first(&seen.console.context)))
    }

    fn wrong_kernel(&self, seen: &Observed) -> Option<Judgement> {
        let release = &seen.ready.as_ref()?.release;
        if self.kernel.expected.accepts(release) {
            return None;
        }
        let wanted = match &self.kernel.expected {
            Expected::Exact(exact) => exact.clone(),
            Expected::Series(prefix) => format!("{prefix}*"),
            Expected::Any => return None,
        };
        let reason = format!(
            "booted {release}, not {wanted}: check the pin `{}` in vm/kernels.toml",
            self.kernel.name
        );
        Some(judgement(Verdict::WrongKernel, reason, vec![]))
    }

    fn cut_short(&self, seen: &Observed) -> Option<Judgement> {
        let tail = || last(&seen.console.tail);
        let running = match &seen.running {
            Some(test) => format!("while `{}` ran", test.name),
            None if seen.outcomes.is_empty() => "before the first test ended".into(),
            None => format!("after {} of {} tests", seen.outcomes.len(), self.tests.len()),
        };
        let (verdict, reason) = match (&seen.end, &seen.ready) {
            (End::Finished | End::Panicked, _) => return None,
            (End::Interrupted, _) => (Verdict::HostError, "interrupted".to_owned()),
            (End::ProcessExited(status), _) => (
                Verdict::HostError,
                format!("the virtual machine's process ended by itself: {status}; see its log"),
            ),
            (End::Deadline, None) => (
                Verdict::NoBoot,
                format!("nothing was heard of the agent within {} s; {}", self.timeout_s, how_far(seen)),
            ),
            (End::GuestShutdown, None) => (
                Verdict::NoBoot,
                format!("the guest shut down before the agent was up; {}", how_far(seen)),
            ),
            (End::AgentFailed(why), _) => {
                (Verdict::HostError, format!("the agent could not do its job: {why}"))
            }
            (End::Garbage(what), _) => (
                Verdict::Fail,
                format!("someone other than the agent wrote on the agent's line {running}: {what}"),
            ),
            (End::Deadline, Some(_)) => (
                Verdict::Hang,
                format!("not finished within {} s: the guest hung {running}", self.timeout_s),
            ),
            (End::GuestShutdown, Some(_)) => {
                (Verdict::Fail, format!("the guest shut down, or its agent was killed, {running}"))
            }
        };
        Some(judgement(verdict, reason, tail()))
    }

    fn failed_tests(&self, seen: &Observed) -> Option<Judgement> {
        let passed: BTreeSet<&TestId> = seen
            .outcomes
            .iter()
            .filter(|outcome| outcome.result == TestResult::Passed)
            .map(|outcome| &outcome.test)
            .collect();
        let failed: Vec<&TestId> = self.tests.iter().filter(|test| !passed.contains(test)).collect();
        let first_failed = failed.first()?;
        let outcome = seen.outcomes.iter().find(|outcome| outcome.test == **first_failed);
        let how = outcome.map_or("did not run".into(), how_it_failed);
        let more = match failed.len() - 1 {
            0 => String::new(),
            more => format!(", and {more} more of {} tests", self.tests.len()),
        };
        let reason = format!("`{}` {how}{more}", first_failed.name);
        let lines: Vec<String> = outcome
            .map(|outcome| outcome.output.lines().map(str::to_owned).collect())
            .unwrap_or_default();
        Some(judgement(Verdict::Fail, reason, last(&lines)))
    }

    fn complaint(&self, seen: &Observed) -> Option<Judgement> {
        let words = seen.console.complaints.first()?;
        if self.allow_kernel_warnings {
            return None;
        }
        let reason = format!(
            "the tests passed, but the kernel complained: {words} (--allow-kernel-warnings accepts it)"
        );
        Some(judgement(Verdict::KernelComplaint, reason, first(&seen.console.context)))
    }
}

/// Whether an agent speaks this harness's protocol; a saved guest's may be older.
pub fn speaks_our_protocol(protocol: u32) -> bool {
    protocol == PROTOCOL
}

fn how_it_failed(outcome: &TestOutcome) -> String {
    match &outcome.result {
        TestResult::Passed => "passed".into(),
        TestResult::Failed { code: 101 } => "failed".into(),
        TestResult::Failed { code } => format!("failed with exit status {code}"),
        TestResult::Killed { signal } => {
            let name = nix::sys::signal::Signal::try_from(*signal);
            let name = name.map_or_else(|_| format!("signal {signal}"), |name| name.to_string());
            format!("was killed by {name}")
        }
        TestResult::TimedOut => format!("was still running after {:.0} s", outcome.seconds),
        TestResult::NotStarted { reason } => format!("did not run: {reason}"),
    }
}

fn how_far(seen: &Observed) -> String {
    match seen.console.tail.last() {
        Some(line) => format!("the kernel got as far as: {line}"),
        None => "the kernel printed nothing at all".into(),
    }
}

fn judgement(verdict: Verdict, reason: String, excerpt: Vec<String>) -> Judgement {
    Judgement { verdict, reason, excerpt }
}

fn first(lines: &[String]) -> Vec<String> {
    lines.iter().take(EXCERPT).cloned().collect()
}

fn last(lines: &[String]) -> Vec<String> {
    lines[lines.len().saturating_sub(EXCERPT)..].to_vec()
}
