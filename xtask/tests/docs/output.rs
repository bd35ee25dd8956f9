//! What the documentation shows of `cargo xtask inspect` is what it prints.

use assert_cmd::Command;

use crate::markdown::{pages, workspace};

const COMMAND: &str = "cargo xtask inspect";

#[test]
fn the_bytecode_that_is_shown_is_what_the_compiler_makes() {
    let pages = pages();
    let shown: Vec<Vec<&str>> = pages.iter().flat_map(|page| page.outputs(COMMAND)).collect();
    // A program of another kind has another walkthrough, or none.
    assert_eq!(shown.is_empty(), !workspace().join("docs/walkthrough.md").exists());
    let printed = Command::cargo_bin("xtask").unwrap().arg("inspect").assert().success();
    let printed = String::from_utf8_lossy(&printed.get_output().stdout).into_owned();
    let printed: Vec<&str> = printed.lines().collect();
    for shown in shown {
        assert_eq!(comparable(&shown), comparable(&printed), "{COMMAND} prints something else now");
    }
}

/// Without what differs from one checkout or compiler to another: the file's path and length, and how many source
/// lines clang found worth recording. (The rest was the same with clang 14, 16 and 19.)
fn comparable(output: &[&str]) -> Vec<String> {
    output
        .iter()
        .enumerate()
        .map(|(index, line)| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            match columns.as_slice() {
                [path, _bytes, "bytes"] if index == 0 => {
                    path.rsplit('/').next().unwrap_or_default().to_owned()
                }
                [number, ".BTF.ext", kind, offset, _size, rest @ ..] => {
                    [&[*number, ".BTF.ext", kind, offset], rest].concat().join(" ")
                }
                _ => (*line).to_owned(),
            }
        })
        .collect()
}
