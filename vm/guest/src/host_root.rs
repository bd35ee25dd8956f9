//! A guest that has the host's own root directory, for people: a shell. One of another architecture, for which the host's
//! programs are no use, has a root of its own.
//!
//! The files are read-only there: virtme-ng puts what the guest writes into memory.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::accel::Accel;
use crate::guest_root::{self, Programs};
use crate::rundir::RunDir;
use crate::vng;
use vm_kernels::Kernel;

/// virtme-ng, ready to be started.
pub struct HostRoot {
    /// Where it runs; a kernel with its whole module directory is there, and QEMU.
    pub run: RunDir,
    /// The command; an argument `--shell` may follow.
    pub command: Command,
    /// The guest's own root directory, if it has one.
    pub root: Option<PathBuf>,
}

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
        let dir = run.path();
        // Unlike a guest for tests, one for people may want any module.
        vng::stage_kernel(kernel, &dir.join("kernel"), |modules, own| {
            for entry in fs::read_dir(modules).with_context(|| format!("cannot read {}", modules.display()))? {
                let entry = entry.with_context(|| format!("cannot read {}", modules.display()))?;
                symlink(entry.path(), own.join(entry.file_name())).context("cannot link the modules")?;
            }
            Ok(())
        })?;
        let mut command = Command::new(vng);
        vng::configure(&mut command, vng, qemu, dir, accel)?;
        // The host's programs may be compiled for more than the quick, plain CPU of the tests.
        let cpu = if accel == Accel::Tcg { kernel.arch.emulated_cpu[1] } else { accel.cpu(kernel.arch) };
        command.env("TMPDIR", dir).args(["--memory", "1G", "--cpus", "1"]).arg(format!("--qemu-opts=-cpu {cpu}"));
        let root = programs.map(|_| dir.join("root"));
        if let (Some(root), Some(programs)) = (&root, programs) {
            guest_root::stage(root, programs, None)?;
            command.args(["--root", "root", "--busybox", "root/bin/busybox", "--arch", kernel.arch.debian]);
        }
        Ok(Self { run, command, root })
    }
}
