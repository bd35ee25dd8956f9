//! The end of a run on a terminal: the table, what went wrong, the facts, the sum.

use comfy_table::{Cell, Color};
use vmtest_agent::TestResult;

use super::grid::{self, Looks, grid};
use crate::report::facts;
use crate::report::words::{self, TestNames};
use crate::text;
use crate::verdict::{KernelReport, RunReport, Verdict};

/// Lines of a test's output that are shown; the reports have all of it.
const OUTPUT_LINES: usize = 12;
/// What comes before each line of the guest's, so that none can pass for one of ours.
const QUOTE: &str = "  │ ";
/// Before the second line of what is wrapped.
const INDENT: &str = "  ";
/// Where nothing tells how wide lines may be, and a guest's line has to end all the same.
const LONGEST_LINE: usize = 500;

/// Everything to say at the end: a line a kernel, then what went wrong, then, with `facts`, what the kernels
/// say of the program, and the sum as the last line.
pub fn table(run: &RunReport, facts: bool) -> String {
    render(run, facts, Looks::of_stdout())
}

pub(super) fn render(run: &RunReport, facts: bool, looks: Looks) -> String {
    let names = TestNames::of(run);
    let mut parts = vec![kernels(run, looks)];
    parts.extend(run.kernels.iter().filter(|k| k.verdict != Verdict::Pass).map(|k| error(k, &names, looks)));
    let remarks = run.kernels.iter().flat_map(|kernel| {
        let of_kernel = words::remarks(kernel, &names).into_iter();
        of_kernel.flat_map(|remark| wrap("", &format!("{}: {remark}", text::line(&kernel.name)), looks))
    });
    let remarks: String = remarks.map(|line| line + "\n").collect();
    parts.extend((!remarks.is_empty()).then_some(remarks));
    if facts {
        parts.push(facts_part(run, looks));
    }
    parts.push(run.sum() + "\n");
    parts.join("\n")
}

fn kernels(run: &RunReport, looks: Looks) -> String {
    let mut table = grid(&["kernel", "release", "verdict", "tests", "seconds", "accel"], [3, 4], looks);
    for kernel in &run.kernels {
        table.add_row([
            Cell::new(text::line(&kernel.name)),
            Cell::new(kernel.release.as_deref().map_or("-".into(), text::line)),
            Cell::new(kernel.verdict).fg(colour(kernel)),
            Cell::new(words::passed_of(kernel)),
            Cell::new(format!("{:.1}", kernel.total_s)),
            Cell::new(kernel.accel.as_deref().unwrap_or("-")),
        ]);
    }
    grid::text(table)
}

fn facts_part(run: &RunReport, looks: Looks) -> String {
    let rows = facts::rows(run);
    if rows.is_empty() {
        return "No kernel said anything of the program.\n".into();
    }
    let numbers = (0..facts::COLUMNS.len()).filter(|index| facts::COLUMNS[*index].2);
    let mut table = grid(&facts::COLUMNS.map(|(name, ..)| name), numbers, looks);
    table.add_rows(rows);
    let mut part = grid::text(table);
    for (kernel, error) in facts::errors(run) {
        part += &(wrap("", &format!("{kernel}: {error}"), looks).join("\n") + "\n");
    }
    part
}

/// What went wrong on a kernel: the reason, what shows it, the tests with the end of their output, the log.
fn error(kernel: &KernelReport, names: &TestNames, looks: Looks) -> String {
    let head = format!("{}: {}: {}", kernel.name, kernel.verdict, kernel.reason);
    let mut lines = wrap("", &text::line(&head), looks);
    let shown = words::excerpt(kernel);
    match kernel.verdict {
        // These lines are ours, and none may lose its end.
        Verdict::Unavailable | Verdict::Unsupported => {
            lines.extend(shown.iter().flat_map(|line| wrap(INDENT, line, looks)));
        }
        _ => lines.extend(shown.iter().map(|line| quote(line, looks))),
    }
    for outcome in words::failures(kernel) {
        let mut what = format!("{}: {}", names.name(&outcome.test), words::sentence(outcome));
        if !matches!(outcome.result, TestResult::NotStarted { .. } | TestResult::TimedOut) {
            what += &format!(" after {:.1} s", outcome.seconds);
        }
        lines.extend(wrap(INDENT, &what, looks));
        let output = text::without_frames(text::without_summary(&outcome.output));
        lines.extend(text::tail(&output, OUTPUT_LINES).iter().map(|line| quote(line, looks)));
    }
    lines.extend(words::not_run(kernel).map(|words| format!("{INDENT}{words}")));
    if let Some(log) = &kernel.console_log {
        lines.push(format!("{INDENT}console: {}", text::line(&log.display().to_string())));
    }
    lines.join("\n") + "\n"
}

/// A guest's line behind a mark, cut where the terminal would wrap it.
fn quote(line: &str, looks: Looks) -> String {
    let width = looks.width.map_or(LONGEST_LINE, usize::from).saturating_sub(QUOTE.chars().count());
    format!("{QUOTE}{}", console::truncate_str(line, width, "…")).trim_end().to_owned()
}

/// Words of ours behind an indent, wrapped at the terminal's edge; the second line and those after it stand back.
fn wrap(indent: &str, text: &str, looks: Looks) -> Vec<String> {
    let margin = u16::try_from(indent.len() + INDENT.len()).unwrap_or(0);
    let width = looks.width.map(|width| width.saturating_sub(margin));
    let mut table = grid(&[], [], Looks { width, ..looks });
    table.add_row([text]);
    let further = format!("{indent}{INDENT}");
    let indents = std::iter::once(indent).chain(std::iter::repeat(&*further));
    grid::lines(table).iter().zip(indents).map(|(line, indent)| format!("{indent}{line}")).collect()
}

fn colour(kernel: &KernelReport) -> Color {
    match kernel.verdict {
        Verdict::Pass => Color::DarkGreen,
        _ if kernel.tolerated => Color::DarkYellow,
        _ => Color::DarkRed,
    }
}
