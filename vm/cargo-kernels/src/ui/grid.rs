//! The look of every table: one line below the header and no other, columns two spaces apart.

use comfy_table::{CellAlignment, ContentArrangement, Table};

/// comfy-table's characters for each place in a table: a line below the header, also where it crosses the blank between
/// two columns, and nothing elsewhere.
const LINE_BELOW_HEADER: &str = "     ──            ";

/// What the reader's terminal can show.
#[derive(Debug, Clone, Copy, Default)]
pub struct Looks {
    /// Columns, where cells are wrapped; `None` where they are not, as in a file.
    pub width: Option<u16>,
    pub colour: bool,
}

impl Looks {
    /// What standard output can show; its colours follow `NO_COLOR`, too.
    pub fn of_stdout() -> Self {
        let width = console::Term::stdout().size_checked().map(|(_, columns)| columns);
        Self { width, colour: console::colors_enabled() }
    }
}

/// An empty table; `numbers` are the columns of numbers, which stand at the right.
pub fn grid(header: &[&str], numbers: impl IntoIterator<Item = usize>, looks: Looks) -> Table {
    let mut table = Table::new();
    table.load_preset(LINE_BELOW_HEADER).force_no_tty();
    if !header.is_empty() {
        table.set_header(header.iter().copied());
    }
    for number in numbers {
        if let Some(column) = table.column_mut(number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    if let Some(width) = looks.width {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    if looks.colour {
        table.enforce_styling();
    }
    table
}

/// The table's lines, without blanks at their ends.
pub fn lines(mut table: Table) -> Vec<String> {
    let last = table.column_count().saturating_sub(1);
    for column in table.column_iter_mut() {
        // One more is between them.
        column.set_padding((0, if column.index == last { 0 } else { 1 }));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect()
}

/// As [`lines`], as one text.
pub fn text(table: Table) -> String {
    lines(table).into_iter().map(|line| line + "\n").collect()
}
