//! The words for an event, the same on a terminal and in a log.

use indicatif::BinaryBytes;

use super::RunEvent;
use crate::report::words;
use crate::text;
use crate::verdict::{KernelReport, Verdict};

/// What is happening, while it happens.
pub fn progress(event: &RunEvent) -> String {
    match event {
        RunEvent::Fetching { done, total: Some(total) } => {
            format!("fetching {} of {}", BinaryBytes(*done), BinaryBytes(*total))
        }
        RunEvent::Fetching { done, total: None } => format!("fetching {}", BinaryBytes(*done)),
        RunEvent::Note(note) => text::line(note),
        RunEvent::Preparing => "preparing".into(),
        RunEvent::Booting => "booting".into(),
        RunEvent::Restoring => "restored".into(),
        RunEvent::Testing { done, total, current } => {
            let name = current.as_deref().map(text::line).unwrap_or_default();
            format!("testing {done}/{total} {name}").trim_end().into()
        }
        RunEvent::Finished(report) => verdict(report),
    }
}

/// How it ended, in one line.
pub fn verdict(report: &KernelReport) -> String {
    let mut line = report.verdict.word().to_owned();
    if !report.tests.is_empty() {
        line += &format!(" {}", words::passed_of(report));
    }
    line += &format!(" in {:.1} s", report.total_s);
    if report.verdict != Verdict::Pass {
        line += &format!(": {}", text::line(&report.reason));
    }
    line
}
