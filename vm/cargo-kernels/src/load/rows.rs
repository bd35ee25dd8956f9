//! One row for each object, program and kernel.

use std::collections::BTreeSet;
use std::fmt::{self, Display, Formatter};

use anyhow::Result;
use serde::Serialize;
use vmtest_loader::{Line, Record, Stats};

use super::class::{self, Reason};
use super::guest::Answer;
use super::object::Object;
use crate::text;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LoadResult {
    Loaded,
    Refused,
    /// Refused, and `--optional` allows that.
    Optional,
}

/// The word, as in the JSON.
impl Display for LoadResult {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub object: String,
    pub program: String,
    /// The kernel's name, as it was asked for.
    pub kernel: String,
    pub release: String,
    pub section: String,
    /// The program's type.
    pub kind: String,
    #[serde(rename = "verdict")]
    pub result: LoadResult,
    #[serde(flatten)]
    pub refused: Option<Reason>,
    pub errno: i32,
    pub stats: Option<Stats>,
    /// How many instructions the program has.
    pub size: u64,
    /// How many bytes the JIT made of it.
    pub jited: u64,
    /// The verifier's log, then libbpf's words.
    #[serde(skip)]
    pub log: String,
}

#[derive(Debug, Default, Serialize)]
pub struct Rows {
    /// The rows, in the order of objects, programs and kernels.
    #[serde(rename = "rows")]
    pub all: Vec<Row>,
    /// Kernels that were not run, or not to the end, and why.
    pub not_run: Vec<(String, String)>,
    /// The kernels that answered, with their releases.
    pub kernels: Vec<(String, String)>,
    #[serde(skip)]
    pub programs: BTreeSet<String>,
    /// The variables of `--set` that an object has.
    #[serde(skip)]
    pub variables: BTreeSet<String>,
}

impl Rows {
    /// From each kernel's name and its answer, or why there is none. No text in it has control characters.
    pub fn new(objects: &[Object], answers: &[(String, Result<Answer>)], optional: &[String]) -> Self {
        let mut rows = Self::default();
        for (kernel, answer) in answers {
            let kernel = text::line(kernel);
            match answer {
                Ok(answer) => rows.add(objects, &kernel, answer, optional),
                Err(why) => rows.not_run.push((kernel, text::block(&format!("{why:#}")))),
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
            self.not_run.push((kernel.into(), text::block(why)));
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

    pub fn refused(&self) -> impl Iterator<Item = (&Row, &Reason)> {
        self.all.iter().filter_map(|row| Some((row, row.refused.as_ref()?)))
    }

    /// The oldest kernel, by its release, on which nothing is refused that has to load. Younger ones may refuse again:
    /// the table shows it.
    pub fn minimum(&self) -> Option<&str> {
        let complete = self.kernels.iter().filter(|(kernel, _)| {
            let mut rows = self.all.iter().filter(|row| row.kernel == *kernel).peekable();
            let whole = !self.not_run.iter().any(|(other, _)| other == kernel);
            whole && rows.peek().is_some() && rows.all(|row| row.result != LoadResult::Refused)
        });
        complete.min_by_key(|(_, release)| numbers(release)).map(|(kernel, _)| kernel.as_str())
    }
}

/// A release's numbers: 5.10 is younger than 5.4.
fn numbers(release: &str) -> Vec<u32> {
    let end = release.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(release.len());
    release[..end].split('.').filter_map(|number| number.parse().ok()).collect()
}

impl Row {
    fn new(object: &str, kernel: &str, release: &str, record: &Record, optional: &[String]) -> Self {
        Self {
            object: object.into(),
            program: text::line(&record.program),
            kernel: kernel.into(),
            release: text::line(release),
            section: text::line(&record.section),
            kind: text::line(&record.kind),
            result: match record.loaded {
                true => LoadResult::Loaded,
                false if optional.contains(&record.program) => LoadResult::Optional,
                false => LoadResult::Refused,
            },
            refused: (!record.loaded).then(|| class::of(record)),
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
    use super::*;

    /// Rows of one program that loads on the kernels where the second word is `true`.
    pub fn sample(kernels: &[(&str, bool)]) -> Rows {
        let objects = [Object { name: "a.bpf.o".into(), bytes: Vec::new() }];
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
            ((*kernel).into(), Ok(Answer { release: format!("{kernel}.1-x"), lines, incomplete: None }))
        });
        Rows::new(&objects, &answers.collect::<Vec<_>>(), &[])
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
}
