//! The rows as a person or a program reads them.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use comfy_table::Cell;
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use super::rows::{Row, Rows, Verdict};
use crate::ui::grid::{grid, right, text as print};

/// All as JSON.
pub fn json(rows: &Rows) -> Result<String> {
    Ok(serde_json::to_string_pretty(rows)? + "\n")
}

fn word(row: &Row) -> &'static str {
    match row.verdict {
        Verdict::Loaded => "loaded",
        Verdict::Refused => "refused",
        Verdict::Optional => "optional",
    }
}

/// The table, then a paragraph for each refusal; the logs, too, if they were asked for.
pub fn table(rows: &Rows, logs: bool, took: Duration) -> String {
    let columns = ["program", "kernel", "verdict", "class", "insns", "states", "peak", "stack", "size", "jited", "µs"];
    let mut out = String::new();
    let width = console::Term::stdout().size_checked().map(|(_, columns)| columns);
    for object in objects(rows) {
        let mut table = grid(&columns, width);
        for row in rows.all.iter().filter(|row| row.object == object) {
            let stats = row.stats.unwrap_or_default();
            let texts = [&row.program, &row.kernel, word(row), row.class.unwrap_or("")];
            let numbers =
                [stats.insns, stats.states, stats.peak_states, stats.stack, row.size, row.jited, stats.time_us];
            table.add_row(texts.map(Cell::new).into_iter().chain(numbers.map(right)));
        }
        let _ = writeln!(out, "{object}\n{}", print(table));
    }
    for row in rows.all.iter().filter(|row| row.verdict != Verdict::Loaded) {
        let _ = writeln!(out, "{}", paragraph(row));
        if !logs {
            row.excerpt.iter().for_each(|line| out += &format!("  │ {line}\n"));
        }
    }
    for row in rows.all.iter().filter(|_| logs) {
        let _ = writeln!(out, "{} {} on {}:", row.object, row.program, row.kernel);
        row.log.lines().for_each(|line| out += &format!("  │ {line}\n"));
    }
    for (kernel, why) in &rows.not_run {
        let _ = writeln!(out, "kernel {kernel}: not run: {why}");
    }
    let count = |verdict| rows.all.iter().filter(|row| row.verdict == verdict).count();
    let (loaded, refused) = (count(Verdict::Loaded), count(Verdict::Refused));
    let optional = match count(Verdict::Optional) {
        0 => String::new(),
        optional => format!(", {optional} optional"),
    };
    let seconds = took.as_secs_f64();
    out + &format!("{loaded} loaded, {refused} refused{optional} in {seconds:.1} s\n")
}

fn objects(rows: &Rows) -> Vec<&str> {
    let mut objects: Vec<&str> = rows.all.iter().map(|row| row.object.as_str()).collect();
    objects.dedup();
    objects
}

fn paragraph(row: &Row) -> String {
    let head = format!("{} {} on {}: {}", row.object, row.program, row.kernel, word(row));
    let class = row.class.unwrap_or_default();
    let source = row.source.as_ref().map(|line| format!("\n  at: {line}")).unwrap_or_default();
    format!("{head} ({class}): {}{source}", row.sentence.as_deref().unwrap_or_default())
}

/// In veristat's own form, with the kernel before its columns.
fn csv(rows: &Rows) -> String {
    let mut out = "kernel,file_name,prog_name,verdict,duration,total_insns,total_states,peak_states,stack_depth,prog_size,jited_size\n".to_owned();
    for row in &rows.all {
        let stats = row.stats.unwrap_or_default();
        let verdict = if row.verdict == Verdict::Loaded { "success" } else { "failure" };
        let texts = [&row.kernel, &row.object, &row.program, verdict].map(quoted).join(",");
        let numbers = [stats.time_us, stats.insns, stats.states, stats.peak_states, stats.stack, row.size, row.jited];
        let _ = writeln!(out, "{texts},{}", numbers.map(|number| number.to_string()).join(","));
    }
    out
}

/// A field that may hold anything, for RFC 4180.
fn quoted(field: &str) -> String {
    match field.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.to_owned(),
    }
}

/// One suite for each kernel, one test for each program.
fn junit(rows: &Rows) -> Result<String> {
    let mut report = Report::new("cargo kernels load");
    for (kernel, release) in &rows.kernels {
        let mut suite = TestSuite::new(format!("{kernel} ({release})"));
        for row in rows.all.iter().filter(|row| row.kernel == *kernel) {
            let mut status = match row.verdict {
                Verdict::Loaded => TestCaseStatus::success(),
                Verdict::Refused => TestCaseStatus::non_success(NonSuccessKind::Failure),
                Verdict::Optional => TestCaseStatus::skipped(),
            };
            if row.verdict != Verdict::Loaded {
                status.set_message(row.sentence.clone().unwrap_or_default());
            }
            if row.verdict == Verdict::Refused {
                status.set_description(row.excerpt.join("\n"));
            }
            let mut case = TestCase::new(row.program.as_str(), status);
            case.set_classname(row.object.as_str());
            suite.add_test_case(case);
        }
        add_not_run(&mut suite, rows, kernel);
        report.add_test_suite(suite);
    }
    for (kernel, _) in rows.not_run.iter().filter(|(kernel, _)| !answered(rows, kernel)) {
        let mut suite = TestSuite::new(kernel.as_str());
        add_not_run(&mut suite, rows, kernel);
        report.add_test_suite(suite);
    }
    report.to_string().context("cannot write JUnit's XML")
}

fn answered(rows: &Rows, kernel: &str) -> bool {
    rows.kernels.iter().any(|(other, _)| other == kernel)
}

