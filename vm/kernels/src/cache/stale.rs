//! What nothing needs any more, and removing it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{INCOMING, KERNELS, LOCKS, MANIFEST, remove_at_once};
use crate::lock::{self, How};

/// Something in the cache that is of no use any more.
pub struct Stale {
    /// What would be removed.
    pub path: PathBuf,
    /// A file that is locked as long as it is in use.
    lock: PathBuf,
}

/// What can go of the cache at `root`: kernels and downloads other than those of the entries `needed`.
pub fn stale(root: &Path, needed: &HashSet<String>) -> Result<Vec<Stale>> {
    let mut stale = Vec::new();
    for kind in [KERNELS, INCOMING] {
        for path in children(&root.join(kind))? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let lock = match kind {
                KERNELS => path.join(MANIFEST),
                _ => root.join(LOCKS).join(&name),
            };
            if !needed.contains(&name) {
                stale.push(Stale { path, lock });
            }
        }
    }
    Ok(stale)
}

/// Removes what is stale, unless it is in use; with `dry_run`, only finds out whether it would. Says whether it is gone.
pub fn discard(stale: &Stale, dry_run: bool) -> Result<bool> {
    // A directory can be locked as well, which is what is left when the file is not there.
    let lock = if stale.lock.exists() { &stale.lock } else { &stale.path };
    let Some(_lock) = lock::existing(lock, How::NonBlockingLockExclusive)? else {
        return Ok(false);
    };
    if !dry_run {
        remove_at_once(&stale.path)?;
    }
    Ok(true)
}

/// Bytes on disk of all files below `path`.
pub fn size_of(path: &Path) -> u64 {
    let Ok(metadata) = path.symlink_metadata() else { return 0 };
    let below = match metadata.is_dir() {
        true => children(path).unwrap_or_default().iter().map(|path| size_of(path)).sum(),
        false => 0,
    };
    // st_blocks counts 512 bytes whatever the file system's block is (stat(2)).
    below + 512 * std::os::unix::fs::MetadataExt::blocks(&metadata)
}

/// A directory's entries, sorted; none when it is not there.
fn children(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", dir.display())),
    };
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}
