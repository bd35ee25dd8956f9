//! What is said of a kernel in the end: one type, used by the terminal and by every report.

use std::fmt::{self, Display, Formatter};
use std::path::PathBuf;

use serde::Serialize;
use vmtest_agent::{Facts, TestId, TestOutcome};

use crate::exit;

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
        match self.exit_code() {
            exit::FAILED if !self.tolerated => Standing::Failed,
            exit::NOT_RUN => Standing::NotRun,
            _ => Standing::Passed,
        }
    }

    /// The exit code that this verdict leads to when it stands alone.
    pub fn exit_code(&self) -> u8 {
        match self.verdict {
            Verdict::Pass => exit::OK,
            Verdict::Panic | Verdict::Hang if !self.booted => exit::NOT_RUN,
            Verdict::Fail | Verdict::Panic | Verdict::KernelSplat | Verdict::Hang => exit::FAILED,
            Verdict::NoBoot | Verdict::WrongKernel | Verdict::Unsupported => exit::NOT_RUN,
            Verdict::Unavailable | Verdict::HostError => exit::NOT_RUN,
        }
    }
}
