//! `cargo xtask run`.

use std::convert::Infallible;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context, Result};
use nix::unistd::geteuid;

use cargo_kernels::build;
use cargo_kernels::dirs::Dirs;

use crate::flags;

/// Runs the command: builds the program, and becomes it, as root.
pub fn run(dirs: &Dirs, flags: &flags::Run) -> Result<u8> {
    let executable = build::executable(dirs)?;
    let mut command = if geteuid().is_root() {
        Command::new(&executable)
    } else {
        let mut sudo = Command::new("sudo");
        sudo.arg("--").arg(&executable);
        sudo
    };
    become_command(command.args(&flags.args)).map(|never| match never {})
}

/// Returns only when it fails. Signals and the exit code are the program's from here on.
fn become_command(command: &mut Command) -> Result<Infallible> {
    let error = command.exec();
    let program = command.get_program().to_string_lossy().into_owned();
    Err(error).with_context(|| {
        format!(
            "cannot run {program}; to run the program yourself, `cargo xtask build` prints its path"
        )
    })
}
