//! What was seen once, kept in a file with one line for each object, program and kernel, and compared.

use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use vm_kernels::whole_file;

use super::rows::{LoadResult, Row, Rows};
use crate::error::Error;
use crate::text;

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    object: String,
    program: String,
    kernel: String,
    loaded: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    insns: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    class: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
pub struct Baseline(Vec<Entry>);

#[derive(Debug, PartialEq, Eq)]
pub struct Change {
    pub line: String,
    /// Whether it fails the command.
    pub worse: bool,
}

impl From<&Row> for Entry {
    fn from(row: &Row) -> Self {
        let loaded = row.result == LoadResult::Loaded;
        Self {
            object: row.object.clone(),
            program: row.program.clone(),
            kernel: row.kernel.clone(),
            loaded,
            // What is verified before a refusal is no measure of anything.
            insns: row.stats.filter(|_| loaded).map(|stats| stats.insns),
            class: row.refused.as_ref().map(|reason| reason.class.to_owned()),
        }
    }
}

impl Entry {
    fn key(&self) -> (&str, &str, &str) {
        (&self.object, &self.program, &self.kernel)
    }

    fn change(&self, what: &str, worse: bool) -> Change {
        let Self { object, program, kernel, .. } = self;
        let word = if worse { "worse" } else { "changed" };
        Change { line: text::line(&format!("{word}: {object} {program} on {kernel}: {what}")), worse }
    }
}

/// Reads a file that [`save`] wrote.
pub fn read(path: &Path) -> Result<Baseline> {
    let wrong = |why: String| Error::usage(format!("the baseline {}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| wrong(format!("{error}; --save writes one")))
}

/// Writes what was seen, sorted, one row a line.
pub fn save(path: &Path, rows: &Rows) -> Result<()> {
    let mut entries: Vec<Entry> = rows.all.iter().map(Entry::from).collect();
    entries.sort_by(|a, b| a.key().cmp(&b.key()));
    let lines = entries.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
    whole_file::write(path, format!("[\n{}\n]\n", lines.join(",\n")).as_bytes())
}

impl Baseline {
    /// What is not as it was, in both directions; of programs and kernels that were asked about now.
    pub fn compare(&self, rows: &Rows, max_growth: f64) -> Vec<Change> {
        let mut changes = Vec::new();
        for row in &rows.all {
            let now = Entry::from(row);
            let then = self.0.iter().find(|then| then.key() == now.key());
            changes.extend(difference(then, &now, row, max_growth).map(|(what, worse)| now.change(&what, worse)));
        }
        // A program that is gone from an object that is still there, on a kernel that answered.
        let gone = self.0.iter().filter(|then| is_gone(then, rows));
        changes.extend(gone.map(|then| then.change("not there any more", false)));
        changes
    }
}

/// In words, and whether it is for the worse.
fn difference(then: Option<&Entry>, now: &Entry, row: &Row, max_growth: f64) -> Option<(String, bool)> {
    let sentence = row.refused.as_ref().map_or("", |reason| &reason.sentence);
    let refused = row.result == LoadResult::Refused;
    match (then, now.loaded) {
        (None, true) => Some(("new, and loads".into(), false)),
        (None, false) => Some((format!("new, and refused: {sentence}"), refused)),
        (Some(Entry { loaded: true, .. }), false) => Some((format!("refused now: {sentence}"), refused)),
        (Some(Entry { loaded: false, .. }), true) => Some(("loads now".into(), false)),
        (Some(then), false) => (then.class != now.class).then(|| {
            let class = |entry: &Entry| entry.class.clone().unwrap_or("-".into());
            (format!("refused as before, for {} instead of {}", class(now), class(then)), false)
        }),
        (Some(then), true) => {
            let (before, after) = (then.insns?, now.insns?);
            let limit = before as f64 * (1.0 + max_growth / 100.0);
            let percent = (after as f64 / before.max(1) as f64 - 1.0) * 100.0;
            let what = format!("{before} -> {after} instructions verified ({percent:+.1}%)");
            (before != after).then_some((what, after as f64 > limit))
        }
    }
}

fn is_gone(then: &Entry, rows: &Rows) -> bool {
    let of_object = |row: &&Row| row.object == then.object && row.kernel == then.kernel;
    let mut there = rows.all.iter().filter(of_object).peekable();
    there.peek().is_some() && !rows.programs.contains(&then.program) && there.all(|row| row.program != then.program)
}

#[cfg(test)]
mod tests {
    use super::super::rows::tests::sample;
    use super::*;

    fn kept(rows: &Rows) -> Baseline {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("baseline.json");
        save(&file, rows).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), rows.all.len() + 2);
        read(&file).unwrap()
    }

    #[test]
    fn new_refusal_and_growth_are_worse_every_change_is_listed() {
        let sample = |loaded, insns| {
            let mut rows = sample(&[("5.4", false), ("6.12", loaded)]);
            rows.all[1].stats.as_mut().unwrap().insns = insns;
            rows
        };
        for (before, after, worse, line) in [
            ((true, 100), (false, 100), true, "worse: a.bpf.o p on 6.12: refused now"),
            ((false, 100), (true, 100), false, "changed: a.bpf.o p on 6.12: loads now"),
            ((true, 100), (true, 90), false, "changed: a.bpf.o p on 6.12: 100 -> 90 instructions"),
            ((true, 100), (true, 110), false, "changed: a.bpf.o p on 6.12: 100 -> 110 instructions"),
            ((true, 100), (true, 111), true, "worse: a.bpf.o p on 6.12: 100 -> 111 instructions"),
        ] {
            let [before, after] = [before, after].map(|(loaded, insns)| sample(loaded, insns));
            assert_eq!(kept(&before).compare(&before, 0.0), []);
            let changes = kept(&before).compare(&after, 10.0);
            assert!(changes[0].worse == worse && changes[0].line.starts_with(line), "{changes:?}");
            assert_eq!(changes.len(), 1, "{changes:?}");
        }
    }

    #[test]
    fn a_file_of_something_else_is_wrong_usage() {
        let error = read(Path::new("/dev/null")).unwrap_err();
        assert_eq!(crate::exit::code_of(&error), crate::exit::USAGE);
    }
}
