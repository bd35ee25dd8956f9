//! The program and its root tests on this machine's own kernel, through sudo: `cargo xtask run`, `test --local`.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context, Result};

use cargo_kernels::dirs::Dirs;
use cargo_kernels::kernels::Arch;
use cargo_kernels::metadata::Metadata;
use cargo_kernels::payload::{Chosen, Payload};
use cargo_kernels::tools;
use cargo_kernels::{build, exit};

/// Builds the program and becomes it, as root: from here on signals and the exit code are the program's.
pub fn program(dirs: &Dirs, args: &[String]) -> Result<u8> {
    let executable = build::executable(dirs)?;
    let error = as_root(dirs)?.arg(&executable).args(args).exec();
    Err(error).with_context(|| format!("cannot run {} as root", executable.display()))
}

pub fn tests(dirs: &Dirs) -> Result<u8> {
    let payload = Payload::build(dirs, Arch::host(), &Metadata::load(dirs)?, &Chosen::default())?;
    let mut code = exit::OK;
    for (id, binary) in &payload.binaries {
        let mut command = as_root(dirs)?;
        // sudo empties the environment, so it goes through env(1).
        command.args(binary.env.iter().map(|(name, value)| format!("{name}={value}")));
        // One at a time: they share the kernel's one trace buffer.
        command.args(&binary.argv).arg("--test-threads=1").current_dir(&binary.cwd);
        let status = command.status().with_context(|| format!("cannot run {id}"))?;
        if !status.success() {
            code = exit::FAILED;
        }
    }
    Ok(code)
}

/// `env`, run by root.
fn as_root(dirs: &Dirs) -> Result<Command> {
    if nix::unistd::geteuid().is_root() {
        return Ok(Command::new("env"));
    }
    let mut sudo = Command::new(tools::find(dirs, "sudo")?);
    sudo.args(["--", "env"]);
    Ok(sudo)
}
