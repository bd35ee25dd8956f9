//! report.html: everything about a run in one file that needs no other, no network and no script.
//!
//! Here the page's data is made; report.html.j2 is its looks. Every text goes through [`crate::text`] and the template
//! engine's escaping ([`page`]), and the page's own policy forbids scripts and resources.

use anyhow::{Context, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value, context, escape_formatter};
use vmtest_agent::{TestId, TestResult};

use super::facts;
use super::json::moment;
use super::words::{self, TestNames};
use crate::text;
use crate::verdict::{KernelReport, RunReport, Standing};

/// Bytes of a test's output that are shown at its beginning, and at its end.
const OUTPUT: usize = 8 * 1024;
/// Characters of a kernel's name at the head of its column.
const SHORT_NAME: usize = 12;
/// Bytes of a console log that are shown at its beginning, and at its end.
const CONSOLE: usize = 48 * 1024;

/// What stands in the matrix for each result, so that it can be read without its colours, and what it means.
const MARKS: [(&str, &str, &str); 6] = [
    ("passed", "✓", "passed"),
    ("failed", "✗", "failed"),
    ("killed", "K", "killed by a signal"),
    ("timed-out", "T", "timed out"),
    ("not-started", "S", "could not be started"),
    (words::NOT_RUN, "–", "not run"),
];

pub fn render(run: &RunReport) -> Result<String> {
    let names = TestNames::of(run);
    let kernels = run.kernels.iter().enumerate().map(|(index, report)| kernel(index, report, &names));
    let data = context! {
        program => &run.program,
        sum => run.sum(),
        started => moment(run.started, 0.0).format("%Y-%m-%d %H:%M:%S UTC").to_string(),
        total => format!("{:.1} s", run.total_s),
        end => run.kernels.iter().map(|kernel| kernel.start_s + kernel.total_s).fold(run.total_s, f64::max),
        marks => MARKS,
        rows => matrix(run, &names),
        kernels => kernels.collect::<Result<Vec<_>>>()?,
        fact_columns => facts::COLUMNS,
        facts => facts::rows(run),
        fact_errors => facts::errors(run),
    };
    page(include_str!("report.html.j2"), data).context("cannot make report.html")
}

/// A page of this template. Whatever is put into it is made safe to show, and a name that is not there is an error.
pub fn page(template: &str, data: Value) -> Result<String> {
    let mut templates = Environment::new();
    templates.set_auto_escape_callback(|_| AutoEscape::Html);
    templates.set_formatter(|out, state, value| match value.as_str().filter(|_| !value.is_safe()) {
        Some(raw) => escape_formatter(out, state, &text::block(raw).into()),
        None => escape_formatter(out, state, value),
    });
    templates.set_undefined_behavior(UndefinedBehavior::Strict);
    templates.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    Ok(templates.render_str(template, data)?)
}

/// Every test that some kernel was asked for, in the order in which they come up, and what came of it on each.
fn matrix(run: &RunReport, names: &TestNames) -> Vec<Value> {
    let mut tests: Vec<&TestId> = Vec::new();
    for test in run.kernels.iter().flat_map(words::all_tests) {
        if !tests.contains(&test) {
            tests.push(test);
        }
    }
    let row = |test: &TestId| {
        let cells = run.kernels.iter().enumerate().map(|(index, kernel)| cell(index, kernel, test));
        context! { name => names.name(test), cells => cells.collect::<Vec<_>>() }
    };
    tests.into_iter().map(row).collect()
}

fn cell(kernel_index: usize, kernel: &KernelReport, test: &TestId) -> Value {
    let outcome = kernel.tests.iter().enumerate().find(|(_, outcome)| outcome.test == *test);
    let (result, words) = match outcome {
        Some((_, outcome)) => (words::result(&outcome.result), words::sentence(outcome)),
        None if kernel.missing.contains(test) => (words::NOT_RUN, "not run".into()),
        None => ("not-asked", "not asked for".into()),
    };
    let failed = outcome.filter(|(_, outcome)| outcome.result != TestResult::Passed);
    context! {
        result,
        mark => MARKS.iter().find(|(word, ..)| *word == result).map_or("", |(_, mark, _)| mark),
        words => format!("{words} on {}", kernel.name),
        link => failed.map(|(index, _)| format!("k{kernel_index}-t{index}")),
    }
}