fn add_not_run(suite: &mut TestSuite, rows: &Rows, kernel: &str) {
    for (_, why) in rows.not_run.iter().filter(|(other, _)| other == kernel) {
        let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
        status.set_message(why.as_str());
        suite.add_test_case(TestCase::new("not run", status));
    }
}

/// The matrix of programs and kernels: what stands in each place, and the row behind it.
fn matrix(rows: &Rows) -> Vec<(&Row, Vec<Option<&Row>>)> {
    let mut lines: Vec<(&Row, Vec<Option<&Row>>)> = Vec::new();
    for row in &rows.all {
        let same = |it: &&Row| (&it.object, &it.program) == (&row.object, &row.program);
        if lines.iter().any(|(first, _)| same(first)) {
            continue;
        }
        let of = |kernel: &str| rows.all.iter().filter(same).find(|it| it.kernel == kernel);
        lines.push((row, rows.kernels.iter().map(|(kernel, _)| of(kernel)).collect()));
    }
    lines
}

fn cell(row: Option<&Row>) -> String {
    let Some(row) = row else { return "–".into() };
    match (row.verdict, row.stats) {
        (Verdict::Loaded, Some(stats)) => format!("✓ {}", stats.insns),
        (Verdict::Loaded, None) => "✓".into(),
        _ => format!("✗ {}", row.class.unwrap_or_default()),
    }
}

/// For a pull request.
fn markdown(rows: &Rows) -> String {
    let escaped = |text: &str| text.replace('\\', "\\\\").replace('|', "\\|").replace('<', "&lt;");
    let kernels: Vec<String> = rows.kernels.iter().map(|(kernel, _)| escaped(kernel)).collect();
    let mut out = format!("| program | {} |\n|---|{}\n", kernels.join(" | "), "---|".repeat(kernels.len()));
    for (first, cells) in matrix(rows) {
        let cells: Vec<String> = cells.into_iter().map(cell).collect();
        let (object, program) = (escaped(&first.object), escaped(&first.program));
        let _ = writeln!(out, "| {object} {program} | {} |", cells.join(" | "));
    }
    out.push('\n');
    for row in rows.all.iter().filter(|row| row.verdict != Verdict::Loaded) {
        let _ = writeln!(out, "- {}", escaped(&paragraph(row)).replace('\n', " "));
    }
    for (kernel, why) in &rows.not_run {
        let _ = writeln!(out, "- {} was not run: {}", escaped(kernel), escaped(why));
    }
    out
}

/// A page with the matrix; each refusal opens its log.
const PAGE: &str = include_str!("load.html");

fn html(rows: &Rows) -> Result<String> {
    let lines: Vec<_> = matrix(rows)
        .into_iter()
        .map(|(first, cells)| {
            let cells: Vec<_> = cells
                .into_iter()
                .map(|row| {
                    let refused = row.filter(|row| row.verdict != Verdict::Loaded);
                    minijinja::context! {
                        text => cell(row),
                        why => refused.map(paragraph),
                        log => refused.map(|row| row.excerpt.join("\n")),
                    }
                })
                .collect();
            minijinja::context! { object => &first.object, program => &first.program, cells }
        })
        .collect();
    let mut templates = minijinja::Environment::new();
    // The name's end is what makes it escape.
    templates.add_template("load.html", PAGE)?;
    let kernels = &rows.kernels;
    let not_run = &rows.not_run;
    let page = templates.get_template("load.html")?;
    Ok(page.render(minijinja::context! { kernels, lines, not_run })?)
}

/// Writes every format, and each program's log.
///
/// # Errors
/// When a file cannot be written.
pub fn write(dir: &Path, rows: &Rows) -> Result<()> {
    let logs = dir.join("logs");
    std::fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
    let write = |path: &Path, text: &str| {
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    write(&dir.join("load.json"), &json(rows)?)?;
    write(&dir.join("load.csv"), &csv(rows))?;
    write(&dir.join("junit.xml"), &junit(rows)?)?;
    write(&dir.join("summary.md"), &markdown(rows))?;
    write(&dir.join("load.html"), &html(rows)?)?;
    for row in &rows.all {
        let name = format!("{} {} {}.log", row.kernel, row.object, row.program);
        // Names are the guest's and the object's words.
        write(&logs.join(name.replace(|c: char| !c.is_ascii_alphanumeric() && !"._-".contains(c), "_")), &row.log)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::rows::tests::sample;
    use super::*;

    fn rows() -> Rows {
        let mut rows = sample(&[("5.4", false), ("6.12", true)]);
        for row in &mut rows.all {
            row.program = "a<b>|,\"".into();
        }
        rows.not_run.push(("6.1".into(), "no <image>".into()));
        rows
    }

    #[test]
    fn every_format_tells_the_refusal_and_escapes_names() {
        let (csv, markdown) = (csv(&rows()), markdown(&rows()));
        assert!(csv.contains("5.4,a.bpf.o,\"a<b>|,\"\"\",failure,"), "{csv}");
        assert!(csv.contains(",success,0,100,0,"), "{csv}");
        assert!(markdown.contains("| a.bpf.o a&lt;b>\\|,\" | ✗ helper | ✓ 100 |"), "{markdown}");
        for text in [html(&rows()).unwrap(), junit(&rows()).unwrap()] {
            assert!(text.contains("there since 5.15") && text.contains("a&lt;b"), "{text}");
            assert!(text.contains("no &lt;image"), "{text}");
        }
    }

    #[test]
    fn the_table_ends_with_the_sum() {
        let table = table(&rows(), false, Duration::from_millis(1500));
        assert!(table.contains("at: return 1;\n  │ ; return 1;\n  │ invalid func"), "{table}");
        assert!(table.ends_with("1 loaded, 1 refused in 1.5 s\n"), "{table}");
    }
}
