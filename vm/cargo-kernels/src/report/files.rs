//! Files that are there whole or not at all: written into a temporary directory, moved when all of them are.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// Files on their way into a directory. Dropped before [`Staged::commit`], they leave nothing behind.
pub struct Staged<'a> {
    dir: &'a Path,
    staging: TempDir,
    files: Vec<PathBuf>,
}

impl<'a> Staged<'a> {
    /// Nothing yet, for this directory.
    pub fn new(dir: &'a Path) -> Result<Self> {
        let staging = tempfile::Builder::new().prefix(".vmtest-").tempdir_in(dir);
        let staging = staging.with_context(|| format!("cannot write in {}", dir.display()))?;
        Ok(Self { dir, staging, files: Vec::new() })
    }

    /// Adds a file with this content, at a path below the directory.
    pub fn add(&mut self, path: impl AsRef<Path>, content: &[u8]) -> Result<()> {
        self.add_from(path.as_ref(), &mut &*content)
    }

    /// Adds a copy of a file, of any size, at a path below the directory.
    pub fn copy(&mut self, from: &Path, path: impl AsRef<Path>) -> Result<()> {
        let source = fs::File::open(from);
        let mut source = source.with_context(|| format!("cannot read {}", from.display()))?;
        self.add_from(path.as_ref(), &mut source)
    }

    fn add_from(&mut self, path: &Path, content: &mut impl io::Read) -> Result<()> {
        let staged = self.staging.path().join(path);
        let mut write = || -> io::Result<u64> {
            fs::create_dir_all(staged.parent().unwrap_or(self.dir))?;
            io::copy(content, &mut fs::File::create(&staged)?)
        };
        write().with_context(|| format!("cannot write {}", self.dir.join(path).display()))?;
        self.files.push(path.to_owned());
        Ok(())
    }

    /// Moves every file to its place.
    pub fn commit(self) -> Result<()> {
        for path in &self.files {
            let target = self.dir.join(path);
            fs::create_dir_all(target.parent().unwrap_or(self.dir))
                .and_then(|()| fs::rename(self.staging.path().join(path), &target))
                .with_context(|| format!("cannot write {}", target.display()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn nothing_is_there_until_everything_is() {
        let dir = tempfile::tempdir().unwrap();
        let mut staged = Staged::new(dir.path()).unwrap();
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
        let mut staged = Staged::new(dir.path()).unwrap();
        staged.add("report.json", b"{}").unwrap();
        let error = staged.copy(Path::new("/nonexistent/6.1.log"), "6.1.log").unwrap_err();
        assert!(format!("{error:#}").starts_with("cannot read /nonexistent/6.1.log: No such file"), "{error:#}");
        drop(staged);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn others_may_read_a_report_as_any_file_of_the_users() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("ordinary"), "").unwrap();
        let mut staged = Staged::new(dir.path()).unwrap();
        staged.add("report.json", b"{}").unwrap();
        staged.commit().unwrap();
        let mode = |name| fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode("report.json"), mode("ordinary"));
    }
}
