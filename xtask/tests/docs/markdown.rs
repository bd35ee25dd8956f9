//! As much of Markdown as is needed to find commands, links, headings and tables.

use std::path::{Path, PathBuf};

/// One file.
pub struct Page {
    /// Relative to the workspace, as in messages.
    pub name: String,
    /// Where relative links start from.
    pub dir: PathBuf,
    lines: Vec<Line>,
}

/// One line, and what it is.
struct Line {
    number: usize,
    text: String,
    place: Place,
}

/// Where a line stands.
#[derive(Clone, PartialEq)]
enum Place {
    Text,
    /// In a fenced block of this language.
    Fenced(String),
    /// In a block that is indented by four spaces.
    Indented,
}

/// A piece of code, and where it stands, for messages.
pub struct Code {
    pub at: String,
    pub text: String,
    /// A line of a block, which is to be typed as it is; else a few words in a sentence.
    pub block: bool,
}

impl Page {
    /// Reads a file of the workspace.
    pub fn read(name: &str) -> Self {
        let path = workspace().join(name);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
        Self::parse(name, path.parent().unwrap(), &text)
    }

    fn parse(name: &str, dir: &Path, text: &str) -> Self {
        let mut fence = None;
        let mut after_text = false;
        let mut lines = Vec::new();
        for (index, text) in text.lines().enumerate() {
            let marker = text.trim_start().strip_prefix("```");
            let place = match (&fence, marker) {
                (None, Some(language)) => {
                    fence = Some(language.to_owned());
                    continue;
                }
                (Some(_), Some(_)) => {
                    fence = None;
                    continue;
                }
                (Some(language), None) => Place::Fenced(language.clone()),
                // A line that goes on with a list's item is indented, too.
                (None, None) if text.starts_with("    ") && !after_text => Place::Indented,
                (None, None) => Place::Text,
            };
            after_text = place == Place::Text && !text.is_empty();
            lines.push(Line { number: index + 1, text: text.to_owned(), place });
        }
        assert!(fence.is_none(), "{name}: a fence is left open");
        Self { name: name.to_owned(), dir: dir.to_owned(), lines }
    }

    /// What a reader may type: lines of blocks that are for a shell, and words in a sentence that stand as code.
    pub fn code(&self) -> Vec<Code> {
        let mut found = Vec::new();
        for line in &self.lines {
            let at = format!("{}:{}", self.name, line.number);
            let command = match &line.place {
                Place::Text => {
                    let spans = spans(&line.text).map(|text| Code {
                        at: at.clone(),
                        text: text.to_owned(),
                        block: false,
                    });
                    found.extend(spans);
                    None
                }
                Place::Fenced(language) if language == "console" => line.text.strip_prefix("$ "),
                Place::Fenced(language) if language == "sh" => Some(line.text.as_str()),
                Place::Fenced(_) => None,
                Place::Indented => Some(line.text.as_str()),
            };
            found.extend(command.map(|text| Code { at, text: text.to_owned(), block: true }));
        }
        found
    }

    /// What is shown of the output of each run of a command: the lines up to the block's end, or its next command.
    pub fn outputs(&self, command: &str) -> Vec<Vec<&str>> {
        let prompt = format!("$ {command}");
        let mut outputs = Vec::new();
        let mut lines = self.lines.iter().peekable();
        while let Some(line) = lines.next() {
            if line.place != Place::Fenced("console".into()) || line.text != prompt {
                continue;
            }
            let mut output = Vec::new();
            let mut next = line.number + 1;
            while let Some(line) =
                lines.next_if(|line| line.number == next && !line.text.starts_with("$ "))
            {
                output.push(line.text.as_str());
                next += 1;
            }
            outputs.push(output);
        }
        outputs
    }

    /// Text without code, each line with its number.
    pub fn prose(&self) -> impl Iterator<Item = (usize, String)> {
        let lines = self.lines.iter().filter(|line| line.place == Place::Text);
        lines.map(|line| (line.number, line.text.split('`').step_by(2).collect()))
    }

    /// The headings, as what a link's `#…` names: GitHub's rules.
    pub fn anchors(&self) -> Vec<String> {
        let headings = self.lines.iter().filter(|line| line.place == Place::Text);
        let headings = headings.filter_map(|line| line.text.strip_prefix('#'));
        headings.map(|heading| anchor(heading.trim_start_matches('#').trim())).collect()
    }

    /// The cells of the table below a heading, without its head; the first table, if there are several.
    pub fn table(&self, heading: &str) -> Vec<Vec<String>> {
        let below = self.lines.iter().skip_while(|line| line.text != heading).skip(1);
        let table: Vec<&str> = below
            .map(|line| line.text.as_str())
            .skip_while(|text| !text.starts_with('|') && !text.starts_with('#'))
            .take_while(|text| text.starts_with('|'))
            .collect();
        assert!(table.len() > 2, "{}: no table below {heading:?}", self.name);
        table[2..].iter().map(|row| cells(row)).collect()
    }
}

/// Every page that a reader is sent to.
pub fn pages() -> Vec<Page> {
    let mut names: Vec<String> =
        ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(str::to_owned).to_vec();
    for entry in std::fs::read_dir(workspace().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".md") {
            names.push(format!("docs/{name}"));
        }
    }
    names.sort();
    names.iter().map(|name| Page::read(name)).collect()
}

/// The workspace's root directory.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// What stands between single backticks.
fn spans(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn cells(row: &str) -> Vec<String> {
    let row = row.trim().trim_matches('|');
    row.split('|').map(|cell| cell.trim().to_owned()).collect()
}

fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || " -_".contains(*c);
    heading.to_lowercase().chars().filter(kept).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn code_headings_and_tables_are_found() {
    let text = "# A `b`, c\n\nSay `x` and `y z`.\n\n    indented  # why\n\n```sh\none\n```\n\n```console\n$ two\nout\n\
                $ three\n```\n\n```c\nfour\n```\n\n| h |\n|---|\n| 1 | 2 |\n";
    let page = Page::parse("p", Path::new(""), text);
    let code = page.code();
    let code: Vec<(&str, bool)> = code.iter().map(|code| (code.text.trim(), code.block)).collect();
    let spans = [("b", false), ("x", false), ("y z", false)];
    let lines = [("indented  # why", true), ("one", true), ("two", true), ("three", true)];
    assert_eq!(code, [&spans[..], &lines].concat());
    assert_eq!(page.anchors(), ["a-b-c"]);
    assert_eq!(page.outputs("two"), [["out"]]);
    assert_eq!(page.table("# A `b`, c"), [["1", "2"]]);
}
