//! A directory for one VM run, gone when the run is over, or cleared by the next run if this one
//! was killed.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};

use crate::paths;

/// Owned by a living process for as long as its lock is held.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    _lock: Flock<File>,
}

impl RunDir {
    /// Makes a new directory below the target directory.
    ///
    /// # Errors
    /// When it cannot be written to, or the disk is full.
    pub fn create() -> Result<Self> {
        let runs = runs();
        fs::create_dir_all(&runs).with_context(|| format!("cannot create {}", runs.display()))?;
        let path = tempfile::Builder::new()
            .prefix("run-")
            .tempdir_in(&runs)
            .with_context(|| format!("cannot create a directory in {}", runs.display()))?
            .keep();
        let lock = lock(&path)?.context("a run directory just made is locked by someone else")?;
        Ok(Self { path, _lock: lock })
    }

    /// Where it is. Its name is made of letters, digits and a dash; its parents may be anything.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes what killed runs left behind.
    pub fn clear_abandoned() {
        let Ok(entries) = fs::read_dir(runs()) else { return };
        for entry in entries.flatten() {
            // A lock that can be had means that nobody lives there any more. One that is too
            // young to be locked yet is spared: it has no lock file.
            if let Ok(Some(_lock)) = existing_lock(&entry.path()) {
                let _ = fs::remove_dir_all(entry.path());
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

fn runs() -> PathBuf {
    paths::target().join("vmtest/runs")
}

fn lock(dir: &Path) -> Result<Option<Flock<File>>> {
    let file = dir.join("lock");
    let file = File::create(&file).with_context(|| format!("cannot create {}", file.display()))?;
    Ok(Flock::lock(file, FlockArg::LockExclusiveNonblock).ok())
}

fn existing_lock(dir: &Path) -> io::Result<Option<Flock<File>>> {
    let file = File::open(dir.join("lock"))?;
    Ok(Flock::lock(file, FlockArg::LockExclusiveNonblock).ok())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_living_run_is_spared_and_an_abandoned_one_is_cleared() {
        let living = RunDir::create().unwrap();
        let abandoned = runs().join(format!("run-abandoned-{}", std::process::id()));
        fs::create_dir_all(&abandoned).unwrap();
        File::create(abandoned.join("lock")).unwrap();

        RunDir::clear_abandoned();

        assert!(living.path().is_dir());
        assert!(!abandoned.exists());
        let path = living.path().to_owned();
        drop(living);
        assert!(!path.exists());
    }
}
