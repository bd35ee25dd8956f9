//! Files that are there whole or not at all: written under a temporary name, renamed when all of them are.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::NamedTempFile;

/// Files on their way into a directory. Dropped before [`Staged::commit`], they leave nothing behind.
pub struct Staged<'a> {
    dir: &'a Path,
    files: Vec<(NamedTempFile, PathBuf)>,
}

impl<'a> Staged<'a> {
    /// Nothing yet, for this directory.
    pub fn new(dir: &'a Path) -> Self {
        Self { dir, files: Vec::new() }
    }

    /// Adds a file with this content, at a path below the directory.
    pub fn add(&mut self, path: impl AsRef<Path>, content: &[u8]) -> Result<()> {
        self.add_from(path.as_ref(), &mut &*content)
    }

    /// Adds a copy of a file, of any size, at a path below the directory.
    pub fn copy(&mut self, from: &Path, path: impl AsRef<Path>) -> Result<()> {
        let mut source =
            fs::File::open(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.add_from(path.as_ref(), &mut source)
    }

    fn add_from(&mut self, path: &Path, content: &mut impl io::Read) -> Result<()> {
        let path = self.dir.join(path);
        let parent = path.parent().unwrap_or(self.dir);
        let mut write = || -> io::Result<NamedTempFile> {
            fs::create_dir_all(parent)?;
            let mut file = temporary(parent)?;
            io::copy(content, &mut file)?;
            file.flush()?;
            Ok(file)
        };
        let file = write().with_context(|| format!("cannot write {}", path.display()))?;
        self.files.push((file, path));
        Ok(())
    }

    /// Gives every file its name.
    pub fn commit(self) -> Result<()> {
        for (file, path) in self.files {
            file.persist(&path)
                .map_err(|error| error.error)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}

/// A temporary file with the permissions of an ordinary one (what the umask leaves), not of a secret.
pub fn temporary(dir: &Path) -> io::Result<NamedTempFile> {
    tempfile::Builder::new()
        .prefix(".vmtest-")
        .permissions(fs::Permissions::from_mode(0o666))
        .tempfile_in(dir)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn nothing_is_there_until_everything_is() {
        let dir = tempfile::tempdir().unwrap();
        let mut staged = Staged::new(dir.path());
        staged.add("console/6.1.log", b"log").unwrap();
        staged.add("report.json", b"{}").unwrap();
        assert!(!dir.path().join("report.json").exists());
        staged.commit().unwrap();
        assert_eq!(fs::read(dir.path().join("report.json")).unwrap(), b"{}");
        assert_eq!(fs::read(dir.path().join("console/6.1.log")).unwrap(), b"log");
    }

    #[test]
    fn what_is_given_up_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut staged = Staged::new(dir.path());
        staged.add("report.json", b"{}").unwrap();
        let error = staged.copy(Path::new("/nonexistent/6.1.log"), "6.1.log").unwrap_err();
        assert!(
            format!("{error:#}").starts_with("cannot read /nonexistent/6.1.log: No such file"),
            "{error:#}"
        );
        drop(staged);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn others_may_read_a_report_as_any_file_of_the_users() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("ordinary"), "").unwrap();
        let mut staged = Staged::new(dir.path());
        staged.add("report.json", b"{}").unwrap();
        staged.commit().unwrap();
        let mode = |name| fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode("report.json"), mode("ordinary"));
    }
}
