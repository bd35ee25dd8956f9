//! What is said of a kernel, and of a run, in the end: used by the terminal and by every report.

use std::fmt::{self, Display, Formatter};
use std::path::PathBuf;
use std::time::SystemTime;

use serde::Serialize;
use vmtest_agent::{Facts, TestId, TestOutcome};

/// The one-word answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Every test that was asked for ran and passed.
    Pass,
    Fail,
    Panic,
    /// The tests passed, but the kernel printed an oops, a BUG, a WARNING or a stall.
    KernelSplat,
    /// The guest was alive and did not finish in time.
    Hang,
    /// The guest never got as far as the agent.
    NoBoot,
    /// Another kernel came up than the one that was asked for.
    WrongKernel,
    /// The kernel lacks an option that the program or the guest needs.
    Unsupported,
    /// No source had the kernel.
    Unavailable,
    /// A tool on the host is missing, crashed or was killed.
    #[default]
    HostError,
}

/// The word, as in report.json.
impl Display for Verdict {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// How a kernel counts in the sum of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Passed,
    Failed,
    NotRun,
}

/// Everything known of one kernel's run, and most of what report.json says of it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct KernelReport {
    /// The pin's name, or the path that was given with `-k`.
    pub name: String,
    /// `uname -r` in the guest, once known.
    pub release: Option<String>,
    pub verdict: Verdict,
    /// Why, in one sentence; empty for a pass.
    pub reason: String,
    /// A few lines that show it: of the console for a panic, of a test's output for a failure.
    pub excerpt: Vec<String>,
    /// `kvm` or `tcg`, once a VM was started.
    pub accel: Option<String>,
    /// `boot` or `snapshot`.
    pub backend: String,
    /// Seconds from the start of the whole run to the start of this kernel's; what places it in the timeline.
    #[serde(skip)]
    pub start_s: f64,
    /// Seconds spent getting the kernel; 0 when it was cached.
    pub fetch_s: f64,
    /// Seconds from starting the VM to the agent's first word.
    pub boot_s: Option<f64>,
    /// Seconds from handing over the job to its end.
    pub test_s: Option<f64>,
    pub total_s: f64,
    /// Whether the agent in the guest was ever heard of.
    pub booted: bool,
    pub facts: Option<Facts>,
    /// The tests that ran, in order.
    #[serde(skip)]
    pub tests: Vec<TestOutcome>,
    pub expected_tests: usize,
    /// Those asked for that have no outcome: the guest died first, or never came up.
    #[serde(skip)]
    pub missing: Vec<TestId>,
    /// The user said that this verdict shall not fail the run: `--allow-unavailable`, `--allow-kernel-warnings`.
    pub tolerated: bool,
    /// The guest's console, kept for the reader.
    #[serde(skip)]
    pub console_log: Option<PathBuf>,
    /// The copy of it beside the reports, relative to their directory: `console/6.12.log`.
    #[serde(rename = "console_log")]
    pub kept_log: Option<String>,
}

impl KernelReport {
    /// Nothing is known yet.
    pub fn unknown(name: &str, backend: &str) -> Self {
        Self { name: name.to_owned(), backend: backend.to_owned(), ..Self::default() }
    }

    /// These tests were asked for; those without an outcome are missing.
    pub fn expect(&mut self, tests: &[TestId]) {
        let ran = |test: &TestId| self.tests.iter().any(|outcome| outcome.test == *test);
        self.missing = tests.iter().filter(|test| !ran(test)).cloned().collect();
        self.expected_tests = tests.len();
    }

    /// How it counts in the sum. A splat that was allowed is a pass; a kernel that was allowed to be
    /// unavailable was still not run.
    pub fn standing(&self) -> Standing {
        match self.untolerated() {
            Standing::Failed if self.tolerated => Standing::Passed,
            standing => standing,
        }
    }

    /// How its verdict counts, whatever the user tolerates.
    pub fn untolerated(&self) -> Standing {
        match self.verdict {
            Verdict::Pass => Standing::Passed,
            Verdict::Panic | Verdict::Hang if !self.booted => Standing::NotRun,
            Verdict::Fail | Verdict::Panic | Verdict::KernelSplat | Verdict::Hang => Standing::Failed,
            Verdict::NoBoot | Verdict::WrongKernel | Verdict::Unsupported => Standing::NotRun,
            Verdict::Unavailable | Verdict::HostError => Standing::NotRun,
        }
    }
}

/// A whole run.
#[derive(Debug)]
pub struct RunReport {
    /// The package that was tested, `program` in `metadata.kernels`, else the project's directory: the reports' title.
    pub program: String,
    pub started: SystemTime,
    pub total_s: f64,
    /// One for each kernel, in the order in which they were asked for.
    pub kernels: Vec<KernelReport>,
}

impl RunReport {
    pub fn count(&self, standing: Standing) -> usize {
        self.kernels.iter().filter(|kernel| kernel.standing() == standing).count()
    }

    /// The sum of the run: `4 passed, 0 failed, 1 not run`.
    pub fn sum(&self) -> String {
        let (passed, failed) = (self.count(Standing::Passed), self.count(Standing::Failed));
        match self.count(Standing::NotRun) {
            0 => format!("{passed} passed, {failed} failed"),
            not_run => format!("{passed} passed, {failed} failed, {not_run} not run"),
        }
    }
}
