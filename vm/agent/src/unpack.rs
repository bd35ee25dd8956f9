//! Getting at the payload.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use vmtest_agent::{PAYLOAD_DIR, Payload};

use crate::mounts;

// BLKFLSBUF of include/uapi/linux/fs.h is _IO(0x12, 97).
nix::ioctl_none!(flush_buffers, 0x12, 97);

/// The directory with the payload's files, which are unpacked there if need be.
pub fn directory(payload: &Payload) -> Result<PathBuf> {
    match payload {
        Payload::Directory(path) => Ok(path.into()),
        Payload::Disk { device, bytes } => {
            mounts::tmpfs(PAYLOAD_DIR).map_err(|reason| anyhow!(reason))?;
            from_disk(Path::new(device), *bytes, Path::new(PAYLOAD_DIR))
                .with_context(|| format!("cannot unpack the payload from {device}"))?;
            Ok(PAYLOAD_DIR.into())
        }
    }
}

fn from_disk(device: &Path, bytes: u64, directory: &Path) -> Result<()> {
    let disk = File::open(device)?;
    // The kernel looked for partitions when it found the disk. In a restored guest that was
    // another disk's content, and must not be taken for this one's.
    // SAFETY: this request takes no argument.
    unsafe { flush_buffers(disk.as_raw_fd()) }.context("cannot flush the disk's buffers")?;
    untar(disk.take(bytes), directory)
}

fn untar(archive: impl Read, directory: &Path) -> Result<()> {
    let mut archive = tar::Archive::new(archive);
    archive.set_preserve_mtime(false);
    archive.set_preserve_permissions(true);
    archive.unpack(directory)?;
    Ok(())
}
