//! What the documentation says of this program is true. (What it says of the harness is tested there.)

#![allow(clippy::unwrap_used)]

use std::path::Path;

use assert_cmd::Command;

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// What the program says to these arguments and `--help`; nothing if it refuses them.
fn help(arguments: &str) -> Option<String> {
    let mut program = Command::new(env!("CARGO_BIN_EXE_helloworld"));
    let output = program.args(arguments.split_whitespace()).arg("--help").ok().ok()?;
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn the_walkthrough_shows_the_source_as_it_is() {
    let page = read("docs/walkthrough.md");
    let shown = page.split("\n```c\n").nth(1).unwrap().split("```").next().unwrap();
    assert_eq!(shown, read("bpf/helloworld.bpf.c"));
}

#[test]
fn exit_codes_are_those_of_the_program() {
    let page = read("docs/troubleshooting.md");
    let section = page.split("\n## The tracer itself\n").nth(1).unwrap();
    let rows = section.lines().skip_while(|line| !line.starts_with("| 0 |"));
    let documented: Vec<String> = rows
        .take_while(|line| line.starts_with('|'))
        .map(|row| row.split('|').skip(1).take(2).map(str::trim).collect::<Vec<_>>().join("  "))
        .collect();
    let help = help("").unwrap();
    let listed = help.split("Exit codes:\n").nth(1).unwrap().lines().map(str::trim);
    assert_eq!(listed.collect::<Vec<_>>(), documented);
}

/// Behind `cargo xtask run --`, or behind the program's name.
#[test]
fn every_command_line_is_accepted() {
    let mut found = 0;
    for name in ["README.md", "docs/walkthrough.md", "docs/troubleshooting.md"] {
        let page = read(name);
        for start in ["cargo xtask run -- ", "`helloworld "] {
            for rest in page.split(start).skip(1) {
                let arguments = rest.split(['`', '#', '\n']).next().unwrap();
                assert!(help(arguments).is_some(), "{name}: {start}{arguments}");
                found += 1;
            }
        }
    }
    assert!(found > 3, "only {found} command lines were found");
    assert!(help("--folow").is_none());
}
