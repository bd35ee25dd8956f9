//! What is only in this repository: its documentation, tools, workflow, flake and program.
#![allow(clippy::unwrap_used)]

mod docs;
mod github_workflow;
mod host;
mod least_kernel;
mod nix_flake;
mod program;

use std::path::Path;

use assert_cmd::Command;

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn xtask(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.current_dir(workspace()).args(arguments);
    command
}

fn matrix() -> String {
    String::from_utf8(xtask(&["matrix"]).unwrap().stdout).unwrap()
}
