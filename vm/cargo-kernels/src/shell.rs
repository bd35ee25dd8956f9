//! `cargo xtask shell`: a kernel to look around in.

use std::io::IsTerminal;
use std::process::Command;

use crate::kernels::{self, Progress};
use anyhow::{Context, Result, anyhow};

use crate::exit::{self, Exit};
use crate::flags;
use crate::paths;
use crate::tools::{self, Tool};
use vm_guest::accel;
use vm_guest::host_root::HostRoot;

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
    let host = host_root(&flags.kernel, &flags.vm)?;
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

/// A guest with this machine's root directory, ready to be started.
///
/// # Errors
/// When the kernel cannot be had, or a tool is missing.
pub fn host_root(kernel: &str, vm: &flags::VmArgs) -> Result<HostRoot> {
    let (vng, qemu) = (tools::find(Tool::Vng)?, tools::find(Tool::Qemu)?);
    let targets = kernels::select(&[kernel.to_owned()])?;
    let target = targets.first().context("no kernel was named")?;
    let kernel = target.obtain(&OnStderr).map_err(|unavailable| anyhow!("{unavailable}"))?;
    let chosen = accel::choose(vm.accel, &qemu, &kernel.image, &paths::cache()?)?;
    if let Some(note) = chosen.note {
        eprintln!("{note}");
    }
    HostRoot::prepare(&kernel, chosen.accel, &vng, &qemu, &paths::runs())
}

struct OnStderr;

impl Progress for OnStderr {
    fn bytes(&self, _done: u64, _total: Option<u64>) {}

    fn note(&self, text: &str) {
        eprintln!("{text}");
    }
}
