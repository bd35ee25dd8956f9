//! What a person sees while kernels run.
//!
//! The engine reports [`RunEvent`]s and knows nothing of terminals; a [`Screen`] shows them and knows nothing
//! of virtual machines. On a terminal each kernel has a live line; anywhere else there are plain lines.

pub mod grid;
mod live;
mod table;
#[cfg(test)]
mod tests;

use std::fmt::{self, Display, Formatter};
use std::io::{self, IsTerminal, Write};
use std::mem::{Discriminant, discriminant, replace};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use indicatif::BinaryBytes;

use crate::report::words;
use crate::text;
use crate::verdict::{KernelReport, Verdict};
pub use live::Line;
use live::Live;
pub use table::table;

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

/// Prints what a command has to say in the end. That the reader went away is no error, and no reason to give no exit code.
pub fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

/// Where [`RunEvent`]s are shown: live lines on a terminal, else plain ones. Shared by the threads of a run.
pub enum Screen {
    /// On a terminal that can move its cursor.
    Live(Live),
    /// Anywhere else: a line for each change, behind the kernel's name, without escape sequences.
    Plain(Mutex<Plain>),
}

pub struct Plain {
    out: Box<dyn Write + Send>,
    /// Of each kernel its name, and the kind of event that was shown last.
    kernels: Vec<(String, Option<Discriminant<RunEvent>>)>,
}

impl Screen {
    /// A screen on standard output, with a line for each of these kernels.
    pub fn new(names: &[String]) -> Self {
        // Without a terminal that can move its cursor, indicatif shows nothing at all.
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        if io::stdout().is_terminal() && !dumb {
            Self::Live(Live::new(names, indicatif::ProgressDrawTarget::stdout()))
        } else {
            Self::plain(names, Box::new(io::stdout()))
        }
    }

    fn plain(names: &[String], out: Box<dyn Write + Send>) -> Self {
        let kernels = names.iter().map(|name| (text::line(name), None)).collect();
        Self::Plain(Mutex::new(Plain { out, kernels }))
    }

    /// Shows what happened to the kernel at this index of the names.
    pub fn event(&self, index: usize, event: RunEvent) {
        match self {
            Self::Live(live) => live.event(index, event),
            Self::Plain(plain) => {
                let mut plain = plain.lock().unwrap_or_else(PoisonError::into_inner);
                let Plain { out, kernels } = &mut *plain;
                let (name, shown) = &mut kernels[index];
                let kind = Some(discriminant(&event));
                if !matches!(event, RunEvent::Note(_)) && replace(shown, kind) == kind {
                    return;
                }
                // A reader that went away (`| head`) is no reason to stop testing.
                let _ = writeln!(out, "{name}: {event}").and_then(|()| out.flush());
            }
        }
    }
}
