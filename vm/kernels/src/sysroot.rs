//! What programs for another architecture are linked with, and what its guests are made of: files of Debian's, unpacked in
//! the cache. This machine's own are left alone.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::digest::Sha256Hex;
use super::obtain::{self, Store};
use super::pins::Source;
use super::progress::Progress;
use super::{Arch, archive, cache, digest, lock};

/// An architecture's files, below one directory: headers in `usr/include`, static libraries in [`Self::libraries`], and
/// `bin/busybox` and `bin/bash-static`, the latter for virtme-ng's init.
#[derive(Debug, Clone)]
pub struct Sysroot {
    /// The directory.
    pub dir: PathBuf,
    arch: &'static Arch,
    source: Source,
}

impl Sysroot {
    /// Where the files are in this cache, or would be: its name is made of their hashes.
    pub fn of(store: &Store, arch: &'static Arch) -> Self {
        // A test sees to it that the list is good.
        let source = toml::from_str(arch.sysroot).unwrap_or(Source::Debian { files: Vec::new() });
        let hashes: String = source.hashes().into_iter().map(Sha256Hex::as_str).collect();
        let name = format!("{arch}-{}", &digest::sha256(hashes.as_bytes()).as_str()[..12]);
        Self { dir: store.cache.join("sysroots").join(name), arch, source }
    }

    /// Whether they are there. They get the directory's name when all are written.
    pub fn exists(&self) -> bool {
        self.dir.is_dir()
    }

    /// The directory of the libraries.
    pub fn libraries(&self) -> PathBuf {
        self.dir.join("usr/lib").join(self.arch.gnu)
    }

    /// Fetches, verifies and unpacks them, if they are not there.
    pub fn fetch(&self, store: &Store, progress: &dyn Progress) -> Result<()> {
        if self.exists() {
            return Ok(());
        }
        let work = cache::scratch(&store.cache, self.arch.name)?;
        let packages = obtain::download_all(store, &self.source, work.path(), progress)
            .with_context(|| format!("cannot get what programs for {} need", self.arch))?;
        let root = work.path().join("root");
        fs_err::create_dir(&root)?;
        let [libelf, libz] = ["libelf.a", "libz.a"].map(|library| format!("usr/lib/{}/{library}", self.arch.gnu));
        for package in packages {
            archive::unpack_package(&package, &root, &["bin", "usr/include", &libelf, &libz])?;
        }
        archive::remove_links_out(&root)?;
        let parent = self.dir.parent().unwrap_or(&store.cache);
        fs_err::create_dir_all(parent)?;
        let _lock = lock::exclusive(&parent.join("lock"), || ())?;
        // Another run may have been quicker, with the same.
        if !self.exists() {
            fs_err::rename(&root, &self.dir)?;
        }
        Ok(())
    }
}
