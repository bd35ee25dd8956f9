//! A guest's root directory as an initramfs: what the kernel unpacks into memory and starts `/init` from.
//!
//! The same contents give the same bytes, so that a snapshot can be recognized by them.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use cpio::newc::{Builder, ModeFileType, trailer};
use walkdir::{DirEntry, WalkDir};

use crate::guest_root::AGENT;

/// Device nodes that must exist before devtmpfs is mounted: the kernel opens the first for process
/// 1, and Rust's runtime the second if it could not. (Documentation/admin-guide/devices.txt)
const NODES: &[(&str, [u32; 2])] = &[("dev/console", [5, 1]), ("dev/null", [1, 3])];

/// Packs the directory `root`, with the agent as process 1, in the kernel's format
/// (Documentation/driver-api/early-userspace/buffer-format.rst).
pub fn pack(root: &Path) -> Result<Vec<u8>> {
    let (mut archive, mut entries) = (Vec::new(), 0);
    let mut add = |path: &str, kind, permissions, [major, minor]: [u32; 2], content: &[u8]| -> Result<()> {
        // Distinct inode numbers, or the kernel may take two files for links to one.
        entries += 1;
        let entry = Builder::new(path).ino(entries).mode(permissions).set_mode_file_type(kind);
        let length = u32::try_from(content.len()).context("it is too long for an initramfs")?;
        let mut writer = entry.rdev_major(major).rdev_minor(minor).write(&mut archive, length);
        writer.write_all(content)?;
        writer.finish()?;
        Ok(())
    };
    // The kernel needs a directory before what is in it, which is the order here.
    for entry in WalkDir::new(root).min_depth(1).sort_by_file_name() {
        let entry = entry?;
        let mut copy = || {
            let path = entry.path().strip_prefix(root)?.to_str().context("a file's name is not UTF-8")?;
            let (kind, permissions, content) = read(&entry)?;
            add(path, kind, permissions, [0, 0], &content)
        };
        copy().with_context(|| format!("cannot pack {}", entry.path().display()))?;
    }
    for (path, device) in NODES {
        add(path, ModeFileType::Char, 0o666, *device, &[])?;
    }
    add("init", ModeFileType::Symlink, 0o777, [0, 0], AGENT.as_bytes())?;
    trailer(&mut archive)?;
    Ok(archive)
}

/// What a file is in an archive: who may read it on the host does not matter.
fn read(file: &DirEntry) -> Result<(ModeFileType, u32, Vec<u8>)> {
    let (from, metadata) = (file.path(), file.metadata()?);
    Ok(if metadata.is_dir() {
        (ModeFileType::Directory, 0o755, Vec::new())
    } else if metadata.is_symlink() {
        (ModeFileType::Symlink, 0o777, fs::read_link(from)?.into_os_string().into_encoded_bytes())
    } else {
        let executable = metadata.permissions().mode() & 0o100 != 0;
        (ModeFileType::Regular, if executable { 0o755 } else { 0o644 }, fs::read(from)?)
    })
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::unix::fs::symlink;

    use super::*;

    /// Path, mode, content, in the archive's order.
    fn entries(archive: &[u8]) -> Vec<(String, u32, String)> {
        let mut rest = archive;
        let mut all = Vec::new();
        loop {
            let mut reader = cpio::newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                return all;
            }
            let content = io::read_to_string(&mut reader).unwrap();
            all.push((reader.entry().name().to_owned(), reader.entry().mode(), content));
            rest = reader.finish().unwrap();
        }
    }

    #[test]
    fn same_files_are_the_same_bytes_whatever_the_umask() {
        let staged = |umask: u32| {
            let root = tempfile::tempdir().unwrap();
            let path = |name: &str| root.path().join(name);
            fs::create_dir(path("bin")).unwrap();
            for (name, mode) in [("bin/sh", 0o777), ("text", 0o666)] {
                fs::write(path(name), name).unwrap();
                fs::set_permissions(path(name), fs::Permissions::from_mode(mode & !umask)).unwrap();
            }
            symlink("sh", path("bin/ls")).unwrap();
            pack(root.path()).unwrap()
        };
        let expected = [
            ("bin", 0o040_755, ""),
            ("bin/ls", 0o120_777, "sh"),
            ("bin/sh", 0o100_755, "bin/sh"),
            ("text", 0o100_644, "text"),
            ("dev/console", 0o020_666, ""),
            ("dev/null", 0o020_666, ""),
            ("init", 0o120_777, AGENT),
        ];
        assert_eq!(entries(&staged(0)), expected.map(|(name, mode, text)| (name.into(), mode, text.into())));
        assert_eq!(staged(0o077), staged(0));
    }
}
