//! The look of every table: one line below the header and no other, columns two spaces apart.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};

/// comfy-table's characters for each place in a table: a line below the header, also where it crosses the blank between
/// two columns, and nothing elsewhere.
const LINE_BELOW_HEADER: &str = "     ──            ";

/// An empty table; cells are wrapped where it would be wider than `width`.
pub fn grid(header: &[&str], width: Option<u16>) -> Table {
    let mut table = Table::new();
    table.load_preset(LINE_BELOW_HEADER).force_no_tty();
    if !header.is_empty() {
        table.set_header(header.iter().copied());
    }
    if let Some(width) = width {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    table
}

/// A cell for a number.
pub fn right(text: impl ToString) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
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
