//! A directory for one VM run, gone when the run is over, or cleared by the next run if this one
//! was killed.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use vm_kernels::lock::{self, How};

/// In a run's directory, the file that is locked while the run lasts.
const LOCK: &str = "lock";

/// Owned by a living process for as long as its lock is held.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    _lock: File,
}

impl RunDir {
    /// Makes a new directory below `runs`, which is made if need be.
    ///
    /// # Errors
    /// When it cannot be written to, or the disk is full.
    pub fn create(runs: &Path) -> Result<Self> {
        fs::create_dir_all(runs).with_context(|| format!("cannot create {}", runs.display()))?;
        let _gate = gate(runs, How::LockShared)?;
        let path = tempfile::Builder::new()
            .prefix("run-")
            .tempdir_in(runs)
            .with_context(|| format!("cannot create a directory in {}", runs.display()))?
            .keep();
        let lock = path.join(LOCK);
        let lock = lock::exclusive(&lock, || ()).with_context(|| format!("cannot lock {}", lock.display()))?;
        Ok(Self { path, _lock: lock })
    }

    /// Where it is. Its name is made of letters, digits and a dash; its parents may be anything.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes what killed runs left behind.
    pub fn clear_abandoned(runs: &Path) {
        // Behind the gate no directory is about to be locked: one that is not is abandoned.
        let Ok(_gate) = gate(runs, How::LockExclusive) else { return };
        let Ok(entries) = fs::read_dir(runs) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            let abandoned = match lock::existing(&path.join(LOCK), How::NonBlockingLockExclusive) {
                Ok(lock) => lock.is_some(),
                // Killed before it was locked. What else may be wrong says nothing of who uses it.
                Err(error) => error.kind() == ErrorKind::NotFound,
            };
            if abandoned {
                let _ = fs::remove_dir_all(path);
            }
        }
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            if error.kind() != ErrorKind::NotFound {
                eprintln!("warning: cannot remove {}: {error}", self.path.display());
            }
        }
    }
}

/// Held, shared, from making a directory until it is locked.
fn gate(runs: &Path, how: How) -> Result<File> {
    lock::existing(runs, how)
        .and_then(|gate| gate.ok_or(ErrorKind::NotFound.into()))
        .with_context(|| format!("cannot lock {}", runs.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_living_run_is_spared_and_an_abandoned_one_is_cleared() {
        let runs = tempfile::tempdir().unwrap();
        let living = RunDir::create(runs.path()).unwrap();
        let abandoned = runs.path().join("run-abandoned");
        fs::create_dir_all(&abandoned).unwrap();
        File::create(abandoned.join("lock")).unwrap();
        let just_made = runs.path().join("run-just-made");
        fs::create_dir_all(&just_made).unwrap();

        let unreadable = runs.path().join("run-unreadable");
        fs::create_dir_all(&unreadable).unwrap();
        std::os::unix::fs::symlink(LOCK, unreadable.join(LOCK)).unwrap();

        RunDir::clear_abandoned(runs.path());

        assert!(unreadable.exists(), "a lock that cannot be opened (ELOOP) may be held");
        assert!(living.path().is_dir());
        assert!(!abandoned.exists());
        assert!(!just_made.exists(), "killed before it was locked");
        let path = living.path().to_owned();
        drop(living);
        assert!(!path.exists());
    }
}
