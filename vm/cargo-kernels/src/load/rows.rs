//! One row for each object, program and kernel.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use serde::Serialize;
use vmtest_loader::{Line, Record, Stats};

use super::class;
use super::guest::Answer;
use super::object::Object;
use crate::text;

/// What a kernel said of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Loaded.
    Loaded,
    /// Refused.
    Refused,
    /// Refused, and `--optional` allows that.
    Optional,
}

/// One program on one kernel.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The object's name.
    pub object: String,
    /// The program's.
    pub program: String,
    /// The kernel's, as it was asked for.
    pub kernel: String,
    /// The kernel's release.
    pub release: String,
    /// The program's section.
    pub section: String,
    /// Its type.
    pub kind: String,
    /// What the kernel said.
    pub verdict: Verdict,
    /// Why it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<&'static str>,
    /// The same in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sentence: Option<String>,
    /// The line of source that the log names last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The end of what the verifier said, or libbpf.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub excerpt: Vec<String>,
    /// libbpf's error number.
    pub errno: i32,
    /// The verifier's numbers.
    pub stats: Option<Stats>,
    /// How many instructions the program has.
    pub size: u64,
    /// How many bytes the JIT made of it.
    pub jited: u64,
    /// The verifier's log, then libbpf's words.
    #[serde(skip)]
    pub log: String,
}

/// What all kernels said.
#[derive(Debug, Default, Serialize)]
pub struct Rows {
    /// The rows, in the order of objects, programs and kernels.
    #[serde(rename = "rows")]
    pub all: Vec<Row>,
    /// Kernels that were not run, or not to the end, and why.
    pub not_run: Vec<(String, String)>,
    /// The kernels that answered, with their releases.
    pub kernels: Vec<(String, String)>,
    /// All programs that the objects have.
    #[serde(skip)]
    pub programs: BTreeSet<String>,
    /// The variables of `--set` that an object has.
    #[serde(skip)]
    pub variables: BTreeSet<String>,
}

impl Rows {
    /// Of what each kernel said.
    pub fn new(objects: &[Object], kernels: &[&str], answers: &[Result<Answer, String>], optional: &[String]) -> Self {
        let mut rows = Self::default();
        for (kernel, answer) in kernels.iter().zip(answers) {
            match answer {
                Ok(answer) => rows.add(objects, kernel, answer, optional),
                Err(why) => rows.not_run.push(((*kernel).into(), why.clone())),
            }
        }
        let place = |name: &str| objects.iter().position(|object| object.name == name);
        let program = |row: &Row| (row.object.clone(), row.program.clone());
        let order: Vec<_> = rows.all.iter().map(program).collect();
        // Stable: kernels stay in the order in which they were asked for.
        rows.all.sort_by_cached_key(|row| (place(&row.object), order.iter().position(|it| *it == program(row))));
        rows
    }

    fn add(&mut self, objects: &[Object], kernel: &str, answer: &Answer, optional: &[String]) {
        self.kernels.push((kernel.into(), text::line(&answer.release)));
        if let Some(why) = &answer.incomplete {
            self.not_run.push((kernel.into(), why.clone()));
        }
        for line in &answer.lines {
            match line {
                Line::Object { programs, variables, .. } => {
                    self.variables.extend(variables.iter().cloned());
                    self.programs.extend(programs.iter().map(|program| text::line(&program.name)));
                }
                Line::NotOpened { object, said } => {
                    let Some(object) = objects.get(*object) else { continue };
                    let why = format!("libbpf cannot open {}: {}", object.name, text::line(said));
                    self.not_run.push((kernel.into(), why));
                }
                Line::Program(record) => {
                    let Some(object) = objects.get(record.object) else { continue };
                    let row = Row::new(&object.name, kernel, &answer.release, record, optional);
                    self.all.push(row);
                }
                Line::Done => {}
            }
        }
    }

