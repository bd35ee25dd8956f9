//! The programs on the host that the harness needs: finding them, and saying how to get them.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::paths;

/// A program on the host.
#[derive(Debug, Clone, Copy)]
pub enum Tool {
    /// virtme-ng.
    Vng,
    /// QEMU.
    Qemu,
    /// A static busybox.
    Busybox,
    /// sudo.
    Sudo,
}

/// Finds a program.
pub fn find(tool: Tool) -> Result<PathBuf> {
    let name = match tool {
        Tool::Vng => "vng",
        Tool::Qemu => "qemu-system-x86_64",
        Tool::Busybox => "busybox",
        Tool::Sudo => "sudo",
    };
    let own = paths::target().join("vmtest/venv/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::iter::once(own).chain(std::env::split_paths(&path));
    match dirs.map(|dir| dir.join(name)).find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => bail!("{name} is missing"),
    }
}
