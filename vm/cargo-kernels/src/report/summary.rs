//! summary.md, for people who look at a CI job: the table, what went wrong, the facts.
//!
//! The guest's words stand in code spans and fenced blocks, whose fences are longer than any in the text; where one
//! got into a sentence of ours, its markup is escaped.

use vmtest_agent::TestOutcome;

use super::facts;
use super::words::{self, TestNames};
use crate::text;
use crate::verdict::{KernelReport, RunReport, Verdict};

/// Lines of a failed test's output.
const OUTPUT_LINES: usize = 40;
/// Characters of one of those lines.
const LINE_LENGTH: usize = 400;
/// Bytes of the whole; GitHub refuses a step's summary above 1 MiB.
const SIZE: usize = 900 * 1024;

pub fn render(run: &RunReport) -> String {
    let count = run.kernels.len();
    let kernels_word = if count == 1 { "kernel" } else { "kernels" };
    let title = format!("## {} on {count} {kernels_word}: {}\n", code(&run.program), run.sum());
    let mut page = [title, kernels(run)].join("\n");
    let (facts, names) = (facts_table(run), TestNames::of(run));
    for kernel in run.kernels.iter().filter(|kernel| kernel.verdict != Verdict::Pass) {
        let section = error(kernel, &names);
        if page.len() + section.len() + facts.len() > SIZE {
            page += "\nMore went wrong than fits here: see report.html.\n";
            break;
        }
        page += &section;
    }
    page + &facts
}

fn kernels(run: &RunReport) -> String {
    let rows = run.kernels.iter().map(|kernel| {
        [
            cell(&kernel.name),
            kernel.release.as_deref().map_or("-".into(), cell),
            format!("{} {}", words::mark(kernel), kernel.verdict),
            words::passed_of(kernel),
            format!("{:.1}", kernel.total_s),
            kernel.accel.as_deref().map_or("-".into(), cell),
        ]
    });
    table("| kernel | release | verdict | tests | seconds | accel |\n|---|---|---|--:|--:|---|\n", rows)
}

fn facts_table(run: &RunReport) -> String {
    let rows = facts::rows(run);
    if rows.is_empty() {
        return String::new();
    }
    let names = facts::COLUMNS.map(|(name, ..)| name).join(" | ");
    let rules = facts::COLUMNS.map(|(.., number)| if number { "--:" } else { "---" }).join("|");
    let rows = rows.into_iter().map(|row| row.map(|cell| prose(&cell)));
    let facts = table(&format!("| {names} |\n|{rules}|\n"), rows);
    let errors = facts::errors(run).into_iter();
    let errors: String = errors.map(|(kernel, why)| format!("\n{}: {}\n", code(&kernel), prose(&why))).collect();
    format!("\n### What the kernels say of the program\n\n{facts}{errors}")
}

fn table<const N: usize>(header: &str, rows: impl Iterator<Item = [String; N]>) -> String {
    rows.fold(header.to_owned(), |table, row| table + &format!("| {} |\n", row.join(" | ")))
}

fn error(kernel: &KernelReport, names: &TestNames) -> String {
    let mut section = format!("\n### {} {}: {}\n\n", words::mark(kernel), code(&kernel.name), kernel.verdict);
    section += &format!("{}\n", prose(&kernel.reason));
    let excerpt = words::excerpt(kernel);
    if !excerpt.is_empty() {
        section += &format!("\n{}", fenced(&excerpt.join("\n")));
    }
    for outcome in words::failures(kernel) {
        section += &failure(outcome, names);
    }
    section + &words::not_run(kernel).map_or(String::new(), |words| format!("\n{words}.\n"))
}

fn failure(outcome: &TestOutcome, names: &TestNames) -> String {
    let name = code(&names.name(&outcome.test));
    let heading = format!("\n- {name} {}\n", prose(&words::sentence(outcome)));
    let tail = text::tail(&outcome.output, OUTPUT_LINES);
    if tail.is_empty() {
        return heading;
    }
    let lines: Vec<_> = tail.iter().map(|line| console::truncate_str(line, LINE_LENGTH, "…")).collect();
    format!("{heading}\n<details><summary>output</summary>\n\n{}\n</details>\n", fenced(&lines.join("\n")))
}

/// Text in a code block. Its fence is longer than any run of backticks in it, so that nothing in it ends it.
fn fenced(text: &str) -> String {
    let fence = "`".repeat((longest_run_of_backticks(text) + 1).max(3));
    format!("{fence}text\n{text}\n{fence}\n")
}

/// Text in a code span, on one line.
fn code(raw: &str) -> String {
    let text = text::line(raw);
    let fence = "`".repeat(longest_run_of_backticks(&text) + 1);
    // A space at both ends is no part of the span; a span may not be empty, nor begin with its fence.
    match text.starts_with('`') || text.ends_with('`') || text.trim().is_empty() {
        true => format!("{fence} {text} {fence}"),
        false => format!("{fence}{text}{fence}"),
    }
}

/// A code span in a table, where a bar ends the cell even inside of a span.
fn cell(raw: &str) -> String {
    code(raw).replace('|', "\\|")
}

/// A sentence of ours, in which the guest may have had a word, on one line: nothing in it is markup.
pub fn prose(raw: &str) -> String {
    let text = text::line(raw);
    let mut escaped = String::new();
    let mut chars = text.chars().peekable();
    let mut before = ' ';
    while let Some(c) = chars.next() {
        let after = chars.peek().copied().unwrap_or(' ');
        // Inside of a word an underscore is no markup, and names are full of them.
        let inside = c == '_' && before.is_alphanumeric() && after.is_alphanumeric();
        if "\\`*_[]<>|#&~!@".contains(c) && !inside {
            escaped.push('\\');
        }
        escaped.push(c);
        before = c;
    }
    escaped
}

fn longest_run_of_backticks(text: &str) -> usize {
    text.split(|c| c != '`').map(str::len).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample::{self, assert_golden};

    #[test]
    fn a_run_and_a_hostile_one() {
        let logs = tempfile::tempdir().unwrap();
        assert_golden(&render(&sample::run(logs.path())), "report/testdata/summary.md");
        assert_golden(&render(&sample::hostile(logs.path())), "report/testdata/summary-hostile.md");
    }

    #[test]
    fn no_word_of_a_guests_is_markup() {
        assert_eq!(fenced("a ```` b"), "`````text\na ```` b\n`````\n");
        assert_eq!(code("``x"), "``` ``x ```");
        assert_eq!(code(""), "`  `");
        assert_eq!(cell("a|b\nc"), "`a\\|b c`");
        assert_eq!(prose("one_line is _not_ <b>|"), "one_line is \\_not\\_ \\<b\\>\\|");
    }

    #[test]
    fn a_summary_stays_below_what_github_takes() {
        let mut kernel = sample::failing("6.1");
        kernel.tests = vec![kernel.tests[2].clone(); 10];
        let line = "x".repeat(LINE_LENGTH) + "\n";
        kernel.tests.iter_mut().for_each(|test| test.output = line.repeat(OUTPUT_LINES));
        let page = render(&sample::report(vec![kernel; 8]));
        assert!(page.len() < 1 << 20, "{}", page.len());
        assert!(page.ends_with("| link |\n"));
        assert!(page.contains("see report.html"));
    }
}
