//! What the documentation says can be done, can be done: its commands are accepted, its links lead somewhere.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;

use crate::{matrix, workspace};

/// The pages at the root and in docs/, and their text.
fn pages() -> Vec<(PathBuf, String)> {
    let directories = [workspace().to_owned(), workspace().join("docs")];
    let entries = directories.iter().flat_map(|directory| fs::read_dir(directory).unwrap());
    let paths = entries.map(|entry| entry.unwrap().path());
    let pages = paths.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    pages.map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// The headings of a page as links name them: GitHub's rules.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let kept = headings.map(|line| line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-"));
    kept.map(|line| line.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()).collect()
}

/// Programs that cargo starts, as people call them, and their executables, which are built beside each other.
const PROGRAMS: [(&str, &str); 2] = [("cargo xtask ", "xtask"), ("cargo kernels ", "cargo-kernels")];

/// The executable that a line calls and its arguments, without what a shell sees in the rest.
fn command(line: &str) -> Option<(&'static str, &str)> {
    let called = |&(words, program): &(&str, &'static str)| Some((program, line.split_once(words)?.1));
    let (program, command) = PROGRAMS.iter().find_map(called)?;
    let ends = [" #", " |", " >", " &&", ";", "`", "…"];
    let end = ends.iter().filter_map(|end| command.find(end)).min();
    Some((program, command[..end.unwrap_or(command.len())].trim()))
}

/// Whether the program would take this; with --help it does nothing else. What it passes on is not its own.
fn accepts((program, command): (&str, &str)) -> bool {
    let own = command.split(" -- ").next().unwrap_or_default().split_whitespace();
    let path = Path::new(env!("CARGO_BIN_EXE_xtask")).with_file_name(program);
    assert!(path.exists(), "{program} is not built: test the whole workspace");
    Command::new(path).current_dir(workspace()).args(own.filter(|word| *word != "--")).arg("--help").ok().is_ok()
}

#[test]
fn every_command_is_accepted() {
    let pages = pages();
    let commands: BTreeSet<_> = pages.iter().flat_map(|(_, page)| page.lines()).filter_map(command).collect();
    for (_, program) in PROGRAMS {
        let found = commands.iter().filter(|(called, _)| *called == program).count();
        assert!(found > 6, "only {found} commands of {program} were found");
    }
    let refused: Vec<_> = commands.into_iter().filter(|command| !accepts(*command)).collect();
    assert!(refused.is_empty(), "{refused:?}");
    let wrong = ["vmtests", "vmtest --wram", "kernels get", "vmtest --jobs many"].map(|line| ("xtask", line));
    for wrong in wrong.into_iter().chain([("cargo-kernels", "vmtest"), ("cargo-kernels", "load --bogus")]) {
        assert!(!accepts(wrong), "{wrong:?}");
    }
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let root = workspace().canonicalize().unwrap();
    let mut broken = Vec::new();
    for (path, page) in pages() {
        let links = page.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.contains("://")) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { path.clone() } else { path.with_file_name(file) };
            let there = target.canonicalize().is_ok_and(|there| there.starts_with(&root));
            let has_heading = || anchors(&fs::read_to_string(&target).unwrap()).contains(heading);
            if !there || !heading.is_empty() && !has_heading() {
                broken.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_pin_is_explained() {
    let page = fs::read_to_string(workspace().join("docs/kernels.md")).unwrap();
    let matrix: serde_json::Value = serde_json::from_str(&matrix()).unwrap();
    for pin in matrix["include"].as_array().unwrap() {
        let row = format!("\n| {} |", pin["kernel"].as_str().unwrap());
        assert!(page.contains(&row), "docs/kernels.md has no row {row:?}");
    }
}
