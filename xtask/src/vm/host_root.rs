//! A guest that has the host's own root directory, for people: `cargo xtask shell` and `exec`.
//!
//! The host's files are read-only there: virtme-ng puts what the guest writes into memory.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};

use super::accel::{self, Accel};
use super::rundir::RunDir;
use super::vng::{CHANNEL_OPTIONS, depmod, listen, path_with, qemu_options};
use crate::environment;
use crate::flags::VmArgs;
use crate::kernels::{self, Kernel, Progress};
use crate::tools::{self, Tool};

/// A kernel's whole module directory, where virtme-ng looks for it, and QEMU beside it.
pub struct HostRoot {
    /// Where virtme-ng is to be started.
    pub run: RunDir,
    /// The `vng` program.
    pub vng: PathBuf,
    /// KVM or TCG.
    pub accel: Accel,
}

impl HostRoot {
    /// Gets the kernel, and what virtme-ng needs of it.
    ///
    /// # Errors
    /// When the kernel cannot be had, or a tool is missing.
    pub fn prepare(kernel: &str, vm: &VmArgs) -> Result<Self> {
        let vng = tools::find(Tool::Vng)?;
        let qemu = tools::find(Tool::Qemu)?;
        let kernel = obtain(kernel)?;
        let chosen = accel::choose(vm.accel, &qemu, &kernel.image)?;
        if let Some(note) = chosen.note {
            eprintln!("{note}");
        }
        RunDir::clear_abandoned();
        let run = RunDir::create()?;
        symlink(&qemu, run.path().join("qemu")).context("cannot link QEMU")?;
        stage_kernel(&kernel, &run.path().join("kernel"))?;
        Ok(Self { run, vng, accel: chosen.accel })
    }

    /// What every `vng` of this kind is started with, in the run's directory; with the agent's line or without.
    pub fn arguments(&self, channel: bool) -> Vec<String> {
        let mut arguments: Vec<String> = ["--run", "kernel/vmlinuz", "--qemu", "./qemu"]
            .into_iter()
            .chain(["--user", "root", "--memory", "1G", "--cpus", "1"])
            .chain(["--force-9p", "--disable-microvm"])
            .map(str::to_owned)
            .collect();
        let further: &[&[&str]] = if channel { &[CHANNEL_OPTIONS] } else { &[] };
        arguments.extend(qemu_options(self.accel, further));
        if self.accel == Accel::Tcg {
            // The host's programs may be compiled for more than the quick, plain CPU of the tests.
            arguments.extend(["--disable-kvm".into(), "--qemu-opts=-cpu max".into()]);
        }
        arguments
    }

    /// The whole environment of virtme-ng, in which it finds its own parts, and no configuration of the user's.
    ///
    /// # Errors
    /// When `PATH` cannot be extended.
    pub fn environment(&self) -> Result<Vec<(OsString, OsString)>> {
        let dir = self.run.path().as_os_str().to_owned();
        let own = [("HOME", dir.clone()), ("TMPDIR", dir), ("PATH", path_with(&self.vng)?)];
        let own = own.map(|(name, value)| (name.into(), value));
        Ok(environment::allowed().chain(own).collect())
    }

    /// The agent's line; QEMU connects to it when it is started with [`CHANNEL_OPTIONS`].
    ///
    /// # Errors
    /// When no socket can be made.
    pub fn channel(&self) -> Result<UnixListener> {
        listen(&self.run.path().join("channel"))
    }
}

fn obtain(name: &str) -> Result<Kernel> {
    let targets = kernels::select(&[name.to_owned()])?;
    let target = targets.first().context("no kernel was named")?;
    target.obtain(&OnStderr).map_err(|unavailable| anyhow!("{unavailable}"))
}

/// Unlike a guest for tests, one for people may want any module.
fn stage_kernel(kernel: &Kernel, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    symlink(&kernel.image, dir.join("vmlinuz"))
        .with_context(|| format!("cannot link {}", kernel.image.display()))?;
    let Some(modules) = &kernel.modules else { return Ok(()) };
    let Some(release) = modules.file_name() else { return Ok(()) };
    // depmod writes beside the modules, and the cache is not to be written to.
    let own = dir.join("lib/modules").join(release);
    fs::create_dir_all(&own).with_context(|| format!("cannot create {}", own.display()))?;
    for entry in
        fs::read_dir(modules).with_context(|| format!("cannot read {}", modules.display()))?
    {
        let entry = entry.with_context(|| format!("cannot read {}", modules.display()))?;
        symlink(entry.path(), own.join(entry.file_name())).context("cannot link the modules")?;
    }
    depmod(dir, release.as_ref())
}

struct OnStderr;

impl Progress for OnStderr {
    fn bytes(&self, _done: u64, _total: Option<u64>) {}

    fn note(&self, text: &str) {
        eprintln!("{text}");
    }
}
