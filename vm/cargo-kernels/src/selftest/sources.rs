//! A copy of the workspace's sources, in which mutants are made and compiled.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::dirs::Dirs;

/// What is never part of the sources.
const LEFT_OUT: &[&str] = &["target", ".git", "result"];

/// Where the copy is, and where cargo puts what it builds of it. Both are kept between runs, so that cargo compiles only
/// what a mutant changes.
pub fn copy_of(dirs: &Dirs) -> Dirs {
    let dir = dirs.target.join("vmtest/selftest");
    Dirs {
        project: dir.join("workspace"),
        // Not the project's own: a run of the real program beside this one must not find a mutant.
        target: dir.join("target"),
        cache: dirs.cache.clone(),
    }
}

/// Where nothing was built of the copy yet, takes over what was built for this machine itself: what build scripts and macros
/// are made of is the same for both, and the copy's own files are newer. Only time is lost where that fails.
pub fn take_over_builds(of: &Dirs, copy: &Dirs) {
    let new = copy.target.with_extension("new");
    if copy.target.exists() || fs::remove_dir_all(&new).is_err_and(|error| error.kind() != ErrorKind::NotFound) {
        return;
    }
    let mut cp = Command::new("cp");
    cp.args(["--archive", "--reflink=auto"]).args([of.target.join("release"), new.join("release")]);
    if fs::create_dir_all(&new).is_ok() && cp.stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        let _ = fs::rename(&new, &copy.target);
    }
}

/// Makes the copy as the sources are. Files that are as they should be are left alone, since cargo looks at their times.
///
/// # Errors
/// When a file cannot be read or written.
pub fn restore(of: &Dirs, copy: &Dirs) -> Result<()> {
    mirror(&of.project, &copy.project, LEFT_OUT)
}

fn mirror(from: &Path, to: &Path, left_out: &[&str]) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    remove_strangers(from, to)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry.with_context(|| format!("cannot read {}", from.display()))?;
        let name = entry.file_name();
        if left_out.iter().any(|left_out| name == *left_out) {
            continue;
        }
        let (source, copy) = (entry.path(), to.join(&name));
        let kind = entry.file_type().with_context(|| format!("cannot read {}", source.display()))?;
        if kind.is_dir() {
            mirror(&source, &copy, &[])?;
        } else if kind.is_file() {
            copy_if_different(&source, &copy)?;
        }
    }
    Ok(())
}

fn remove_strangers(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(to).with_context(|| format!("cannot read {}", to.display()))?.flatten() {
        let path = entry.path();
        if from.join(entry.file_name()).exists() {
            continue;
        }
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

fn copy_if_different(from: &Path, to: &Path) -> Result<()> {
    let wanted = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if fs::read(to).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    fs::write(to, wanted).with_context(|| format!("cannot write {}", to.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_copy_is_restored_file_by_file() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("src")).unwrap();
        fs::create_dir_all(from.join("target")).unwrap();
        fs::write(from.join("src/a"), "a").unwrap();
        fs::write(from.join("b"), "b").unwrap();
        mirror(&from, &to, LEFT_OUT).unwrap();
        let untouched = fs::metadata(to.join("b")).unwrap().modified().unwrap();
        fs::write(to.join("src/a"), "mutated").unwrap();
        fs::write(to.join("src/stranger"), "").unwrap();

        mirror(&from, &to, LEFT_OUT).unwrap();

        assert_eq!(fs::read_to_string(to.join("src/a")).unwrap(), "a");
        assert_eq!(fs::metadata(to.join("b")).unwrap().modified().unwrap(), untouched);
        assert!(!to.join("src/stranger").exists());
        assert!(!to.join("target").exists());
    }
}