fn kernel(index: usize, kernel: &KernelReport, names: &TestNames) -> Result<Value> {
    let failures = kernel.tests.iter().enumerate().filter(|(_, outcome)| outcome.result != TestResult::Passed);
    let failures = failures.map(|(test, outcome)| {
        context! {
            id => format!("k{index}-t{test}"),
            name => names.name(&outcome.test),
            words => words::sentence(outcome),
            dropped_bytes => outcome.dropped_bytes,
            output => text::ends(&outcome.output, OUTPUT),
        }
    });
    let console = kernel.console_log.as_ref().map(|file| {
        let log = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        anyhow::Ok(text::ends(&String::from_utf8_lossy(&log), CONSOLE).into_owned())
    });
    let standing = match kernel.standing() {
        Standing::Failed => "failed",
        Standing::Passed if !kernel.tolerated => "passed",
        _ => words::NOT_RUN,
    };
    Ok(context! {
        id => format!("k{index}"),
        short_name => text::end(&text::line(&kernel.name), SHORT_NAME),
        standing,
        mark => words::mark(kernel),
        words => summary(kernel),
        failures => failures.collect::<Vec<_>>(),
        not_run => kernel.missing.iter().map(|test| names.name(test)).collect::<Vec<_>>(),
        start => kernel.start_s,
        phases => phases(kernel),
        console => console.transpose()?,
        ..Value::from(Serde(kernel))
    })
}

/// `6/8 tests · 7.9 s · tcg, boot`
fn summary(kernel: &KernelReport) -> String {
    let mut words = vec![format!("{:.1} s", kernel.total_s)];
    if !kernel.tests.is_empty() {
        words.insert(0, format!("{} tests", words::passed_of(kernel)));
    }
    words.extend(kernel.accel.as_ref().map(|accel| format!("{accel}, {}", kernel.backend)));
    words.join(" · ")
}

/// What a kernel's time went to. The rest that no phase accounts for comes last: what a guest that did not come up,
/// or did not finish, was waited for, and what it took to prepare and to clean up.
fn phases(kernel: &KernelReport) -> Vec<(&'static str, f64)> {
    let (boot, test) = (kernel.boot_s.unwrap_or(0.0), kernel.test_s.unwrap_or(0.0));
    let other = kernel.total_s - kernel.fetch_s - boot - test;
    // Less than what is shown is only what rounding left.
    let other = if other < 0.05 { 0.0 } else { other };
    let all = [("fetch", kernel.fetch_s), ("boot", boot), ("test", test), ("other", other)];
    all.into_iter().filter(|(_, seconds)| *seconds > 0.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn page_has_whole_run_and_links_failed_tests_to_output() {
        let logs = tempfile::tempdir().unwrap();
        let run = sample::run(logs.path());
        let page = render(&run).unwrap();
        let mut expected: Vec<String> = sample::TESTS.map(|test| test.replace('_', "_<wbr>")).into();
        for kernel in &run.kernels {
            expected.push(format!("<b>{}</b>", kernel.name));
            expected.push(format!("{} {}</span>", words::mark(kernel), kernel.verdict));
        }
        let output = "left: 49";
        let console = "[    2.417003] Kernel panic - not syncing: sysrq triggered crash";
        let fact = "<td class=\"number\">1904 ns</td>";
        let timeline = "fetch 5.5 s, boot 2.1 s, other 1.2 s";
        let log = "<a href=\"console&#x2f;7.3.log\">";
        expected.extend([output, console, fact, timeline, log].map(str::to_owned));
        for expected in expected {
            assert!(page.contains(&expected), "{expected}");
        }
        let links: Vec<&str> = page.split("href=\"#").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert_eq!(links.iter().filter(|link| link.contains("-t")).count(), 2);
        assert!(links.iter().all(|link| page.contains(&format!("id=\"{link}\""))), "{links:?}");
    }

    #[test]
    fn nothing_a_guest_wrote_becomes_markup() {
        let logs = tempfile::tempdir().unwrap();
        let page = render(&sample::hostile(logs.path())).unwrap();
        assert!(!page.contains("<script") && !page.contains("<img"), "{page}");
        assert!(page.contains("&lt;script&gt;"));
        assert!(!page.contains(|c: char| c.is_control() && c != '\n'));
    }

    #[test]
    fn a_run_that_never_came_to_a_test_has_a_page() {
        let kernel = KernelReport { missing: vec![], total_s: 0.0, ..sample::unavailable("5.4") };
        let page = render(&sample::report([kernel])).unwrap();
        assert!(page.contains("helloworld on 1 kernel<") && !page.contains("NaN"), "{page}");
    }

    #[test]
    fn a_page_stays_small_whatever_was_printed() {
        let logs = tempfile::tempdir().unwrap();
        let mut run = sample::run(logs.path());
        let tests = run.kernels.iter_mut().flat_map(|kernel| &mut kernel.tests);
        tests.for_each(|test| test.output = "\u{1}<".repeat(1 << 17));
        std::fs::write(logs.path().join("7.3.log"), vec![b'<'; 8 << 20]).unwrap();
        let page = render(&run).unwrap();
        assert!(page.len() < 1 << 20, "{}", page.len());
        assert!(page.contains("8290304 bytes are left out here"));
    }
}
