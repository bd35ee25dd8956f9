//! A directory for one VM run, gone when the run is over, or cleared by the next run if this one was killed.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use vm_kernels::lock::{self, How};

/// In a run's directory, the file that is locked while the run lasts.
pub(crate) const LOCK: &str = "lock";
const PREFIX: &str = "run-";

/// Owned by a living process for as long as its lock is held.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    _lock: File,
}

impl RunDir {
    /// Makes a new directory below `runs`, which is made if need be.
    pub fn create(runs: &Path) -> Result<Self> {
        fs::create_dir_all(runs).with_context(|| format!("cannot create {}", runs.display()))?;
        let _gate = gate(runs, How::LockShared)?;
        let path = tempfile::Builder::new()
            .prefix(PREFIX)
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

    /// Whether a path has the name of such a directory.
    pub(crate) fn is_one(path: &Path) -> bool {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(PREFIX.as_bytes()))
    }

    /// Keeps what is in it, under another name, and gives up the lock.
    pub(crate) fn keep_as(self, name: &Path) -> Result<()> {
        fs::rename(&self.path, name).with_context(|| format!("cannot rename to {}", name.display()))
        // Of the old name there is nothing left to remove.
    }

    /// Removes what killed runs left behind.
    pub fn clear_abandoned(runs: &Path) {
        // Behind the gate no directory is about to be locked: one that is not is abandoned.
        let Ok(_gate) = gate(runs, How::LockExclusive) else { return };
        let Ok(entries) = fs::read_dir(runs) else { return };
        for path in entries.flatten().map(|entry| entry.path()).filter(|path| Self::is_one(path)) {
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
    use super::*;

    #[test]
    fn abandoned_runs_are_cleared_and_living_ones_spared() {
        let runs = tempfile::tempdir().unwrap();
        let made = |name: &str| {
            let path = runs.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let living = RunDir::create(runs.path()).unwrap();
        let (abandoned, never_locked) = (made("run-abandoned"), made("run-never-locked"));
        File::create(abandoned.join(LOCK)).unwrap();
        let (unreadable, other) = (made("run-unreadable"), made("other"));
        std::os::unix::fs::symlink(LOCK, unreadable.join(LOCK)).unwrap();
        RunDir::clear_abandoned(runs.path());
        assert!(unreadable.exists(), "a lock that cannot be opened (ELOOP) may be held");
        assert!(living.path().is_dir() && other.exists());
        assert!(!abandoned.exists() && !never_locked.exists());
        let path = living.path().to_owned();
        drop(living);
        assert!(!path.exists());
    }

    #[test]
    fn a_run_that_is_about_to_be_locked_is_spared() {
        let runs = tempfile::tempdir().unwrap();
        // As a run that is between making its directory and locking it.
        let gate = gate(runs.path(), How::LockShared).unwrap();
        let made = runs.path().join("run-made");
        fs::create_dir(&made).unwrap();
        let clearing = {
            let runs = runs.path().to_owned();
            std::thread::spawn(move || RunDir::clear_abandoned(&runs))
        };
        // Long enough to be cleared, if anything would.
        std::thread::sleep(std::time::Duration::from_millis(50));
        let _lock = lock::exclusive(&made.join(LOCK), || panic!("somebody else has it")).unwrap();
        drop(gate);
        clearing.join().unwrap();
        assert!(made.exists());
    }
}
