//! What the subcommands show: progress of several kernels at once, tables, sizes.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use comfy_table::{Cell, CellAlignment, LineStyle, Table, TableStyle};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::kernels::Progress;

/// A live line per kernel on a terminal; elsewhere each note is a line.
pub struct Board {
    bars: Option<MultiProgress>,
    width: usize,
}

/// One kernel's line on the board.
pub struct Line {
    name: String,
    bar: Option<ProgressBar>,
}

const DURING: &str =
    "{prefix} {bar:24} {bytes:>10} of {total_bytes:<10} {bytes_per_sec:>12}  {wide_msg}";
const BETWEEN: &str = "{prefix} {spinner} {wide_msg}";

impl Board {
    /// For kernels with these names; shown on standard error, so that results can be piped.
    pub fn new<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self {
            bars: terminal.then(MultiProgress::new),
            width: names.map(str::len).max().unwrap_or_default(),
        }
    }

    /// A kernel's line, until it is dropped.
    pub fn line(&self, name: &str) -> Line {
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new_spinner());
            bar.set_prefix(format!("{name:width$}", width = self.width));
            bar.set_style(style(BETWEEN));
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Line { name: name.to_owned(), bar }
    }

    /// Prints a result on standard output, above the lines.
    pub fn result(&self, text: &str) {
        match &self.bars {
            Some(bars) => bars.suspend(|| print(&format!("{text}\n"))),
            None => print(&format!("{text}\n")),
        }
    }
}

/// The templates are constants; should one not parse, the library's own look does.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Progress for Line {
    fn bytes(&self, done: u64, total: Option<u64>) {
        let Some(bar) = &self.bar else { return };
        if let Some(total) = total {
            if bar.length() != Some(total) {
                bar.set_length(total);
                bar.set_style(style(DURING));
            }
        }
        bar.set_position(done);
        if total == Some(done) {
            bar.unset_length();
            bar.set_style(style(BETWEEN));
        }
    }

    fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(text.to_owned()),
            None => eprintln!("{}: {text}", self.name),
        }
    }

    fn working_on(&self, step: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(step.to_owned());
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Prints on standard output; whoever reads it may stop reading (`| head -1`).
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    // Nobody is left to be told of an error.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// A size for people.
pub fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// A table without lines but one below the header; `right` names the columns of numbers.
pub fn table(header: &[&str], right: &[usize], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(TableStyle::new().header_separator(LineStyle::none().fill('─')));
    table.set_header(header.iter().copied());
    for row in rows {
        table.add_row(row.into_iter().enumerate().map(|(column, text)| {
            let cell = Cell::new(text);
            if right.contains(&column) { cell.set_alignment(CellAlignment::Right) } else { cell }
        }));
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}
