//! The guest's root as an initramfs: what the kernel unpacks into memory and starts `/init` from.
//!
//! The same contents give the same bytes, so that a saved state can be recognized by them.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cpio::newc::{Builder, ModeFileType, trailer};
use vmtest_agent::MODULES_DIR;

use crate::guest_root::{self, Programs};
use crate::module_share::{ModuleShare, stays_on_the_host};
use crate::payload::Payload;

/// Device nodes that must exist before devtmpfs is mounted: the kernel opens the first for process
/// 1, and Rust's runtime the second if it could not. (Documentation/admin-guide/devices.txt)
const NODES: &[(&str, u32, u32)] = &[("dev/console", 5, 1), ("dev/null", 1, 3)];

/// The payload, in the root directory of a guest that has it from the start.
pub const PAYLOAD_ARCHIVE: &str = "payload.tar";

/// What becomes an initramfs.
#[derive(Debug)]
pub struct Contents {
    agent: Vec<u8>,
    busybox: Vec<u8>,
    applets: Vec<String>,
    payload: Vec<u8>,
    modules: Option<PathBuf>,
}

impl Contents {
    /// The agent and busybox. Nothing of it depends on the kernel.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn gather(programs: &Programs) -> Result<Self> {
        let path = &programs.busybox;
        let busybox = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let applets = guest_root::applets(&busybox).with_context(|| format!("cannot use {}", path.display()))?;
        Ok(Self { agent: programs.agent.to_vec(), busybox, applets, payload: Vec::new(), modules: None })
    }

    /// The payload too, for a guest that is to have it from the start.
    ///
    /// # Errors
    /// When a file of it cannot be read.
    pub fn with_payload(mut self, payload: &Payload) -> Result<Self> {
        payload.write_tar(&mut self.payload)?;
        Ok(self)
    }

    /// The lists of a kernel's modules too, and those to be loaded first.
    pub fn with_modules(mut self, share: Option<&ModuleShare>) -> Self {
        self.modules = share.map(|share| share.lists.clone());
        self
    }

    /// The archive, in the kernel's format (Documentation/driver-api/early-userspace/buffer-format.rst).
    ///
    /// # Errors
    /// When a list of modules cannot be read.
    pub fn build(&self) -> Result<Vec<u8>> {
        let mut archive = Archive::default();
        for dir in guest_root::DIRECTORIES {
            archive.directory(dir)?;
        }
        for (path, major, minor) in NODES {
            archive.character_device(path, *major, *minor)?;
        }
        for (path, text) in guest_root::FILES {
            archive.file(path, 0o644, text.as_bytes())?;
        }
        archive.file("init", 0o755, &self.agent)?;
        archive.file("bin/busybox", 0o755, &self.busybox)?;
        for applet in &self.applets {
            archive.symlink(&format!("bin/{applet}"), "busybox")?;
        }
        if !self.payload.is_empty() {
            archive.file(PAYLOAD_ARCHIVE, 0o600, &self.payload)?;
        }
        if let Some(lists) = &self.modules {
            archive.tree(MODULES_DIR.trim_start_matches('/'), lists)?;
        }
        archive.finish()
    }
}

/// A cpio archive in the making. The kernel needs a directory before what is in it.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    directories: BTreeSet<String>,
}

impl Archive {
    fn directory(&mut self, path: &str) -> Result<()> {
        if !self.directories.insert(path.to_owned()) {
            return Ok(());
        }
        let entry = self.entry(path, ModeFileType::Directory, 0o755);
        self.add(entry, &[])
    }

    fn file(&mut self, path: &str, permissions: u32, content: &[u8]) -> Result<()> {
        let entry = self.entry(path, ModeFileType::Regular, permissions);
        self.add(entry, content)
    }

