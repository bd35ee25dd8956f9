//! What the subcommands show: progress of several kernels at once, tables, sizes.

use std::io::{IsTerminal, Write};

use comfy_table::Cell;
use indicatif::{MultiProgress, ProgressBar};

use crate::ui::{self, RunEvent, grid};
use vm_kernels::Progress;

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

impl Board {
    /// For kernels with these names; shown on standard error, so that results can be piped.
    pub fn new<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { bars: terminal.then(MultiProgress::new), width: names.map(str::len).max().unwrap_or_default() }
    }

    /// A kernel's line, until it is dropped.
    pub fn line(&self, name: &str) -> Line {
        let prefix = format!("{name:width$}", width = self.width);
        let bar = self.bars.as_ref().map(|bars| ui::running_line(bars, prefix));
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

impl Progress for Line {
    fn bytes(&self, done: u64, total: Option<u64>) {
        if let Some(bar) = &self.bar {
            bar.set_message(RunEvent::Fetching { done, total }.to_string());
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

/// A table; `right` names the columns of numbers.
pub fn table(header: &[&str], right: &[usize], rows: Vec<Vec<String>>) -> String {
    let mut table = grid::grid(header, None);
    for row in rows {
        table.add_row(
            row.into_iter().enumerate().map(
                |(column, text)| {
                    if right.contains(&column) { grid::right(text) } else { Cell::new(text) }
                },
            ),
        );
    }
    grid::text(table)
}
