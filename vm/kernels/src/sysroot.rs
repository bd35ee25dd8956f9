//! What programs for another architecture are linked with, and what its guests are made of: files of Debian's, unpacked in
//! the cache. This machine's own are left alone.

use std::path::PathBuf;

use super::obtain::{self, Failure, Unavailable};
use super::pins::Source;
use super::progress::Progress;
use super::{Arch, Store, archive, cache, digest, lock};

const SYSROOTS: &str = "sysroots";
/// The static libraries among the files.
const LIBRARIES: [&str; 2] = ["libelf.a", "libz.a"];

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
        let hashes = arch.sysroot.iter().map(|[_, sha256, _]| *sha256);
        let id = &digest::sha256(hashes.collect::<String>().as_bytes()).as_str()[..12].to_owned();
        Self { dir: store.cache.join(SYSROOTS).join(format!("{arch}-{id}")), arch }
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
    ///
    /// # Errors
    ///
    /// Names each address that was tried.
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
        let libraries = LIBRARIES.map(|library| format!("usr/lib/{}/{library}", self.arch.gnu));
        let wanted_of = [&["bin", "usr/include"], &libraries.each_ref().map(String::as_str)[..]].concat();
        let source = Source::Debian { files: self.arch.sysroot_files() };
        let work = cache::scratch(&store.cache, self.arch.name)?;
        let root = work.path().join("root");
        std::fs::create_dir(&root).map_err(anyhow::Error::from)?;
        for (index, wanted) in obtain::wanted(store, &source)?.into_iter().enumerate() {
            let part = work.path().join(format!("{index}.part"));
            wanted.get(&part, progress)?;
            archive::unpack_package(&part, &root, &wanted_of)?;
        }
        archive::remove_links_out(&root)?;
        let parent = store.cache.join(SYSROOTS);
        std::fs::create_dir_all(&parent).map_err(anyhow::Error::from)?;
        let _lock = lock::exclusive(&parent.join("lock"), || ()).map_err(anyhow::Error::from)?;
        match self.exists() {
            // Another run was quicker, with the same.
            true => Ok(()),
            false => Ok(std::fs::rename(&root, &self.dir).map_err(anyhow::Error::from)?),
        }
    }
}