    /// A directory of the host's, with all that is in it.
    fn tree(&mut self, path: &str, from: &Path) -> Result<()> {
        self.directory(path)?;
        let failed = || format!("cannot read {}", from.display());
        let entries = fs::read_dir(from).with_context(failed)?;
        let mut entries = entries.collect::<std::io::Result<Vec<_>>>().with_context(failed)?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name();
            let path = format!("{path}/{}", name.to_str().context("a module's name is not UTF-8")?);
            let kind = entry.file_type().with_context(failed)?;
            if kind.is_dir() {
                self.tree(&path, &entry.path())?;
            } else if kind.is_symlink() {
                let target = fs::read_link(entry.path()).with_context(failed)?;
                self.symlink(&path, target.to_str().context("a link is not UTF-8")?)?;
            } else if !stays_on_the_host(&name) {
                self.file(&path, 0o644, &fs::read(entry.path()).with_context(failed)?)?;
            }
        }
        Ok(())
    }

    fn symlink(&mut self, path: &str, target: &str) -> Result<()> {
        let entry = self.entry(path, ModeFileType::Symlink, 0o777);
        self.add(entry, target.as_bytes())
    }

    fn character_device(&mut self, path: &str, major: u32, minor: u32) -> Result<()> {
        let entry = self.entry(path, ModeFileType::Char, 0o666);
        self.add(entry.rdev_major(major).rdev_minor(minor), &[])
    }

    fn entry(&mut self, path: &str, kind: ModeFileType, permissions: u32) -> Builder {
        // Distinct inode numbers, or the kernel may take two files for links to one.
        self.entries += 1;
        Builder::new(path).ino(self.entries).mode(permissions).set_mode_file_type(kind)
    }

    fn add(&mut self, entry: Builder, content: &[u8]) -> Result<()> {
        let Ok(length) = u32::try_from(content.len()) else {
            bail!("a file of {} bytes is too long for an initramfs", content.len());
        };
        let mut writer = entry.write(&mut self.bytes, length);
        writer.write_all(content)?;
        writer.finish()?;
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<u8>> {
        trailer(&mut self.bytes).context("cannot end the initramfs")?;
        Ok(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Read;

    use super::*;

    fn contents(payload: &str) -> Contents {
        Contents {
            agent: b"agent".to_vec(),
            busybox: b"busybox".to_vec(),
            applets: vec!["sh".into(), "true".into()],
            payload: payload.into(),
            modules: None,
        }
    }

    /// Path, mode, content, in the archive's order.
    fn entries(archive: &[u8]) -> Vec<(String, u32, String)> {
        let mut rest = archive;
        let mut all = Vec::new();
        loop {
            let mut reader = cpio::newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                return all;
            }
            let mut content = Vec::new();
            reader.read_to_end(&mut content).unwrap();
            let content = String::from_utf8_lossy(&content).into_owned();
            all.push((reader.entry().name().to_owned(), reader.entry().mode(), content));
            rest = reader.finish().unwrap();
        }
    }

    #[test]
    fn the_agent_is_init_and_busybox_has_its_names() {
        let all = entries(&contents("").build().unwrap());
        let find = |name: &str| all.iter().find(|entry| entry.0 == name).unwrap();
        assert_eq!(find("init").1, 0o100755);
        assert_eq!(find("bin/sh"), &("bin/sh".into(), 0o120777, "busybox".into()));
        assert_eq!(find("dev/console").1, 0o020666);
    }

    #[test]
    fn directories_come_once_and_before_what_is_in_them() {
        let all = entries(&contents("tar").build().unwrap());
        for (index, (name, _, _)) in all.iter().enumerate() {
            assert_eq!(all.iter().filter(|entry| entry.0 == *name).count(), 1, "{name}");
            if let Some((parent, _)) = name.rsplit_once('/') {
                assert!(all[..index].iter().any(|entry| entry.0 == parent), "{name} has no parent");
            }
        }
    }

    #[test]
    fn lists_of_modules_come_with_their_links() {
        let lists = tempfile::tempdir().unwrap();
        fs::create_dir(lists.path().join("first")).unwrap();
        fs::write(lists.path().join("first/00-a.ko"), "elf").unwrap();
        std::os::unix::fs::symlink("/run/modules/kernel", lists.path().join("kernel")).unwrap();
        let contents = Contents { modules: Some(lists.path().into()), ..contents("") };
        let all = entries(&contents.build().unwrap());
        for (name, mode, content) in [
            ("modules/first", 0o040755, ""),
            ("modules/first/00-a.ko", 0o100644, "elf"),
            ("modules/kernel", 0o120777, "/run/modules/kernel"),
        ] {
            assert!(all.contains(&(name.into(), mode, content.into())), "{name}: {all:?}");
        }
    }

    #[test]
    fn the_same_contents_give_the_same_bytes() {
        let payload = "tar";
        assert_eq!(contents(payload).build().unwrap(), contents(payload).build().unwrap());
        let mut other = contents(payload);
        other.busybox.push(b'!');
        assert_ne!(contents(payload).build().unwrap(), other.build().unwrap());
    }
}
