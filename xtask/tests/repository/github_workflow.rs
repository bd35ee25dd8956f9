//! `.github/workflows/ci.yml`, as far as it can be checked without GitHub.

use std::fs;
use std::path::Path;

use assert_cmd::Command;

use crate::{matrix, workspace};

const WORKFLOW: &str = include_str!("../../../.github/workflows/ci.yml");

/// A tag can be moved to other code, a commit cannot; the version beside it is for people.
#[test]
fn actions_are_pinned_by_commit() {
    let uses: Vec<&str> =
        WORKFLOW.lines().filter_map(|line| line.split_once("uses: ")).map(|(_, action)| action).collect();
    assert!(uses.len() > 5, "{uses:?}");
    for action in uses {
        let (name, version) = action.split_once(" # v").unwrap_or_else(|| panic!("no version: {action}"));
        let (_, commit) = name.split_once('@').unwrap_or_else(|| panic!("no commit: {action}"));
        assert!(commit.len() == 40 && commit.bytes().all(|b| b.is_ascii_hexdigit()), "{action}");
        assert_eq!(version.split('.').count(), 3, "{action}");
    }
}

#[test]
fn no_job_can_hang_for_hours() {
    let count = |key: &str| WORKFLOW.lines().filter(|line| line.trim_start().starts_with(key)).count();
    assert_eq!(count("timeout-minutes:"), count("runs-on:"));
}

/// The job per kernel is made of what `cargo xtask matrix` prints.
#[test]
fn the_matrix_has_what_the_workflow_asks_it_for() {
    let text = matrix();
    // A line break would end the value in $GITHUB_OUTPUT.
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    let matrix: serde_json::Value = serde_json::from_str(&text).unwrap();
    let entries = matrix["include"].as_array().unwrap();
    assert!(!entries.is_empty());
    let asked: Vec<&str> =
        WORKFLOW.split("matrix.").skip(1).filter_map(|rest| rest.split_once(" }}")).map(|(key, _)| key).collect();
    assert!(asked.contains(&"kernel"), "{asked:?}");
    for key in asked.into_iter().filter(|key| !key.contains("outputs")) {
        assert!(entries.iter().all(|entry| entry[key].is_string()), "{key} is not in {text}");
    }
}

#[test]
#[ignore = "needs python3 and PyPI: cargo xtask test runs it"]
fn the_workflow_follows_its_schema_and_good_practice() {
    let workflow = workspace().join(".github/workflows/ci.yml");
    let tools = tempfile::tempdir().unwrap();
    let program = |name: &str| tools.path().join("bin").join(name);
    Command::new("python3").args(["-m", "venv"]).arg(tools.path()).assert().success();
    let install = ["install", "--quiet", "--disable-pip-version-check", "--no-deps", "--requirement"];
    let requirements = workspace().join("tests/github/requirements.txt");
    Command::new(program("pip")).args(install).arg(requirements).assert().success();
    let schema = |path: &Path| {
        let mut check = Command::new(program("check-jsonschema"));
        check.args(["--builtin-schema", "vendor.github-workflows"]).arg(path).assert()
    };
    schema(&workflow).success();
    Command::new(program("zizmor")).args(["--offline", "--quiet"]).arg(workflow).assert().success();

    let misspelt = tools.path().join("misspelt.yml");
    fs::write(&misspelt, WORKFLOW.replace("timeout-minutes", "timeout-minuts")).unwrap();
    schema(&misspelt).failure();
}
