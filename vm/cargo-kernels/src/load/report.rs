//! The rows as a person or a program reads them.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use minijinja::context;
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};
use vm_kernels::whole_file;

use super::class::Reason;
use super::rows::{LoadResult, Row, Rows};
use crate::report::{page, prose};
use crate::ui::grid::{self, Looks, grid};

pub fn json(rows: &Rows) -> Result<String> {
    Ok(serde_json::to_string_pretty(rows)? + "\n")
}

/// The table, then a paragraph for each refusal; the logs, too, if they were asked for.
pub fn table(rows: &Rows, logs: bool, took: Duration) -> String {
    let columns = ["program", "kernel", "verdict", "class", "insns", "states", "peak", "stack", "size", "jited", "µs"];
    let mut out = String::new();
    for of_object in rows.all.chunk_by(|a, b| a.object == b.object) {
        let mut table = grid(&columns, 4..11, Looks { colour: false, ..Looks::of_stdout() });
        for row in of_object {
            let stats = row.stats.unwrap_or_default();
            let class = row.refused.as_ref().map_or("", |reason| reason.class);
            let texts = [row.program.clone(), row.kernel.clone(), row.result.to_string(), class.into()];
            let numbers =
                [stats.insns, stats.states, stats.peak_states, stats.stack, row.size, row.jited, stats.time_us];
            table.add_row(texts.into_iter().chain(numbers.map(|number| number.to_string())));
        }
        let _ = writeln!(out, "{}\n{}", of_object[0].object, grid::text(table));
    }
    for (row, reason) in rows.refused() {
        let _ = writeln!(out, "{}", paragraph(row, reason));
        if !logs {
            reason.excerpt.iter().for_each(|line| out += &format!("  │ {line}\n"));
        }
    }
    for row in rows.all.iter().filter(|_| logs) {
        let _ = writeln!(out, "{} {} on {}:", row.object, row.program, row.kernel);
        row.log.lines().for_each(|line| out += &format!("  │ {line}\n"));
    }
    for (kernel, why) in &rows.not_run {
        let _ = writeln!(out, "kernel {kernel}: not run: {why}");
    }
    let count = |verdict| rows.all.iter().filter(|row| row.result == verdict).count();
    let (loaded, refused) = (count(LoadResult::Loaded), count(LoadResult::Refused));
    let optional = match count(LoadResult::Optional) {
        0 => String::new(),
        optional => format!(", {optional} optional"),
    };
    let seconds = took.as_secs_f64();
    out + &format!("{loaded} loaded, {refused} refused{optional} in {seconds:.1} s\n")
}

fn paragraph(row: &Row, reason: &Reason) -> String {
    let Reason { class, sentence, source, .. } = reason;
    let source = source.as_ref().map(|line| format!("\n  at: {line}")).unwrap_or_default();
    format!("{} {} on {}: {} ({class}): {sentence}{source}", row.object, row.program, row.kernel, row.result)
}

/// One suite for each kernel, one test for each program.
fn junit(rows: &Rows) -> Result<String> {
    let mut report = Report::new("cargo kernels load");
    for (kernel, release) in &rows.kernels {
        let mut suite = TestSuite::new(format!("{kernel} ({release})"));
        for row in rows.all.iter().filter(|row| row.kernel == *kernel) {
            let mut status = match row.result {
                LoadResult::Loaded => TestCaseStatus::success(),
                LoadResult::Refused => TestCaseStatus::non_success(NonSuccessKind::Failure),
                LoadResult::Optional => TestCaseStatus::skipped(),
            };
            if let Some(reason) = &row.refused {
                status.set_message(reason.sentence.as_str());
                if row.result == LoadResult::Refused {
                    status.set_description(reason.excerpt.join("\n"));
                }
            }
            let mut case = TestCase::new(row.program.as_str(), status);
            case.set_classname(row.object.as_str());
            suite.add_test_case(case);
        }
        report.add_test_suite(suite);
    }
    if !rows.not_run.is_empty() {
        let mut suite = TestSuite::new("not run");
        for (kernel, why) in &rows.not_run {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
            status.set_message(why.as_str());
            suite.add_test_case(TestCase::new(kernel.as_str(), status));
        }
        report.add_test_suite(suite);
    }
    report.to_string().context("cannot write JUnit's XML")
}

/// The matrix of programs and kernels: a program's first row, and its row on each kernel.
fn matrix(rows: &Rows) -> impl Iterator<Item = (&Row, Vec<Option<&Row>>)> {
    let is_same = |a: &Row, b: &Row| (&a.object, &a.program) == (&b.object, &b.program);
    rows.all.chunk_by(is_same).map(|of_program| {
        let on = |kernel: &str| of_program.iter().find(|row| row.kernel == kernel);
        (&of_program[0], rows.kernels.iter().map(|(kernel, _)| on(kernel)).collect())
    })
}

