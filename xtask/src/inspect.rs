//! `cargo xtask inspect`: what the compiler made of a BPF program, without needing binutils or LLVM.

mod disassembler;
mod elf;
mod helpers;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use cargo_kernels::exit;

use crate::{build, flags};

/// How a column is lined up.
#[derive(Clone, Copy)]
enum Align {
    Left,
    Right,
}

use Align::{Left, Right};

const SECTION_COLUMNS: [(&str, Align); 9] = [
    ("Nr", Right),
    ("Name", Left),
    ("Type", Left),
    ("Off", Right),
    ("Size", Right),
    ("Flg", Left),
    ("Lk", Right),
    ("Inf", Right),
    ("Al", Right),
];

const SYMBOL_COLUMNS: [(&str, Align); 7] = [
    ("Num", Right),
    ("Value", Right),
    ("Size", Right),
    ("Type", Left),
    ("Bind", Left),
    ("Section", Left),
    ("Name", Left),
];

/// Runs the command.
pub fn run(flags: &flags::Inspect) -> Result<u8> {
    let objects = match &flags.object {
        Some(object) => vec![object.clone()],
        None => build::bpf_objects()?,
    };
    let mut text = String::new();
    for object in objects {
        text.push_str(&describe(&object)?);
    }
    print(&text)?;
    Ok(exit::OK)
}

/// The whole description of one object file.
fn describe(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let object = elf::Object::parse(&bytes)
        .with_context(|| format!("{} is not a BPF object file", path.display()))?;
    let mut text = format!("{}: {} bytes\n", path.display(), bytes.len());
    let sections = table(SECTION_COLUMNS, &object.sections()?);
    let symbols = table(SYMBOL_COLUMNS, &object.symbols()?);
    let _ = write!(text, "\nSections:\n{sections}\nSymbols:\n{symbols}");
    for program in object.programs()? {
        let listing = disassembler::disassemble(&program);
        let _ = write!(text, "\nDisassembly of section {}:\n{listing}", program.section);
    }
    Ok(text)
}

/// Lines the columns up.
fn table<const N: usize>(columns: [(&str, Align); N], rows: &[[String; N]]) -> String {
    let widths: [usize; N] = std::array::from_fn(|column| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([columns[column].0.len()]).max().unwrap_or_default()
    });
    let mut text = String::new();
    let head = columns.map(|(title, _)| title.to_owned());
    for row in std::iter::once(&head).chain(rows) {
        let cells =
            row.iter().zip(widths).zip(columns).map(|((cell, width), (_, align))| match align {
                Align::Left => format!("{cell:<width$}"),
                Align::Right => format!("{cell:>width$}"),
            });
        let line = cells.collect::<Vec<_>>().join("  ");
        let _ = writeln!(text, "  {}", line.trim_end());
    }
    text
}

/// Prints, also into a pipe that is closed half-way.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to stdout")
        }
        _ => Ok(()),
    }
}
