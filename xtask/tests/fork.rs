//! docs/your-own-program.md, done exactly as it says, in a copy of the workspace.
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

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn page() -> String {
    fs::read_to_string(workspace().join("docs/your-own-program.md")).unwrap()
}

#[test]
fn the_page_has_every_file_and_ends_with_a_run() {
    let steps = steps(&page());
    let files: Vec<&str> = steps
        .iter()
        .filter_map(|step| match step {
            Step::File(name, _) => Some(name.as_str()),
            Step::Shell(_) => None,
        })
        .collect();
    assert_eq!(files, ["bpf/exitcount.bpf.c", "bpf/kconfig", "src/main.rs", "tests/exits.rs"]);
    let last = steps.last().unwrap();
    assert_eq!(*last, Step::Shell("cargo xtask vmtest --warm -k 6.12\n".into()));
}

#[test]
#[ignore = "compiles everything anew and boots a VM: cargo xtask test runs it"]
fn the_page_leads_to_a_pass() {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("fork");
    copy_tracked(&copy);
    // Kept from one run of this test to the next, so that only the program is compiled again.
    let target = workspace().join("target/vmtest/fork");
    let mut said = String::new();
    for step in steps(&page()) {
        match step {
            Step::File(name, text) => fs::write(copy.join(name), text).unwrap(),
            Step::Shell(commands) => {
                let output = Command::new("bash")
                    .args(["-euo", "pipefail", "-c", &commands])
                    .current_dir(&copy)
                    .env("CARGO_TARGET_DIR", &target)
                    .output()
                    .unwrap();
                said = String::from_utf8_lossy(&output.stdout).into_owned();
                let errors = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{commands}\n{said}\n{errors}");
            }
        }
    }
    assert!(said.contains("1/1"), "{said}");
    assert!(said.trim_end().ends_with("1 passed, 0 failed"), "{said}");
}

/// The files that git knows, as they are now.
fn copy_tracked(to: &Path) {
    let list = Command::new("git").args(["ls-files", "-z"]).current_dir(workspace()).output();
    let list = list.unwrap();
    assert!(list.status.success(), "{}", String::from_utf8_lossy(&list.stderr));
    for name in String::from_utf8(list.stdout).unwrap().split_terminator('\0') {
        let (from, to) = (workspace().join(name), to.join(name));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        if from.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&from).unwrap(), &to).unwrap();
        } else if from.is_file() {
            fs::copy(&from, &to).unwrap();
        }
    }
}
