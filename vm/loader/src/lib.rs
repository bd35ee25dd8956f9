//! What the host asks of the loader, and the lines that it answers with: one JSON value a line.

use serde::{Deserialize, Serialize};

/// What is to be loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Paths of BPF objects in the guest.
    pub objects: Vec<String>,
    /// Only programs with these names, if there are any.
    pub programs: Vec<String>,
    /// Programs that are loaded although they are marked not to be (`SEC("?…")`).
    pub autoload: Vec<String>,
    /// Global variables and the numbers that they are set to before loading.
    pub set: Vec<(String, i64)>,
    /// The verifier's log of what loads, too: level 1 or 2; none at 0.
    pub log: u32,
}

impl Job {
    /// Whether a program is to be loaded: it is named, or none is and it would be loaded by itself.
    pub fn wants(&self, program: &Listed) -> bool {
        let named = |names: &[String]| names.contains(&program.name);
        let by_default = self.programs.is_empty() && program.autoload;
        by_default || named(&self.programs) || named(&self.autoload)
    }
}

/// One line of the loader's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Line {
    /// What an object holds.
    Object {
        /// Its place among the job's.
        object: usize,
        /// Its programs.
        programs: Vec<Listed>,
        /// Which of the job's variables it has.
        variables: Vec<String>,
    },
    /// libbpf does not open an object.
    NotOpened {
        /// Its place among the job's.
        object: usize,
        /// libbpf's words.
        said: String,
    },
    /// What became of one program.
    Program(Box<Record>),
    /// All objects are done.
    Done,
}

/// A program in an object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Whether it is loaded unless its name is given: there is no `?` before its section's name.
    pub autoload: bool,
}

/// What the kernel says of one program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its object's place among the job's.
    pub object: usize,
    /// Its name.
    pub program: String,
    /// Its section.
    pub section: String,
    /// Its type, as libbpf calls it.
    pub kind: String,
    /// Whether it was loaded.
    pub loaded: bool,
    /// libbpf's error number, positive; 0 if it was loaded.
    pub errno: i32,
    /// Its process ended before it could say anything: why.
    pub crashed: Option<String>,
    /// How many instructions it has.
    pub size: u64,
    /// How many bytes of machine code, if it was loaded and there is a JIT.
    pub jited: u64,
    /// What the verifier says at the end of its log.
    pub stats: Option<Stats>,
    /// The types of the program and of the object's maps that this kernel has not.
    pub unsupported: Vec<String>,
    /// Whether the kernel has BTF of itself.
    pub btf: bool,
    /// The verifier's log: its end, if it is long.
    pub log: String,
    /// What libbpf said.
    pub said: String,
}

/// The verifier's numbers, by veristat's names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Instructions processed.
    pub insns: u64,
    /// States in all.
    pub states: u64,
    /// The most at a time.
    pub peak_states: u64,
    /// Bytes of stack, over all subprograms.
    pub stack: u64,
    /// Microseconds.
    pub time_us: u64,
}

impl Stats {
    /// Reads what the verifier has written since 5.2 at the log level `BPF_LOG_STATS`, as veristat does.
    pub fn read(log: &str) -> Option<Self> {
        let starts = ["processed ", "subprog ", "stack depth ", "verification time "];
        let is_ours = |line: &&str| starts.iter().any(|start| line.starts_with(start));
        let mut stats = Self::default();
        let mut lines = log.trim_end().lines().rev().take_while(is_ours).peekable();
        lines.peek()?;
        for line in lines {
            let number_after = |word: &str| number(line.rsplit_once(word)?.1);
            if line.starts_with("processed ") {
                stats.insns = number_after("processed ")?;
                stats.states = number_after("total_states ").unwrap_or(0);
                stats.peak_states = number_after("peak_states ").unwrap_or(0);
            } else if line.starts_with("subprog ") {
                // Since 7.2 or so, instead of the sum.
                stats.stack += number_after(" stack ").unwrap_or(0);
            } else if let Some(depths) = line.strip_prefix("stack depth ") {
                stats.stack += depths.split('+').filter_map(number).sum::<u64>();
            } else {
                stats.time_us = number_after("verification time ").unwrap_or(0);
            }
        }
        Some(stats)
    }
}

fn number(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_a_log_are_veristat_s() {
        let log = "verification time 51 usec\nstack depth 16+8\n\
                   processed 42 insns (limit 1000000) max_states_per_insn 1 total_states 5 peak_states 4 mark_read 2\n";
        let stats = Stats { insns: 42, states: 5, peak_states: 4, stack: 24, time_us: 51 };
        assert_eq!(Stats::read(log), Some(stats));
        let since_7 = "verification time 51 usec\nstack depth max 24\nsubprog 0 (a stack 9) main insns_self 6 stack 16\n\
                       subprog 1 (b) insns_self 6 stack 8\n\
                       processed 42 insns (limit 1) max_states_per_insn 1 total_states 5 peak_states 4 mark_read 2\n\n";
        assert_eq!(Stats::read(since_7), Some(stats));
        assert_eq!(Stats::read("0: (95) exit\n"), None);
        assert_eq!(Stats::read("processed x\nstack depth "), None);
    }
}
