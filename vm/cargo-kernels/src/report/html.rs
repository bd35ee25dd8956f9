//! report.html: everything about a run in one file that needs no other, no network and no script.
//!
//! Here the page's data is made; report.html.j2 is its looks. Whatever the guest wrote goes through [`crate::text`]
//! and then through the template engine's escaping, and the page's own policy forbids scripts and resources.

use std::path::Path;

use anyhow::{Context, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use serde::Serialize;
use vmtest_agent::{TestId, TestOutcome, TestResult};

use super::json::moment;
use super::logs::LogPath;
use super::timeline::Timeline;
use super::words::{self, TestNames};
use super::{RunReport, facts};
use crate::text;
use crate::verdict::{KernelReport, Standing};

/// Bytes of a test's output that are shown at its beginning, and at its end.
const OUTPUT: usize = 8 * 1024;
/// Characters of a kernel's name at the head of its column.
const SHORT_NAME: usize = 12;
/// Bytes of a console log that are shown at its beginning, and at its end.
const CONSOLE: usize = 48 * 1024;

#[derive(Serialize)]
struct Page {
    program: String,
    sum: String,
    kernel_count: usize,
    started: String,
    total: String,
    rows: Vec<MatrixRow>,
    kernels: Vec<Kernel>,
    timeline: Timeline,
    fact_columns: Vec<facts::Column>,
    facts: Vec<facts::Row>,
    fact_errors: Vec<(String, String)>,
}

/// A test and what came of it on each kernel.
#[derive(Serialize)]
struct MatrixRow {
    name: String,
    cells: Vec<Cell>,
}

#[derive(Serialize)]
struct Cell {
    /// A word of report.json's, or `not-asked`: the cell's class.
    result: &'static str,
    mark: &'static str,
    /// What a screen reader says, and what shows when it is pointed at.
    words: String,
    /// The id of the output, for a test that did not pass.
    link: Option<String>,
}

#[derive(Serialize)]
struct Kernel {
    id: String,
    name: String,
    /// The end of the name, at the head of a narrow column.
    short_name: String,
    release: String,
    verdict: &'static str,
    /// `passed`, `failed`, `tolerated` or `not-run`: its class.
    standing: &'static str,
    mark: &'static str,
    /// `6/8 tests · 7.9 s · tcg, cold`
    words: String,
    reason: String,
    excerpt: String,
    failures: Vec<Failure>,
    not_run: Vec<String>,
    console: Option<Console>,
}

#[derive(Serialize)]
struct Failure {
    id: String,
    name: String,
    words: String,
    output: String,
}

#[derive(Serialize)]
struct Console {
    path: String,
    text: String,
}

/// The whole file.
///
/// # Errors
///
/// A console log cannot be read.
pub fn render(run: &RunReport, logs: &[LogPath]) -> Result<String> {
    let page = Page {
        program: text::line(&run.program),
        sum: run.sum(),
        kernel_count: run.kernels.len(),
        started: moment(run.started, 0.0).format("%Y-%m-%d %H:%M:%S UTC").to_string(),
        total: format!("{:.1} s", run.total_s),
        rows: matrix(run),
        kernels: kernels(run, logs)?,
        timeline: Timeline::of(run),
        fact_columns: facts::COLUMNS.into(),
        facts: facts::rows(run),
        fact_errors: facts::errors(run),
    };
    let mut templates = Environment::new();
    templates.set_auto_escape_callback(|_| AutoEscape::Html);
    templates.set_undefined_behavior(UndefinedBehavior::Strict);
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
    templates.set_syntax(syntax);
    templates.render_str(include_str!("report.html.j2"), Serde(&page)).context("cannot make report.html")
}

/// Every test that some kernel was asked for, in the order in which they come up.
fn matrix(run: &RunReport) -> Vec<MatrixRow> {
    let names = TestNames::of(run);
    let mut tests: Vec<&TestId> = Vec::new();
    for test in run.kernels.iter().flat_map(words::all_tests) {
        if !tests.contains(&test) {
            tests.push(test);
        }
    }
    let row = |test: &TestId| MatrixRow {
        name: names.name(test),
        cells: run.kernels.iter().enumerate().map(|(index, kernel)| cell(index, kernel, test)).collect(),
    };
    tests.into_iter().map(row).collect()
}

fn cell(kernel_index: usize, kernel: &KernelReport, test: &TestId) -> Cell {
    let outcome = kernel.tests.iter().enumerate().find(|(_, outcome)| outcome.test == *test);
    let (result, words, link) = match outcome {
        Some((index, outcome)) => {
            let failed = outcome.result != TestResult::Passed;
            let link = failed.then(|| failure_id(kernel_index, index));
            (words::result(&outcome.result), words::sentence(&outcome.result), link)
        }
        None if kernel.missing.contains(test) => (words::NOT_RUN, "not run".into(), None),
        None => ("not-asked", "not asked for".into(), None),
    };
    let mark = RESULT_MARKS.iter().find(|(word, _)| *word == result).map_or("?", |(_, mark)| mark);
    Cell { result, mark, words: format!("{} on {}", words, text::line(&kernel.name)), link }
}

/// What stands in the matrix for each result, so that it can be read without its colours.
const RESULT_MARKS: [(&str, &str); 7] = [
    ("passed", "✓"),
    ("failed", "✗"),
    ("killed", "K"),
    ("timed-out", "T"),
    ("not-started", "S"),
    (words::NOT_RUN, "–"),
    ("not-asked", ""),
];

fn failure_id(kernel: usize, test: usize) -> String {
    format!("k{kernel}-t{test}")
}

fn kernels(run: &RunReport, logs: &[LogPath]) -> Result<Vec<Kernel>> {
    let names = TestNames::of(run);
    let kernels = run.kernels.iter().zip(logs).enumerate();
    kernels.map(|(index, (kernel, log))| section(index, kernel, log.as_deref(), &names)).collect()
}

fn section(index: usize, kernel: &KernelReport, log: Option<&str>, names: &TestNames) -> Result<Kernel> {
    let outcomes = kernel.tests.iter().enumerate();
    let failures = outcomes.filter(|(_, outcome)| outcome.result != TestResult::Passed);
    let failure = |(test, outcome)| failure(failure_id(index, test), outcome, names);
    let failures: Vec<Failure> = failures.map(failure).collect();
    let console = match (&kernel.console_log, log) {
        (Some(file), Some(path)) => Some(Console { path: path.into(), text: console(file)? }),
        _ => None,
    };
    Ok(Kernel {
        id: format!("k{index}"),
        name: text::line(&kernel.name),
        short_name: text::end(&text::line(&kernel.name), SHORT_NAME),
        release: kernel.release.as_deref().map(text::line).unwrap_or_default(),
        verdict: kernel.verdict.word(),
        standing: standing(kernel),
        mark: words::mark(kernel),
        words: summary(kernel),
        reason: text::line(&kernel.reason),
        excerpt: words::excerpt(kernel).join("\n"),
        failures,
        not_run: kernel.missing.iter().map(|test| names.name(test)).collect(),
        console,
    })
}

fn standing(kernel: &KernelReport) -> &'static str {
    match kernel.standing() {
        Standing::Failed => "failed",
        _ if kernel.tolerated => "tolerated",
        Standing::Passed => "passed",
        Standing::NotRun => "not-run",
    }
}

