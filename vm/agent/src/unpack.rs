//! Getting at the payload.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path};

use anyhow::{Context, Result, ensure};
use vmtest_agent::Payload;

use crate::ivshmem::Ivshmem;

/// Unpacks the payload into a directory. Programs that ran from a file system of the host's would be read page by page, at
/// every start again.
pub fn unpack(payload: &Payload, ivshmem: Option<&Ivshmem>, into: &Path) -> Result<()> {
    let file;
    let archive = match payload {
        Payload::Archive(path) => {
            file = fs::read(path).with_context(|| format!("cannot read {path}"))?;
            &*file
        }
        Payload::Memory { bytes } => {
            let ivshmem = ivshmem.context("the payload's memory was not found")?;
            // SAFETY: the host has written the payload before it sent the job.
            unsafe { ivshmem.bytes(*bytes) }?
        }
    };
    untar(archive, into).context("cannot unpack the payload")
}

/// Unpacks regular files, straight from where they are: the kernel copies each once, into the file.
fn untar(archive: &[u8], directory: &Path) -> Result<()> {
    for entry in tar::Archive::new(archive).entries()? {
        let entry = entry?;
        let name = entry.path()?;
        let plain = name.components().all(|part| matches!(part, Component::Normal(_)));
        ensure!(plain && entry.header().entry_type().is_file(), "odd entry {}", name.display());
        let path = directory.join(&name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let start = usize::try_from(entry.raw_file_position())?;
        let content = archive[start..].get(..usize::try_from(entry.size())?);
        let mode = entry.header().mode()? & 0o777;
        // Busybox may have a link of that name.
        let _ = fs::remove_file(&path);
        File::options()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&path)
            .and_then(|mut file| file.write_all(content.unwrap_or_default()))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn archive(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, kind, text) in entries {
            let mut header = tar::Header::new_gnu();
            // As it is, for a name that the library would refuse.
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_size(text.len() as u64);
            header.set_mode(0o750);
            header.set_cksum();
            archive.append(&header, text.as_bytes()).unwrap();
        }
        archive.into_inner().unwrap()
    }

    #[test]
    fn files_are_unpacked_with_their_modes_and_nothing_else_is() {
        let long = "x".repeat(100_000);
        let (file, link) = (tar::EntryType::Regular, tar::EntryType::Symlink);
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        for entry in [("../out", file, "x"), ("/out", file, "x"), ("link", link, "")] {
            assert!(untar(&archive(&[entry]), directory).is_err(), "{entry:?} was taken");
        }
        assert_eq!(fs::read_dir(directory).unwrap().count(), 0);
        untar(&archive(&[("bin/one", file, &long), ("tests/deep/two", file, "two")]), directory).unwrap();
        assert_eq!(fs::read_to_string(directory.join("bin/one")).unwrap(), long);
        let two = directory.join("tests/deep/two");
        assert_eq!(fs::read_to_string(&two).unwrap(), "two");
        assert_eq!(two.metadata().unwrap().permissions().mode() & 0o777, 0o750);
    }
}
