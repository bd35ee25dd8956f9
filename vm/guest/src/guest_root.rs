//! The guest's root directory: a static busybox, the agent, and nothing that takes time at boot.
//!
//! There is no udev (with it, a guest spends seconds probing drivers) and no shared library.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::agent;

/// Where the agent is in a guest.
pub const AGENT: &str = "/vmtest-agent";

/// Directories that exist, empty, in every guest.
pub const DIRECTORIES: &[&str] =
    &["bin", "dev", "etc", "lib", "lib/modules", "layers", "newroot", "proc", "root", "run", "sys", "tmp"];

/// Small files that programs expect.
pub const FILES: &[(&str, &str)] = &[
    ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"),
    ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
];

/// The names under which busybox is to be found in `/bin`.
///
/// # Errors
/// When busybox cannot be run.
pub fn applets(busybox: &Path) -> Result<Vec<String>> {
    let output =
        Command::new(busybox).arg("--list").output().with_context(|| format!("cannot run {}", busybox.display()))?;
    if !output.status.success() {
        bail!("`{} --list` failed: {}", busybox.display(), output.status);
    }
    let names = String::from_utf8_lossy(&output.stdout);
    let plain = |name: &&str| *name != "busybox" && !name.contains('/') && !name.is_empty();
    Ok(names.lines().filter(plain).map(str::to_owned).collect())
}

/// Makes the root as a directory, to be shared with a guest.
///
/// # Errors
/// When a file cannot be read or written.
pub fn stage(root: &Path, busybox: &Path) -> Result<()> {
    for dir in DIRECTORIES {
        create_dir(&root.join(dir))?;
    }
    for (name, text) in FILES {
        fs::write(root.join(name), text).with_context(|| format!("cannot write {name}"))?;
    }
    fs::copy(busybox, root.join("bin/busybox"))
        .with_context(|| format!("cannot copy {} into the guest's root", busybox.display()))?;
    let to = root.join(&AGENT[1..]);
    fs::write(&to, agent::PROGRAM)
        .and_then(|()| fs::set_permissions(&to, Permissions::from_mode(0o755)))
        .context("cannot write the agent into the guest's root")?;
    for applet in applets(busybox)? {
        symlink("busybox", root.join("bin").join(applet)).context("cannot link busybox")?;
    }
    Ok(())
}

/// Gives everyone in the guest what the owner may do, except for writing, whatever the umask was: tests run programs
/// as ordinary users.
///
/// # Errors
/// When a file cannot be looked at or changed.
pub fn open_to_all(path: &Path) -> Result<()> {
    let failed = || format!("cannot make {} readable", path.display());
    let metadata = fs::symlink_metadata(path).with_context(failed)?;
    if metadata.is_symlink() {
        return Ok(());
    }
    let mode = metadata.permissions().mode();
    let opened = mode | (mode >> 3 & 0o050) | (mode >> 6 & 0o005);
    fs::set_permissions(path, Permissions::from_mode(opened)).with_context(failed)?;
    if metadata.is_dir() {
        for entry in fs::read_dir(path).with_context(failed)? {
            open_to_all(&entry.with_context(failed)?.path())?;
        }
    }
    Ok(())
}

fn create_dir(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_a_strict_umask_closed_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path("bin")).unwrap();
        for (name, mode) in [("bin/program", 0o700), ("bin/text", 0o600), ("bin", 0o700)] {
            let file = path(name);
            if !file.exists() {
                fs::write(&file, "").unwrap();
            }
            fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        }
        symlink("/nonexistent", path("link")).unwrap();

        open_to_all(dir.path()).unwrap();

        for (name, mode) in [("bin/program", 0o755), ("bin/text", 0o644), ("bin", 0o755)] {
            let now = fs::metadata(path(name)).unwrap().permissions().mode() & 0o777;
            assert_eq!(now, mode, "{name}: {now:o}");
        }
    }
}