fn summary(kernel: &KernelReport) -> String {
    let mut words = vec![format!("{:.1} s", kernel.total_s)];
    if !kernel.tests.is_empty() {
        words.insert(0, format!("{} tests", words::passed_of(kernel)));
    }
    words.extend(kernel.accel.as_ref().map(|accel| text::line(&format!("{accel}, {}", kernel.backend))));
    words.join(" · ")
}

fn failure(id: String, outcome: &TestOutcome, names: &TestNames) -> Failure {
    let mut words = words::sentence(&outcome.result);
    if outcome.dropped_bytes > 0 {
        words += &format!("; {} more bytes of output were dropped", outcome.dropped_bytes);
    }
    Failure {
        id,
        name: names.name(&outcome.test),
        words,
        output: text::block(text::ends(&outcome.output, OUTPUT).as_ref()),
    }
}

/// The host keeps 16 MiB of a console at the most.
fn console(file: &Path) -> Result<String> {
    let log = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(text::block(&text::ends(&String::from_utf8_lossy(&log), CONSOLE)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::report::sample;

    fn page(run: &RunReport) -> String {
        render(run, &sample::log_paths(run)).unwrap()
    }

    #[test]
    fn everything_about_a_run_is_in_its_page() {
        let logs = tempfile::tempdir().unwrap();
        let run = sample::run(logs.path());
        let page = page(&run);
        for kernel in &run.kernels {
            assert!(page.contains(&format!("<b>{}</b>", kernel.name)));
            assert!(page.contains(&format!("{} {}</span>", words::mark(kernel), kernel.verdict.word())));
        }
        for test in sample::TESTS {
            assert!(page.contains(&test.replace('_', "_<wbr>")), "{test}");
        }
        assert!(page.contains("left: 49"), "a failing test's output");
        assert!(page.contains("[    2.417003] Kernel panic - not syncing: sysrq triggered crash"), "a console log");
        assert!(page.contains("<td class=\"number\">1904 ns</td>"), "a fact");
        assert!(page.contains("fetch 5.5 s, boot 2.1 s"), "the timeline");
    }

    #[test]
    fn a_cell_that_did_not_pass_leads_to_its_output() {
        let logs = tempfile::tempdir().unwrap();
        let page = page(&sample::run(logs.path()));
        let links: Vec<&str> = page.split("href=\"#").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert_eq!(links.iter().filter(|link| link.contains("-t")).count(), 2);
        assert!(links.iter().all(|link| page.contains(&format!("id=\"{link}\""))), "{links:?}");
    }

    #[test]
    fn nothing_a_guest_wrote_becomes_markup() {
        let logs = tempfile::tempdir().unwrap();
        let page = page(&sample::hostile(logs.path()));
        assert!(!page.contains("<script") && !page.contains("<img"), "{page}");
        assert!(page.contains("&lt;script&gt;"));
        assert!(!page.contains(|c: char| c.is_control() && c != '\n'));
    }

    #[test]
    fn a_run_that_never_came_to_a_test_has_a_page() {
        let mut kernel = sample::unavailable("5.4");
        (kernel.missing, kernel.total_s) = (vec![], 0.0);
        let page = page(&sample::report(vec![kernel], 0.0));
        assert!(page.contains("helloworld on 1 kernel<") && !page.contains("NaN"), "{page}");
    }

    #[test]
    fn a_page_stays_small_whatever_was_printed() {
        let logs = tempfile::tempdir().unwrap();
        let mut run = sample::run(logs.path());
        for kernel in &mut run.kernels {
            kernel.tests.iter_mut().for_each(|test| test.output = "\u{1}<".repeat(1 << 17));
        }
        std::fs::write(logs.path().join("7.3.log"), vec![b'<'; 8 << 20]).unwrap();
        let page = page(&run);
        assert!(page.len() < 1 << 20, "{}", page.len());
        assert!(page.contains("8290304 bytes are left out here"));
    }
}
