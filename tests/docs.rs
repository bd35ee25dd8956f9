//! What the documentation says of this program is true. (What it says of the harness is tested there.)

#![allow(clippy::unwrap_used)]

use std::path::Path;

use clap::Parser as _;
use helloworld::cli::Cli;
use helloworld::failure::Kind;
use helloworld::trace_line::{MESSAGE, Record};

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The blocks of a page that are fenced with this language.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("\n```{language}\n");
    page.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn the_walkthrough_shows_the_source_as_it_is() {
    let page = read("docs/walkthrough.md");
    assert_eq!(blocks(&page, "c")[0], read("bpf/helloworld.bpf.c"));
}

#[test]
fn the_walkthrough_shows_lines_that_are_the_programs() {
    let page = read("docs/walkthrough.md");
    let shown = blocks(&page, "text").into_iter().chain(blocks(&page, "console"));
    let lines: Vec<&str> =
        shown.flat_map(str::lines).filter(|line| line.contains(MESSAGE)).collect();
    assert!(lines.len() > 5, "only {} lines were found", lines.len());
    for line in lines {
        assert!(matches!(Record::parse(line), Record::Hello(_)), "{line}");
    }
}

#[test]
fn exit_codes_are_those_of_the_program() {
    let page = read("docs/troubleshooting.md");
    let section = page.split("\n## The tracer itself\n").nth(1).unwrap();
    let documented: Vec<(String, &str)> = section
        .lines()
        .skip_while(|line| !line.starts_with("| 0 |"))
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(|row| row.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>())
        .map(|cells| (cells[0].to_owned(), cells[1]))
        .collect();
    let kinds = Kind::ALL.iter().map(|kind| (kind.exit_code().to_string(), kind.description()));
    assert_eq!(documented, kinds.collect::<Vec<_>>());
}

#[test]
fn every_command_line_is_accepted() {
    let mut found = 0;
    for name in ["README.md", "docs/walkthrough.md", "docs/troubleshooting.md"] {
        for line in read(name).lines() {
            for arguments in arguments(line) {
                found += 1;
                let words = std::iter::once("helloworld").chain(arguments.split_whitespace());
                if let Err(error) = Cli::try_parse_from(words) {
                    assert!(!error.use_stderr(), "{name}: {line}: {error}");
                }
            }
        }
    }
    assert!(found > 3, "only {found} command lines were found");
}

/// What this program is given in a line: behind `cargo xtask run --`, or behind its name.
fn arguments(line: &str) -> impl Iterator<Item = &str> {
    ["cargo xtask run -- ", "`helloworld "].into_iter().flat_map(|start| {
        line.split(start).skip(1).map(|rest| rest.split(['`', '#']).next().unwrap_or_default())
    })
}
