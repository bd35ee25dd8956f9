//! What kernels say of the program, side by side: the rows of every table of facts.

use vmtest_agent::{Facts, ProgramFacts};

use crate::text;
use crate::verdict::{KernelReport, RunReport};

/// The columns: head, meaning, and whether the cells are numbers, which stand at the right.
pub const COLUMNS: [(&str, &str, bool); 10] = [
    ("kernel", "the pin's name", false),
    ("program", "the BPF program's name in the kernel", false),
    ("BTF", "the kernel carries its own type information", false),
    ("JIT", "BPF programs are compiled to machine code", false),
    ("insns", "instructions that the verifier processed (since 5.16)", true),
    ("xlated", "size after the verifier rewrote it, in bytes", true),
    ("jited", "size of the machine code, in bytes", true),
    ("load", "from starting the program to its ready line", true),
    ("event", "mean cost of one event, by the kernel's own statistics", true),
    ("attach", "through a bpf_link, or by an ioctl of perf", false),
];

pub type Row = [String; COLUMNS.len()];

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
    let yes_no = |value: bool| if value { "yes" } else { "no" };
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

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or("-".into(), |value| value.to_string())
}
