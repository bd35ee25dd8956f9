//! Locks between processes: flock(2).
//!
//! A lock belongs to the open file: it lasts until the last descriptor of it is closed, in this process and in those that
//! inherited one, however they end.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::{Errno, retry_on_intr};

/// Who else may hold the same lock, and whether to wait for them.
pub use rustix::fs::FlockOperation as How;

/// Locks a file that exists only to be locked, and makes it if need be. Calls `waiting` if somebody else holds it, and
/// then waits.
pub fn exclusive(path: &Path, waiting: impl FnOnce()) -> io::Result<File> {
    let file = File::options().write(true).create(true).truncate(false).open(path)?;
    if !lock_file(&file, FlockOperation::NonBlockingLockExclusive)? {
        waiting();
        lock_file(&file, FlockOperation::LockExclusive)?;
    }
    Ok(file)
}

/// Locks a file or directory that is there. `None` when somebody else holds it (and `how` does not wait), and when it was
/// removed or replaced meanwhile: then what was locked is not what `path` names any more.
pub fn existing(path: &Path, how: How) -> io::Result<Option<File>> {
    lock_opened(File::open(path)?, path, how)
}

fn lock_opened(file: File, path: &Path, how: How) -> io::Result<Option<File>> {
    if !lock_file(&file, how)? {
        return Ok(None);
    }
    let locked = file.metadata()?;
    let is_named = fs::metadata(path).is_ok_and(|now| (now.dev(), now.ino()) == (locked.dev(), locked.ino()));
    Ok(is_named.then_some(file))
}

/// Whether it is locked now; if not, somebody else holds it.
fn lock_file(file: &File, how: How) -> io::Result<bool> {
    match retry_on_intr(|| flock(file, how)) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_replaced_while_it_was_waited_for_is_not_locked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let opened = |text: &str| {
            fs::write(&path, text).unwrap();
            File::open(&path).unwrap()
        };
        let (removed, replaced) = (opened("a"), opened("a"));
        fs::remove_file(&path).unwrap();
        let shared = FlockOperation::NonBlockingLockShared;
        assert!(lock_opened(removed, &path, shared).unwrap().is_none());
        let current = opened("b");
        assert!(lock_opened(replaced, &path, shared).unwrap().is_none());
        assert!(lock_opened(current, &path, shared).unwrap().is_some());
    }
}
