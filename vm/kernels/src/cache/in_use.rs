//! Keeping what a run uses from being pruned by another.

use std::collections::HashMap;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Result, bail};

use crate::lock::{self, How};

/// Holds `dir`, which the file or directory `path` stands for, as long as this process lives.
///
/// # Errors
///
/// When it is not there, or another run removes it.
pub fn hold(dir: &Path, path: &Path) -> Result<()> {
    static HELD: Mutex<Option<HashMap<PathBuf, File>>> = Mutex::new(None);
    match lock::existing(path, How::NonBlockingLockShared) {
        Ok(Some(lock)) => {
            let mut held = HELD.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            held.get_or_insert_default().insert(dir.to_owned(), lock);
            Ok(())
        }
        Ok(None) => bail!("another run is removing it"),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(error.into()),
        // Where a file system has no locks there is no protection either, and nothing else is lost.
        Err(_) => Ok(()),
    }
}
