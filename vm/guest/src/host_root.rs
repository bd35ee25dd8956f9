//! A guest that has the host's own root directory, for people: a shell. One of another architecture, for which the host's
//! programs are no use, has a root of its own.
//!
//! The files are read-only there: virtme-ng puts what the guest writes into memory.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::accel::Accel;
use crate::environment;
use crate::guest_root::{self, Programs};
use crate::rundir::RunDir;
use crate::vng::{path_with, qemu_options, stage_kernel};
use vm_kernels::{Arch, Kernel};

/// A kernel's whole module directory, where virtme-ng looks for it, and QEMU beside it.
pub struct HostRoot {
    /// Where virtme-ng is to be started.
    pub run: RunDir,
    /// The `vng` program.
    pub vng: PathBuf,
    /// What it runs on.
    pub arch: &'static Arch,
    /// KVM or TCG.
    pub accel: Accel,
    /// Its own root directory, if it has one.
    pub root: Option<PathBuf>,
}

/// That directory, where virtme-ng is started.
const ROOT: &str = "root";

impl HostRoot {
    /// Puts everything where virtme-ng finds it, in a new directory below `runs`. With `programs` it has a root of its own.
    pub fn prepare(
        kernel: &Kernel,
        accel: Accel,
        vng: &Path,
        qemu: &Path,
        programs: Option<&Programs>,
        runs: &Path,
    ) -> Result<Self> {
        RunDir::clear_abandoned(runs);
        let run = RunDir::create(runs)?;
        let root = programs.map(|_| run.path().join(ROOT));
        if let (Some(root), Some(programs)) = (&root, programs) {
            guest_root::stage(root, programs, None)?;
        }
        symlink(qemu, run.path().join("qemu")).context("cannot link QEMU")?;
        // Unlike a guest for tests, one for people may want any module.
        stage_kernel(kernel, &run.path().join("kernel"), |modules, own| {
            for entry in fs::read_dir(modules).with_context(|| format!("cannot read {}", modules.display()))? {
                let entry = entry.with_context(|| format!("cannot read {}", modules.display()))?;
                symlink(entry.path(), own.join(entry.file_name())).context("cannot link the modules")?;
            }
            Ok(())
        })?;
        Ok(Self { run, vng: vng.to_owned(), arch: kernel.arch, accel, root })
    }

    /// What `vng` is started with, in the run's directory.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments: Vec<String> = ["--run", "kernel/vmlinuz", "--qemu", "./qemu"]
            .into_iter()
            .chain(["--user", "root", "--memory", "1G", "--cpus", "1"])
            .chain(["--force-9p", "--disable-microvm"])
            .map(str::to_owned)
            .collect();
        if self.root.is_some() {
            let own = ["--root", ROOT, "--busybox", "root/bin/busybox", "--arch", self.arch.debian];
            arguments.extend(own.map(str::to_owned));
        }
        arguments.extend(qemu_options(self.arch, self.accel, &[]));
        if self.accel == Accel::Tcg {
            // The host's programs may be compiled for more than the quick, plain CPU of the tests.
            let [_, everything] = self.arch.emulated_cpu;
            arguments.extend(["--disable-kvm".into(), format!("--qemu-opts=-cpu {everything}")]);
        }
        arguments
    }

    /// The whole environment of virtme-ng, in which it finds its own parts, and no configuration of the user's.
    pub fn environment(&self) -> Result<Vec<(OsString, OsString)>> {
        let dir = self.run.path().as_os_str().to_owned();
        let own = [("HOME", dir.clone()), ("TMPDIR", dir), ("PATH", path_with(&self.vng)?)];
        let own = own.map(|(name, value)| (name.into(), value));
        Ok(environment::allowed().chain(own).collect())
    }
}
