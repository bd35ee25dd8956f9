//! What the subcommands show: progress, tables, sizes.

use comfy_table::Cell;
use indicatif::ProgressBar;

use crate::ui::{self, RunEvent, grid};
use vm_kernels::Progress;

/// How the getting of a kernel goes, on standard error: a live line on a terminal, elsewhere each note is a line.
pub struct Line {
    name: String,
    bar: ProgressBar,
}

impl Line {
    /// For the kernel of this name, until it is dropped.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), bar: ui::running_line(name.to_owned()) }
    }
}

impl Progress for Line {
    fn bytes(&self, done: u64, total: Option<u64>) {
        self.bar.set_message(RunEvent::Fetching { done, total }.to_string());
    }

    fn note(&self, text: &str) {
        if self.bar.is_hidden() {
            eprintln!("{}: {text}", self.name);
        }
        self.bar.set_message(text.to_owned());
    }

    fn working_on(&self, step: &str) {
        self.bar.set_message(step.to_owned());
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A size for people.
pub fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// A table; `right` names the columns of numbers.
pub fn table(header: &[&str], right: &[usize], rows: Vec<Vec<String>>) -> String {
    let mut table = grid::grid(header, None);
    for row in rows {
        let cell = |(column, text)| if right.contains(&column) { grid::right(text) } else { Cell::new(text) };
        table.add_row(row.into_iter().enumerate().map(cell));
    }
    grid::text(table)
}
