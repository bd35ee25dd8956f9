//! What programs for another architecture are linked with, and what its guests are made of: files of Debian's, unpacked in
//! the cache. This machine's own are left alone.

use std::path::{Path, PathBuf};

use super::obtain::{self, Failure, Progress, Store, Unavailable};
use super::pins::Source;
use super::{Arch, archive, cache, digest, lock};

/// An architecture's files, below one directory.
#[derive(Debug, Clone)]
pub struct Sysroot {
    /// The directory.
    pub dir: PathBuf,
    arch: &'static Arch,
}

impl Sysroot {
    /// Where the files are in this cache, or would be: its name is made of their hashes.
    pub fn of(store: &Store, arch: &'static Arch) -> Self {
        let hashes: String = arch.sysroot_files().iter().map(|file| file.sha256.as_str()).collect();
        let name = format!("{arch}-{}", &digest::sha256(hashes.as_bytes()).as_str()[..12]);
        Self { dir: store.cache.join("sysroots").join(name), arch }
    }

    /// Whether they are there. They get the directory's name when all are written.
    pub fn exists(&self) -> bool {
        self.dir.is_dir()
    }

    /// The directory of the libraries.
    pub fn libraries(&self) -> PathBuf {
        self.dir.join("usr/lib").join(self.arch.gnu)
    }

    /// The directory of the headers.
    pub fn headers(&self) -> PathBuf {
        self.dir.join("usr/include")
    }

    /// A static busybox.
    pub fn busybox(&self) -> PathBuf {
        self.dir.join("bin/busybox")
    }

    /// A static bash, for virtme-ng's init.
    pub fn bash(&self) -> PathBuf {
        self.dir.join("bin/bash-static")
    }

    /// Fetches, verifies and unpacks them, if they are not there.
    pub fn fetch(&self, store: &Store, progress: &dyn Progress) -> Result<(), Unavailable> {
        let what = format!("what programs for {} need", self.arch);
        self.get(store, progress).map_err(|failure| match failure {
            Failure::Source(attempts) => Unavailable { reason: format!("{what} is unavailable"), attempts },
            Failure::Here(why) => Unavailable { reason: format!("{what} cannot be stored: {why}"), attempts: vec![] },
        })
    }

    fn get(&self, store: &Store, progress: &dyn Progress) -> Result<(), Failure> {
        if self.exists() {
            return Ok(());
        }
        let work = cache::scratch(&store.cache, self.arch.name)?;
        let source = Source::Debian { files: self.arch.sysroot_files() };
        let packages = obtain::download_all(store, &source, work.path(), progress)?;
        Ok(self.unpack(&packages, &work.path().join("root"))?)
    }

    fn unpack(&self, packages: &[PathBuf], root: &Path) -> anyhow::Result<()> {
        let [libelf, libz] = ["libelf.a", "libz.a"].map(|library| format!("usr/lib/{}/{library}", self.arch.gnu));
        std::fs::create_dir(root)?;
        for package in packages {
            archive::unpack_package(package, root, &["bin", "usr/include", &libelf, &libz])?;
        }
        archive::remove_links_out(root)?;
        let parent = self.dir.parent().unwrap_or(root);
        std::fs::create_dir_all(parent)?;
        let _lock = lock::exclusive(&parent.join("lock"), || ())?;
        // Another run may have been quicker, with the same.
        if !self.exists() {
            std::fs::rename(root, &self.dir)?;
        }
        Ok(())
    }
}
