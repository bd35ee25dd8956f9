//! What kernels say of the program, side by side: the rows of every table of facts.

use vmtest_agent::{Facts, ProgramFacts};

use super::RunReport;
use crate::text;

/// The columns, and what each is.
pub const COLUMNS: [(&str, &str); 10] = [
    ("kernel", "the pin's name"),
    ("program", "the BPF program's name in the kernel"),
    ("BTF", "the kernel carries its own type information"),
    ("JIT", "BPF programs are compiled to machine code"),
    ("insns", "instructions that the verifier processed (since 5.16)"),
    ("xlated", "size after the verifier rewrote it, in bytes"),
    ("jited", "size of the machine code, in bytes"),
    ("load", "from starting the program to its ready line"),
    ("event", "mean cost of one event, by the kernel's own statistics"),
    ("attach", "through a bpf_link, or by an ioctl of perf"),
];

/// A row for each BPF program on each kernel that told anything, in the order of [`COLUMNS`].
pub fn rows(run: &RunReport) -> Vec<[String; COLUMNS.len()]> {
    let told = run.kernels.iter().filter_map(|kernel| Some((&kernel.name, kernel.facts.as_ref()?)));
    told.flat_map(|(name, facts)| {
        facts.programs.iter().map(move |program| row(&text::line(name), facts, program))
    })
    .collect()
}

fn row(kernel: &str, facts: &Facts, program: &ProgramFacts) -> [String; COLUMNS.len()] {
    [
        kernel.into(),
        text::line(&program.name),
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
