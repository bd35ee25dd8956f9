//! docs/your-own-program.md, done exactly as it says.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::Command;

/// A piece of the page that is to be done.
#[derive(Debug, PartialEq)]
enum Step {
    /// Write a file: its name, its text.
    File(String, String),
    /// Run commands.
    Shell(String),
}

/// Fenced blocks of `sh` are commands; a block of anything else is a file if the line before it,
/// but for an empty one, is that file's name in backticks and a colon.
fn steps(page: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut lines = page.lines();
    let mut before = "";
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            let text = block.join("\n") + "\n";
            let name = before.strip_prefix('`').and_then(|name| name.strip_suffix("`:"));
            match (language, name) {
                ("sh", _) => steps.push(Step::Shell(text)),
                (_, Some(name)) => steps.push(Step::File(name.to_owned(), text)),
                _ => {}
            }
        } else if !line.is_empty() {
            before = line;
        }
    }
    steps
}

#[test]
#[ignore = "boots a VM: cargo xtask test runs it"]
fn the_page_leads_to_a_pass() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/your-own-program.md");
    let steps = steps(&fs::read_to_string(page).unwrap());
    let files = steps.iter().filter(|step| matches!(step, Step::File(..))).count();
    assert_eq!((files, steps.len()), (4, 6), "{steps:?}");

    let dir = tempfile::tempdir().unwrap();
    let tool = Path::new(env!("CARGO_BIN_EXE_cargo-kernels")).parent().unwrap();
    let path = format!("{}:{}", tool.display(), std::env::var("PATH").unwrap());
    let mut said = String::new();
    for step in steps {
        match step {
            Step::File(name, text) => fs::write(dir.path().join(name), text).unwrap(),
            Step::Shell(commands) => {
                let own = dir.path().join("own");
                let here = if own.exists() { &own } else { dir.path() };
                let output = Command::new("bash")
                    .args(["-euo", "pipefail", "-c", &commands])
                    .current_dir(here)
                    .env("PATH", &path)
                    .env_remove("CARGO_TARGET_DIR")
                    .output()
                    .unwrap();
                said = String::from_utf8_lossy(&output.stdout).into_owned();
                let errors = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{commands}\n{said}\n{errors}");
            }
        }
    }
    assert!(said.contains("1/1") && said.contains("1 passed, 0 failed"), "{said}");
}