    /// The oldest kernel, by its release, on which nothing is refused that has to load. Younger ones may refuse again:
    /// the table shows it.
    pub fn minimum(&self) -> Option<&str> {
        let complete = self.kernels.iter().filter(|(kernel, _)| {
            let mut rows = self.all.iter().filter(|row| row.kernel == *kernel).peekable();
            let whole = !self.not_run.iter().any(|(other, _)| other == kernel);
            whole && rows.peek().is_some() && rows.all(|row| row.verdict != Verdict::Refused)
        });
        let oldest = complete.min_by(|a, b| by_release(&a.1, &b.1));
        oldest.map(|(kernel, _)| kernel.as_str())
    }
}

/// Whether two rows are of the same program.
pub fn is_same(a: &Row, b: &Row) -> bool {
    (&a.object, &a.program) == (&b.object, &b.program)
}

/// 5.10 is younger than 5.4.
fn by_release(a: &str, b: &str) -> Ordering {
    let numbers = |release: &str| -> Vec<u32> {
        let end = release.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(release.len());
        release[..end].split('.').filter_map(|number| number.parse().ok()).collect()
    };
    numbers(a).cmp(&numbers(b))
}

impl Row {
    fn new(object: &str, kernel: &str, release: &str, record: &Record, optional: &[String]) -> Self {
        let refused = (!record.loaded).then(|| class::of(record));
        let verdict = match record.loaded {
            true => Verdict::Loaded,
            false if optional.contains(&record.program) => Verdict::Optional,
            false => Verdict::Refused,
        };
        Self {
            object: object.into(),
            program: text::line(&record.program),
            kernel: kernel.into(),
            release: text::line(release),
            section: text::line(&record.section),
            kind: text::line(&record.kind),
            verdict,
            class: refused.as_ref().map(|reason| reason.class),
            sentence: refused.as_ref().map(|reason| text::line(&reason.sentence)),
            excerpt: refused.map(|reason| reason.excerpt).unwrap_or_default(),
            source: class::source_line(&record.log).filter(|_| !record.loaded).map(text::line),
            errno: record.errno,
            stats: record.stats,
            size: record.size,
            jited: record.jited,
            log: text::block(&format!("{}\n{}", record.log, record.said)),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Rows of one program that loads on the kernels where the second word is `true`.
    pub fn sample(kernels: &[(&str, bool)]) -> Rows {
        let objects = [Object { name: "a.bpf.o".into(), bytes: Vec::new() }];
        let names: Vec<&str> = kernels.iter().map(|(kernel, _)| *kernel).collect();
        let answers = kernels.iter().map(|(kernel, loaded)| {
            let record = Record {
                program: "p".into(),
                loaded: *loaded,
                errno: if *loaded { 0 } else { 22 },
                stats: Some(Stats { insns: 100, ..Stats::default() }),
                log: "; return 1;\ninvalid func unknown#173\nprocessed 3 insns\n".into(),
                ..Record::default()
            };
            let lines = vec![Line::Program(Box::new(record))];
            Ok(Answer { release: format!("{kernel}.1-x"), lines, incomplete: None })
        });
        Rows::new(&objects, &names, &answers.collect::<Vec<_>>(), &[])
    }

    #[test]
    fn the_minimum_is_the_oldest_release_on_which_all_load() {
        let all = [("6.12", true), ("5.10", true), ("5.4", false), ("6.1", true)];
        assert_eq!(sample(&all).minimum(), Some("5.10"));
        assert_eq!(sample(&[("5.10", true), ("5.4", true)]).minimum(), Some("5.4"));
        assert_eq!(sample(&[("5.4", false)]).minimum(), None);
        let mut unfinished = sample(&all);
        unfinished.not_run.push(("5.10".into(), "died".into()));
        assert_eq!(unfinished.minimum(), Some("6.1"));
    }

    #[test]
    fn a_refusal_has_class_source_and_last_words() {
        let rows = sample(&[("5.4", false)]);
        let row = &rows.all[0];
        assert_eq!((row.class, row.source.as_deref()), (Some("helper"), Some("return 1;")));
        assert_eq!(row.excerpt, ["; return 1;", "invalid func unknown#173"]);
    }
}
