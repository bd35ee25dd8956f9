//! The directory for a run's console logs.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use vm_kernels::lock::{self, How};

use crate::exit::Exit;

/// Spared by other runs while this one lasts.
#[derive(Debug)]
pub struct LogDir {
    path: PathBuf,
    _lock: Option<File>,
}

impl LogDir {
    /// How many are kept.
    const KEPT: usize = 20;

    /// Makes one, and removes those of runs long past.
    pub fn create(logs: &Path) -> Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let path = logs.join(format!("{}-{}", now.as_micros(), std::process::id()));
        let made = std::fs::create_dir_all(&path).and_then(|()| lock::existing(&path, How::LockShared));
        let lock = made.map_err(|error| Exit::not_run(format!("cannot create {}: {error}", path.display())))?;
        let entries = std::fs::read_dir(logs).into_iter().flatten().flatten();
        let mut old: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        old.sort();
        for dir in old.iter().take(old.len().saturating_sub(Self::KEPT)) {
            if let Ok(Some(_lock)) = lock::existing(dir, How::NonBlockingLockExclusive) {
                let _ = std::fs::remove_dir_all(dir);
            }
        }
        Ok(Self { path, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn logs_of_a_run_that_lasts_are_kept_however_many_come_after() {
        let logs = tempfile::tempdir().unwrap();
        let create = || LogDir::create(logs.path()).unwrap();
        let (first, second) = (create(), create().path);
        (0..LogDir::KEPT).for_each(|_| drop(create()));
        assert!(first.path.is_dir() && !second.exists());
        assert_eq!(std::fs::read_dir(logs.path()).unwrap().count(), LogDir::KEPT + 1);
    }
}
