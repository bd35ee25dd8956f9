//! What kernels say of the program, side by side: the rows of every table of facts.

use serde::Serialize;
use vmtest_agent::{Facts, ProgramFacts};

use super::RunReport;
use crate::text;
use crate::verdict::KernelReport;

/// A column of a table of facts.
#[derive(Serialize)]
pub struct Column {
    /// Its head.
    pub name: &'static str,
    /// What it is, in a few words.
    pub meaning: &'static str,
    /// Whether its cells are numbers, which stand at the right.
    pub number: bool,
}

const fn word(name: &'static str, meaning: &'static str) -> Column {
    Column { name, meaning, number: false }
}

const fn number(name: &'static str, meaning: &'static str) -> Column {
    Column { name, meaning, number: true }
}

/// How many there are.
const COUNT: usize = 10;

/// The columns, in the order of [`rows`].
pub const COLUMNS: [Column; COUNT] = [
    word("kernel", "the pin's name"),
    word("program", "the BPF program's name in the kernel"),
    word("BTF", "the kernel carries its own type information"),
    word("JIT", "BPF programs are compiled to machine code"),
    number("insns", "instructions that the verifier processed (since 5.16)"),
    number("xlated", "size after the verifier rewrote it, in bytes"),
    number("jited", "size of the machine code, in bytes"),
    number("load", "from starting the program to its ready line"),
    number("event", "mean cost of one event, by the kernel's own statistics"),
    word("attach", "through a bpf_link, or by an ioctl of perf"),
];

/// A table's line.
pub type Row = [String; COUNT];

/// A row for each BPF program on each kernel that told anything, in the order of [`COLUMNS`].
pub fn rows(run: &RunReport) -> Vec<Row> {
    // A kernel that told nothing of the program still told something of itself.
    let unknown = [ProgramFacts::default()];
    let told = run.kernels.iter().filter_map(|kernel| Some((&kernel.name, kernel.facts.as_ref()?)));
    told.flat_map(|(name, facts)| {
        let programs = if facts.programs.is_empty() { &unknown[..] } else { &facts.programs };
        programs.iter().map(|program| row(&text::line(name), facts, program)).collect::<Vec<_>>()
    })
    .collect()
}

/// Why a kernel told nothing of the program: the kernel's name and the reason.
pub fn errors(run: &RunReport) -> Vec<(String, String)> {
    let error = |kernel: &KernelReport| {
        let reason = kernel.facts.as_ref()?.error.as_ref()?;
        Some((text::line(&kernel.name), text::line(reason)))
    };
    run.kernels.iter().filter_map(error).collect()
}

fn row(kernel: &str, facts: &Facts, program: &ProgramFacts) -> Row {
    [
        kernel.into(),
        or_dash(Some(text::line(&program.name)).filter(|name| !name.is_empty())),
        or_dash(facts.btf.map(yes_no)),
        or_dash(facts.jit.map(yes_no)),
        or_dash(program.verified_insns),
        or_dash(program.xlated_bytes.map(|bytes| format!("{bytes} B"))),
        or_dash(program.jited_bytes.map(|bytes| format!("{bytes} B"))),
        or_dash(facts.load_s.map(|seconds| format!("{:.0} ms", seconds * 1000.0))),
        or_dash(program.event_ns.map(|ns| format!("{ns:.0} ns"))),
        or_dash(program.attached.as_deref().map(text::line)),
    ]
}

fn yes_no(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or("-".into(), |value| value.to_string())
}
