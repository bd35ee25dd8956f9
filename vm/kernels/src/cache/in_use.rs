//! Keeping what a run uses from being pruned by another.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// Holds `dir`, which `file` stands for, as long as this process lives.
///
/// # Errors
///
/// When another run is about to remove it.
pub fn hold(dir: &Path, file: File) -> Result<()> {
    static HELD: Mutex<Option<HashMap<PathBuf, Flock<File>>>> = Mutex::new(None);
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(lock) => {
            let mut held = HELD.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            held.get_or_insert_default().insert(dir.to_owned(), lock);
            Ok(())
        }
        Err((_, Errno::EWOULDBLOCK)) => bail!("another run is removing it"),
        // Where a file system has no locks there is no protection either, and nothing else is lost.
        Err(_) => Ok(()),
    }
}
