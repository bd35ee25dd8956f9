//! What the documentation says can be done, can be done: its commands are accepted, its links lead somewhere.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use pulldown_cmark::{CodeBlockKind, Event, Parser, Tag, TagEnd};

/// A page, as far as it is looked at.
#[derive(Default)]
struct Page {
    /// What a reader may type: lines of a shell's blocks, and code in a sentence.
    code: Vec<String>,
    links: Vec<String>,
    /// The headings as links name them: GitHub's rules.
    anchors: BTreeSet<String>,
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(1).unwrap().canonicalize().unwrap()
}

/// The pages at the root and in docs/.
fn pages() -> Vec<PathBuf> {
    let directories = [workspace(), workspace().join("docs")];
    let entries = directories.iter().flat_map(|directory| fs::read_dir(directory).unwrap());
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

fn read(path: &Path) -> Page {
    let text = fs::read_to_string(path).unwrap();
    let mut page = Page::default();
    let (mut block, mut heading) = (None, None::<String>);
    for event in Parser::new(&text) {
        match event {
            Event::Start(Tag::CodeBlock(kind)) => block = Some(kind),
            Event::End(TagEnd::CodeBlock) => block = None,
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::End(TagEnd::Heading(_)) => page.anchors.extend(heading.take().map(anchor)),
            Event::Start(Tag::Link { dest_url, .. }) => page.links.push(dest_url.into_string()),
            Event::Text(text) | Event::Code(text) if heading.is_some() => {
                heading.as_mut().unwrap().push_str(&text);
            }
            Event::Code(code) => page.code.push(code.into_string()),
            Event::Text(text) => match &block {
                Some(CodeBlockKind::Fenced(language)) if &**language == "console" => {
                    page.code.extend(text.lines().filter_map(|line| line.strip_prefix("$ ")).map(str::to_owned));
                }
                Some(CodeBlockKind::Fenced(language)) if &**language != "sh" => {}
                Some(_) => page.code.extend(text.lines().map(str::to_owned)),
                None => {}
            },
            _ => {}
        }
    }
    page
}

fn anchor(heading: String) -> String {
    let kept = heading.to_lowercase().replace(' ', "-");
    kept.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()
}

/// The `cargo xtask …` of a line, without what a shell sees in the rest.
fn command(line: &str) -> Option<&str> {
    let command = line[line.find("cargo xtask")?..].strip_prefix("cargo xtask")?;
    let ends = [" #", " |", " >", " &&", ";", "`", "…"];
    let end = ends.iter().filter_map(|end| command.find(end)).min();
    Some(command[..end.unwrap_or(command.len())].trim())
}

/// Whether the program would take this; with --help it does nothing else. What it passes on is not its own.
fn accepts(command: &str) -> bool {
    let own = command.split(" -- ").next().unwrap_or_default().split_whitespace();
    let mut xtask = Command::new(env!("CARGO_BIN_EXE_xtask"));
    xtask.args(own.filter(|word| *word != "--")).arg("--help").ok().is_ok()
}

#[test]
fn every_command_is_accepted() {
    let lines: Vec<String> = pages().into_iter().flat_map(|path| read(&path).code).collect();
    let commands: BTreeSet<&str> = lines.iter().filter_map(|line| command(line)).collect();
    assert!(commands.len() > 20, "only {} commands were found", commands.len());
    let refused: Vec<&&str> = commands.iter().filter(|command| !accepts(command)).collect();
    assert!(refused.is_empty(), "{refused:?}");
    for wrong in ["vmtests", "vmtest --wram", "kernels get", "vmtest --jobs many"] {
        assert!(!accepts(wrong), "{wrong}");
    }
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let mut broken = Vec::new();
    for path in pages() {
        let page = read(&path);
        for link in page.links.iter().filter(|link| !link.contains("://")) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { path.clone() } else { path.with_file_name(file) };
            let there = target.canonicalize().is_ok_and(|there| there.starts_with(workspace()));
            if !there || (!heading.is_empty() && !read(&target).anchors.contains(heading)) {
                broken.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_pin_is_explained() {
    let page = fs::read_to_string(workspace().join("docs/kernels.md")).unwrap();
    let matrix = Command::new(env!("CARGO_BIN_EXE_xtask")).arg("matrix").unwrap().stdout;
    let matrix: serde_json::Value = serde_json::from_slice(&matrix).unwrap();
    for pin in matrix["include"].as_array().unwrap() {
        let row = format!("\n| {} |", pin["kernel"].as_str().unwrap());
        assert!(page.contains(&row), "docs/kernels.md has no row {row:?}");
    }
}