fn cell(row: Option<&Row>) -> String {
    let Some(row) = row else { return "–".into() };
    match (&row.refused, row.stats) {
        (Some(reason), _) => format!("✗ {}", reason.class),
        (None, Some(stats)) => format!("✓ {}", stats.insns),
        (None, None) => "✓".into(),
    }
}

fn markdown(rows: &Rows) -> String {
    let kernels: Vec<String> = rows.kernels.iter().map(|(kernel, _)| prose(kernel)).collect();
    let mut out = format!("| program | {} |\n|---|{}\n", kernels.join(" | "), "---|".repeat(kernels.len()));
    for (first, cells) in matrix(rows) {
        let cells: Vec<String> = cells.into_iter().map(cell).collect();
        let program = prose(&format!("{} {}", first.object, first.program));
        let _ = writeln!(out, "| {program} | {} |", cells.join(" | "));
    }
    out.push('\n');
    for (row, reason) in rows.refused() {
        let _ = writeln!(out, "- {}", prose(&paragraph(row, reason)));
    }
    for (kernel, why) in &rows.not_run {
        let _ = writeln!(out, "- {} was not run: {}", prose(kernel), prose(why));
    }
    out
}

/// A page with the matrix; each refusal opens its log.
fn html(rows: &Rows) -> Result<String> {
    let cell = |row: Option<&Row>| {
        let refused = row.and_then(|row| Some((row, row.refused.as_ref()?)));
        context! {
            text => cell(row),
            why => refused.map(|(row, reason)| paragraph(row, reason)),
            log => refused.map(|(_, reason)| reason.excerpt.join("\n")),
        }
    };
    let lines = matrix(rows).map(|(first, cells)| {
        let cells: Vec<_> = cells.into_iter().map(cell).collect();
        context! { object => &first.object, program => &first.program, cells }
    });
    let lines: Vec<_> = lines.collect();
    page(include_str!("load.html"), context! { kernels => &rows.kernels, not_run => &rows.not_run, lines })
}

pub fn write(dir: &Path, rows: &Rows) -> Result<()> {
    let write = |name: &str, text: &str| whole_file::write(&dir.join(name), text.as_bytes());
    write("load.json", &json(rows)?)?;
    write("junit.xml", &junit(rows)?)?;
    write("summary.md", &markdown(rows))?;
    write("load.html", &html(rows)?)?;
    for row in &rows.all {
        let name = format!("{} {} {}.log", row.kernel, row.object, row.program);
        // Names are the guest's and the object's words.
        let name = name.replace(|c: char| !c.is_ascii_alphanumeric() && !"._-".contains(c), "_");
        write(&format!("logs/{name}"), &row.log)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use vmtest_loader::{Line, Record};

    use super::super::guest::Answer;
    use super::super::object::Object;
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
        let markdown = markdown(&rows());
        assert!(markdown.contains("| a.bpf.o a\\<b\\>\\|,\" | ✗ helper | ✓ 100 |"), "{markdown}");
        for text in [html(&rows()).unwrap(), junit(&rows()).unwrap()] {
            assert!(text.contains("there since 5.15") && text.contains("a&lt;b"), "{text}");
            assert!(text.contains("no &lt;image"), "{text}");
        }
    }

    #[test]
    fn no_control_character_of_anybody_s_is_shown() {
        let objects = [Object { name: "a.o".into(), bytes: Vec::new() }];
        let (program, log) = ("p\x1b[2J".into(), "; \x1b[1A\n\x07 unknown".to_owned());
        let record = Record { program, said: log.clone(), log, ..Record::default() };
        let lines = vec![Line::Program(Box::new(record))];
        let answer = Answer { release: "6.1\x1b[31m".into(), lines, incomplete: Some("\x1b[1mdied".into()) };
        let lost = Err(anyhow::anyhow!("no \x1b]0;owned\x07source\u{9b}2J"));
        let rows = Rows::new(&objects, &[("6.1\x08".into(), Ok(answer)), ("6.2\r".into(), lost)], &[]);
        let texts = [table(&rows, true, Duration::ZERO), markdown(&rows), junit(&rows).unwrap(), html(&rows).unwrap()];
        for text in texts {
            assert!(text.contains("6.2") && !text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
        }
    }

    #[test]
    fn the_table_ends_with_the_sum() {
        let table = table(&rows(), false, Duration::from_millis(1500));
        assert!(table.contains("at: return 1;\n  │ ; return 1;\n  │ invalid func"), "{table}");
        assert!(table.ends_with("1 loaded, 1 refused in 1.5 s\n"), "{table}");
    }
}
