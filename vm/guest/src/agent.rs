//! The agent: the static program that runs in every guest, and on this machine supervises what is started here.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::LazyLock;

use anyhow::{Result, bail};
use nix::sys::memfd::{MFdFlags, memfd_create};
use rustix::io::fcntl_dupfd_cloexec;

/// The lowest number for descriptors of this library's own that must stay open while a program is started.
pub(crate) const FIRST_OWN_FD: i32 = 256;

/// The program, an ELF file, as build.rs made it.
pub const PROGRAM: &[u8] = include_bytes!(env!("AGENT"));

/// The loader of vm/loader, for guests; empty where build.rs found no static libelf.
pub const LOADER: &[u8] = include_bytes!(env!("LOADER"));

/// A path at which this process, and a child of it up to its `execve`, can execute the agent: a file in memory.
pub fn on_this_machine() -> Result<PathBuf> {
    static FILE: LazyLock<io::Result<File>> = LazyLock::new(in_memory);
    match &*FILE {
        Ok(file) => Ok(format!("/proc/self/fd/{}", file.as_raw_fd()).into()),
        Err(error) => bail!("cannot make a program in memory (memfd_create): {error}"),
    }
}

fn in_memory() -> io::Result<File> {
    let mut file = File::from(memfd_create(c"vm-agent", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(PROGRAM)?;
    // A file that is open for writing cannot be executed (ETXTBSY, execve(2)).
    let file = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    // Out of the way of those numbers that a program is to find its descriptors at.
    Ok(fcntl_dupfd_cloexec(&file, FIRST_OWN_FD)?.into())
}
