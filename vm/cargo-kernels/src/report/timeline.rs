//! Where each kernel's time went, as the geometry of a picture: what fetch, boot and test took, and when.
//!
//! Places are percentages of the picture's width, so that its text keeps its size on a narrow screen.

use serde::Serialize;

use super::RunReport;
use crate::text;
use crate::verdict::KernelReport;

/// The most marks on the axis.
const MOST_TICKS: f64 = 6.0;

/// The picture of a run.
#[derive(Serialize)]
pub struct Timeline {
    /// One for each kernel.
    pub rows: Vec<Row>,
    /// Marks on the axis.
    pub ticks: Vec<Tick>,
}

/// One kernel's line.
#[derive(Serialize)]
pub struct Row {
    /// The kernel.
    pub name: String,
    /// The same as the spans say, in words.
    pub words: String,
    /// What it went through, one after another.
    pub spans: Vec<Span>,
}

/// A stretch of one kernel's time.
#[derive(Serialize)]
pub struct Span {
    /// `fetch`, `boot`, `test` or `other`.
    pub phase: &'static str,
    /// For a person who points at it.
    pub words: String,
    /// Where it begins, in percent.
    pub x: f64,
    /// How long it is, in percent.
    pub width: f64,
}

/// A mark on the axis.
#[derive(Serialize)]
pub struct Tick {
    /// Where, in percent.
    pub x: f64,
    /// The second it stands for: `5`, `0.2`.
    pub second: String,
}

impl Timeline {
    /// Of a run.
    pub fn of(run: &RunReport) -> Self {
        let ends = run.kernels.iter().map(|kernel| kernel.start_s + phases(kernel).iter().map(|(_, s)| s).sum::<f64>());
        let end = ends.fold(run.total_s, f64::max).max(0.1);
        let rows = run.kernels.iter().map(|kernel| row(kernel, end)).collect();
        Self { rows, ticks: ticks(end) }
    }
}

fn row(kernel: &KernelReport, end: f64) -> Row {
    let mut at = kernel.start_s;
    let mut spans = Vec::new();
    for (phase, seconds) in phases(kernel) {
        let words = format!("{phase} {seconds:.1} s");
        spans.push(Span { phase, words, x: percent(at, end), width: percent(seconds, end) });
        at += seconds;
    }
    spans.retain(|span| span.width > 0.0);
    let words = spans.iter().map(|span| span.words.as_str()).collect::<Vec<_>>().join(", ");
    Row { name: text::line(&kernel.name), words, spans }
}

/// What a kernel's time went to. The rest that no phase accounts for comes last: what a guest that did not come up,
/// or did not finish, was waited for, and what it took to prepare and to clean up.
fn phases(kernel: &KernelReport) -> [(&'static str, f64); 4] {
    let (boot, test) = (kernel.boot_s.unwrap_or(0.0), kernel.test_s.unwrap_or(0.0));
    let other = kernel.total_s - kernel.fetch_s - boot - test;
    // Less than what is shown is only what rounding left.
    let other = if other < 0.05 { 0.0 } else { other };
    [("fetch", kernel.fetch_s), ("boot", boot), ("test", test), ("other", other)]
}

/// Round numbers of seconds, from 0, that are at most [`MOST_TICKS`].
fn ticks(end: f64) -> Vec<Tick> {
    let power = 10f64.powf((end / MOST_TICKS).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
    let step = steps.into_iter().find(|step| end / step < MOST_TICKS).unwrap_or(end);
    let count = (end / step).floor() as u32;
    (0..=count)
        .map(|index| f64::from(index) * step)
        .map(|second| Tick { x: percent(second, end), second: tidy(second).to_string() })
        .collect()
}

fn percent(seconds: f64, of: f64) -> f64 {
    tidy(seconds / of * 100.0)
}

/// Without the digits that nobody sees.
fn tidy(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn spans_follow_each_other_and_end_with_the_kernel() {
        let mut kernel = sample::failing("6.1", "6.1.0", 2.0);
        (kernel.fetch_s, kernel.boot_s, kernel.test_s, kernel.total_s) = (2.0, Some(1.0), Some(1.0), 6.0);
        let timeline = Timeline::of(&sample::report(vec![kernel], 8.0));
        let spans: Vec<_> = timeline.rows[0].spans.iter().map(|span| (span.phase, span.x, span.width)).collect();
        assert_eq!(spans, [("fetch", 25.0, 25.0), ("boot", 50.0, 12.5), ("test", 62.5, 12.5), ("other", 75.0, 25.0)]);
        assert_eq!(timeline.rows[0].words, "fetch 2.0 s, boot 1.0 s, test 1.0 s, other 2.0 s");
    }

    #[test]
    fn nothing_leaves_the_picture() {
        let mut kernel = sample::passing("6.1", "6.1.0", 5.0);
        kernel.fetch_s = 100.0;
        let timeline = Timeline::of(&sample::report(vec![kernel], 1.0));
        assert!(timeline.rows[0].spans.iter().all(|span| span.x + span.width <= 100.001));
    }

    #[test]
    fn the_axis_has_a_few_round_numbers() {
        let seconds = |end| ticks(end).iter().map(|tick| tick.second.clone()).collect::<Vec<_>>().join(" ");
        assert_eq!(seconds(28.4), "0 5 10 15 20 25");
        assert_eq!(seconds(0.62), "0 0.2 0.4 0.6");
        assert_eq!(seconds(600.0), "0 200 400 600");
    }
}
