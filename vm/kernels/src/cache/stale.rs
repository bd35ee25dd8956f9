//! What nothing needs any more, and removing it.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use walkdir::WalkDir;

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
        let dir = root.join(kind);
        if !dir.try_exists()? {
            continue;
        }
        for entry in WalkDir::new(&dir).min_depth(1).max_depth(1).sort_by_file_name() {
            let entry = entry.with_context(|| format!("cannot read {}", dir.display()))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let lock = if kind == KERNELS { entry.path().join(MANIFEST) } else { root.join(LOCKS).join(&name) };
            if !needed.contains(&name) {
                stale.push(Stale { path: entry.into_path(), lock });
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

/// Bytes on disk of all files below `path`, which may be one itself.
pub fn size_of(path: &Path) -> u64 {
    let files = WalkDir::new(path).follow_root_links(false).into_iter().flatten();
    // st_blocks counts 512 bytes whatever the file system's block is (stat(2)).
    files.filter_map(|file| file.metadata().ok()).map(|file| 512 * file.blocks()).sum()
}
