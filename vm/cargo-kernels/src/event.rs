//! What happens while one kernel runs, as the engine reports it.

use std::fmt::{self, Display, Formatter};

use indicatif::BinaryBytes;

use crate::report::words;
use crate::text;
use crate::verdict::{KernelReport, Verdict};

/// The life of one kernel's run, in the order in which it is lived:
///
/// `Fetching`* → `Preparing` → `Booting` or `Restoring` → `Testing`* → `Finished`
///
/// Any of them may be left out, but for `Finished`, which comes exactly once. A `Note` may come at any time before it.
#[derive(Debug)]
pub enum RunEvent {
    /// The kernel is on its way here. Sent as often as there is progress.
    Fetching {
        done: u64,
        /// Bytes altogether, when the server said so.
        total: Option<u64>,
    },
    /// Something worth a line of its own: KVM that does not work, a snapshot that had to be made anew.
    Note(String),
    /// The guest's root, payload or snapshot is being made.
    Preparing,
    /// The virtual machine was started, and the agent was not heard of yet.
    Booting,
    Restoring,
    /// The agent runs the tests. Sent when the job is handed over, and whenever a test starts or ends.
    Testing {
        done: usize,
        total: usize,
        /// The test that runs now, in the guest's words.
        current: Option<String>,
    },
    Finished(Box<KernelReport>),
}

/// What is happening, in words that are the same on a terminal and in a log.
impl Display for RunEvent {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fetching { done, total: Some(total) } => {
                write!(f, "fetching {} of {}", BinaryBytes(*done), BinaryBytes(*total))
            }
            Self::Fetching { done, total: None } => write!(f, "fetching {}", BinaryBytes(*done)),
            Self::Note(note) => f.write_str(&text::line(note)),
            Self::Preparing => f.write_str("preparing"),
            Self::Booting => f.write_str("booting"),
            Self::Restoring => f.write_str("restored"),
            Self::Testing { done, total, current } => {
                write!(f, "testing {done}/{total}")?;
                current.iter().try_for_each(|name| write!(f, " {}", text::line(name)))
            }
            Self::Finished(report) => f.write_str(&verdict(report)),
        }
    }
}

/// How it ended, in one line.
fn verdict(report: &KernelReport) -> String {
    let mut line = report.verdict.to_string();
    if words::could_run(report) {
        line += &format!(" {}", words::passed_of(report));
    }
    line += &format!(" in {:.1} s", report.total_s);
    if report.verdict != Verdict::Pass {
        line += &format!(": {}", text::line(&report.reason));
    }
    line
}
