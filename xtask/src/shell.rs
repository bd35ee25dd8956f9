//! `cargo xtask shell`: a kernel to look around in.

use std::io::IsTerminal;
use std::process::Command;

use anyhow::{Context, Result};

use crate::exit::{self, Exit};
use crate::flags;
use crate::vm::host_root::HostRoot;

/// Runs the command: an interactive shell in a kernel, in the working directory, with the host's
/// files read-only. It ends with the shell.
///
/// # Errors
/// When the kernel cannot be had, a tool is missing, or virtme-ng cannot be started.
pub fn run(flags: &flags::Shell) -> Result<u8> {
    if !std::io::stdin().is_terminal() {
        return Err(Exit::usage(
            "a shell needs a terminal; for one command there is `cargo xtask exec -k K -- COMMAND`",
        ));
    }
    if flags.vm.timeout.is_some() {
        return Err(Exit::usage("a shell has no time limit: leave --timeout out"));
    }
    let host = HostRoot::prepare(&flags.kernel, &flags.vm)?;
    let cwd = std::env::current_dir().context("cannot find the working directory")?;
    let cwd = cwd.to_str().context("the working directory's path is not UTF-8")?;
    let status = Command::new(&host.vng)
        .current_dir(host.run.path())
        .envs(host.environment()?)
        .env_remove("KBUILD_OUTPUT")
        .args(host.arguments(false))
        .args(["--append", &format!("virtme_chdir=\"{}\"", cwd.trim_start_matches('/'))])
        // The terminal is virtme-ng's while the shell runs: it stays in the foreground.
        .status()
        .with_context(|| format!("cannot run {}", host.vng.display()))?;
    Ok(status.code().map_or(exit::NOT_RUN, |code| u8::try_from(code).unwrap_or(exit::FAILED)))
}
