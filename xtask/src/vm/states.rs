//! Saved guests on disk, shared by every run on this machine.
//!
//! ```text
//! states/<key>/        one guest: it gets this name when everything in it is written
//!     manifest.json    what it depends on, what it said, and how to tell that it is undamaged
//!     state            the machine's devices, as QEMU saved them
//!     ram              its memory, with holes where it is zero
//!     lock             held, shared, by every QEMU that uses it
//! states/new-*/        one in the making or on its way out, unless the run was killed
//! states/locks/<key>   held while it is being made
//! ```
//!
//! `<key>` is a hash of everything that the guest depends on, so that a changed one is never found.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Ready;
use super::qemu::RAM;

/// Bytes on disk of all saved guests together; beyond it those go that were not used for longest.
pub const LIMIT: u64 = 4 << 30;

/// The file that QEMU saves the machine's devices to.
pub const STATE: &str = "state";
const MANIFEST: &str = "manifest.json";
const LOCK: &str = "lock";
const LOCKS: &str = "locks";
const NEW: &str = "new-";

/// What a saved guest is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// The key of what is made of these ingredients.
    pub fn of(ingredients: &serde_json::Value) -> Self {
        Self(hex(&Sha256::digest(ingredients.to_string()))[..32].to_owned())
    }
}

/// A saved guest that is whole, and that stays as long as its lock is open.
#[derive(Debug)]
pub struct Saved {
    /// Its directory.
    pub dir: PathBuf,
    /// What its agent said when it became ready.
    pub ready: Ready,
    /// The machine's devices.
    pub state: Vec<u8>,
    /// Whoever has this open keeps the guest from being removed.
    pub lock: File,
}

/// A directory among the saved guests, for those who clean up.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Where it is.
    pub dir: PathBuf,
    /// The kernel that it was made of, as it was named then; nothing if it is damaged or unfinished.
    pub kernel: Option<String>,
    /// Bytes on disk.
    pub bytes: u64,
    /// When it was last used.
    pub used: SystemTime,
}

/// Where saved guests are kept.
#[derive(Debug, Clone)]
pub struct States {
    root: PathBuf,
    limit: u64,
}

impl States {
    /// Those in the user's cache.
    ///
    /// # Errors
    /// When there is no cache directory.
    pub fn in_cache() -> Result<Self> {
        Ok(Self { root: crate::paths::cache()?.join("states"), limit: LIMIT })
    }

    /// The saved guest of this key; nothing if there is none.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn find(&self, key: &Key) -> Result<Option<Saved>> {
        let dir = self.dir(key);
        let Some(lock) = lock(&dir, libc::LOCK_SH)? else { return Ok(None) };
        let manifest = Manifest::read(&dir)?;
        let state = fs::read(dir.join(STATE)).context("its devices cannot be read")?;
        ensure!(sha256(&state) == manifest.state_sha256, "its devices are not what was saved");
        let ram = Stamp::of(&dir.join(RAM)).context("its memory cannot be read")?;
        ensure!(ram == manifest.ram, "its memory was changed");
        // Only the limit needs this; in a cache that cannot be written to nothing is removed either.
        let _ = lock.set_modified(SystemTime::now());
        Ok(Some(Saved { dir, ready: manifest.ready, state, lock }))
    }

    /// The saved guest of these ingredients, made if need be, once, however many ask at the same
    /// time: `make` leaves [`RAM`] and [`STATE`] in a directory, and returns what the agent said.
    ///
    /// # Errors
    /// Those of `make`, and when the cache cannot be written to.
    pub fn make(
        &self,
        kernel: &str,
        ingredients: serde_json::Value,
        make: impl FnOnce(&Path) -> Result<Ready>,
    ) -> Result<Saved> {
        let key = Key::of(&ingredients);
        let _making = self.lock_making(&key)?;
        if let Ok(Some(saved)) = self.find(&key) {
            return Ok(saved);
        }
        self.clear_abandoned();
        let new = New::create(&self.root)?;
        let ready = make(&new.path)?;
        Manifest::describe(&new.path, kernel, ingredients, ready)?.write(&new.path)?;
        // All of it must be on disk before the name is, or a power cut leaves a torn guest.
        nix::unistd::syncfs(File::open(&new.path)?)?;
        self.discard(&key)?;
        new.keep_as(&self.dir(&key))?;
        let saved = self.find(&key)?.context("it vanished while it was being saved")?;
        self.shrink();
        Ok(saved)
    }

    /// Removes the guest of this key, if there is one; guests that run from it go on.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn discard(&self, key: &Key) -> Result<()> {
        match self.dir(key).try_exists()? {
            true => self.remove(&self.dir(key)),
            false => Ok(()),
        }
    }

    /// Everything there is, what killed runs left behind too.
    pub fn list(&self) -> Vec<Listed> {
        let Ok(entries) = fs::read_dir(&self.root) else { return Vec::new() };
        let dirs = entries.flatten().map(|entry| entry.path());
        dirs.filter(|dir| !dir.ends_with(LOCKS)).filter_map(|dir| Listed::of(dir).ok()).collect()
    }

    /// Removes one of the [`list`](Self::list), unless it is in use; says whether it is gone.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn prune(&self, listed: &Listed) -> Result<bool> {
        let lock = lock(&listed.dir, libc::LOCK_EX | libc::LOCK_NB)?;
        if lock.is_none() && listed.dir.join(LOCK).exists() {
            return Ok(false);
        }
        self.remove(&listed.dir).map(|()| true)
    }

    fn shrink(&self) {
        let mut all = self.list();
        all.sort_by_key(|listed| listed.used);
        let mut bytes: u64 = all.iter().map(|listed| listed.bytes).sum();
        for listed in all {
            if bytes <= self.limit {
                return;
            }
            if self.prune(&listed).unwrap_or(false) {
                bytes = bytes.saturating_sub(listed.bytes);
            }
        }
    }

    fn clear_abandoned(&self) {
        for listed in self.list().iter().filter(|listed| listed.is_new()) {
            // One without a lock may have been made this very moment.
            if listed.dir.join(LOCK).exists() {
                let _ = self.prune(listed);
            }
        }
    }

    fn lock_making(&self, key: &Key) -> Result<File> {
        let path = self.root.join(LOCKS).join(&key.0);
        let locked = || -> Result<File> {
            fs::create_dir_all(self.root.join(LOCKS))?;
            let file = File::options().write(true).create(true).truncate(false).open(&path)?;
            flock(&file, libc::LOCK_EX)?;
            Ok(file)
        };
        locked().with_context(|| format!("cannot lock {}", path.display()))
    }

    /// It is out of sight in one step: nobody ever finds half of it.
    fn remove(&self, dir: &Path) -> Result<()> {
        let out = New::create(&self.root)?;
        fs::rename(dir, out.path.join("old"))
            .with_context(|| format!("cannot remove {}", dir.display()))
    }

    fn dir(&self, key: &Key) -> PathBuf {
        self.root.join(&key.0)
    }
}

/// Whether the memory of the guest in `dir` is what was saved, to the last byte. That takes too long
/// for every run; it is worth it when a guest behaves oddly.
///
/// # Errors
/// When it cannot be read.
pub fn verify_ram(dir: &Path) -> Result<bool> {
    let ram = File::open(dir.join(RAM))?;
    Ok(digest_ram(&ram, |_, _| Ok(()))? == Manifest::read(dir)?.ram_sha256)
}

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    /// The kernel's name, for people.
    kernel: String,
    /// What the key was made of, for people.
    ingredients: serde_json::Value,
    ready: Ready,
    state_sha256: String,
    /// Memory is too much to hash for every run: a file that nobody wrote to is believed.
    ram: Stamp,
    ram_sha256: String,
}

impl Manifest {
    /// Describes what is in `dir`, and frees the disk space of zeros in the memory's file.
    fn describe(
        dir: &Path,
        kernel: &str,
        ingredients: serde_json::Value,
        ready: Ready,
    ) -> Result<Self> {
        let path = dir.join(RAM);
        let ram = File::options().read(true).write(true).open(&path)?;
        let dig = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let ram_sha256 = digest_ram(&ram, |offset, length| {
            match fallocate(&ram, dig, offset, length) {
                // A file system without holes only takes more space.
                Ok(()) | Err(nix::Error::EOPNOTSUPP) => Ok(()),
                Err(error) => Err(error.into()),
            }
        })?;
        let state = fs::read(dir.join(STATE)).context("QEMU saved nothing")?;
        Ok(Self {
            kernel: kernel.to_owned(),
            ingredients,
            ready,
            state_sha256: sha256(&state),
            ram: Stamp::of(&path)?,
            ram_sha256,
        })
    }

    fn read(dir: &Path) -> Result<Self> {
        let json = fs::read(dir.join(MANIFEST)).context("its manifest cannot be read")?;
        serde_json::from_slice(&json).context("its manifest is damaged")
    }

    fn write(&self, dir: &Path) -> Result<()> {
        let json = serde_json::to_vec_pretty(self)?;
        fs::write(dir.join(MANIFEST), json).context("cannot write the manifest")
    }
}

/// What changes whenever someone writes to a file, or replaces it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    bytes: u64,
    inode: u64,
    modified_s: i64,
    modified_ns: i64,
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        let file = fs::metadata(path)?;
        Ok(Self {
            bytes: file.len(),
            inode: file.ino(),
            modified_s: file.mtime(),
            modified_ns: file.mtime_nsec(),
        })
    }
}

impl Listed {
    fn of(dir: PathBuf) -> io::Result<Self> {
        let used = fs::metadata(dir.join(LOCK)).or_else(|_| fs::metadata(&dir))?.modified()?;
        let kernel = Manifest::read(&dir).ok().map(|manifest| manifest.kernel);
        Ok(Self { bytes: bytes_on_disk(&dir)?, dir, kernel, used })
    }

    fn is_new(&self) -> bool {
        let name = self.dir.file_name().unwrap_or_default();
        name.to_string_lossy().starts_with(NEW)
    }
}

fn bytes_on_disk(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        // st_blocks counts units of 512 bytes, whatever the file system's block size (stat(2)).
        bytes += match metadata.is_dir() {
            true => bytes_on_disk(&entry.path())?,
            false => metadata.blocks() * 512,
        };
    }
    Ok(bytes)
}

/// A locked directory of this process's own, removed with all that is in it unless it is kept.
struct New {
    path: PathBuf,
    _lock: File,
}

impl New {
    fn create(root: &Path) -> Result<Self> {
        let failed = || format!("cannot create a directory in {}", root.display());
        let dir = tempfile::Builder::new().prefix(NEW).tempdir_in(root).with_context(failed)?;
        let lock = File::create(dir.path().join(LOCK)).with_context(failed)?;
        flock(&lock, libc::LOCK_EX | libc::LOCK_NB).with_context(failed)?;
        Ok(Self { path: dir.keep(), _lock: lock })
    }

    fn keep_as(mut self, name: &Path) -> Result<()> {
        fs::rename(&self.path, name)
            .with_context(|| format!("cannot rename to {}", name.display()))?;
        self.path = PathBuf::new();
        Ok(())
    }
}

impl Drop for New {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Locks a directory; nothing if it is not there, has no lock, or is locked by someone else.
fn lock(dir: &Path, operation: libc::c_int) -> Result<Option<File>> {
    let path = dir.join(LOCK);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot open {}", path.display())),
    };
    match flock(&file, operation) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
        result => result.with_context(|| format!("cannot lock {}", path.display()))?,
    }
    // It may have been removed, or replaced, while it was waited for.
    let still_there = fs::metadata(&path).is_ok_and(|now| {
        file.metadata().is_ok_and(|locked| (now.dev(), now.ino()) == (locked.dev(), locked.ino()))
    });
    Ok(still_there.then_some(file))
}

/// flock(2). The lock belongs to the open file: it lasts until the last descriptor of it is closed,
/// in this process and in those that inherited one.
fn flock(file: &File, operation: libc::c_int) -> io::Result<()> {
    loop {
        // SAFETY: it takes two integers.
        if unsafe { libc::flock(file.as_raw_fd(), operation) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// The hash of a file's pages, except those that are zero, together with where they are: a hole is
/// the same as zeros. `zeros` is told of each run of zeros that takes disk space.
fn digest_ram(file: &File, mut zeros: impl FnMut(i64, i64) -> Result<()>) -> Result<String> {
    const PAGE: usize = 4096;
    const NOTHING: [u8; PAGE] = [0; PAGE];
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 * PAGE];
    let length = file.metadata()?.len();
    let mut offset = 0;
    while let Some(data) = next_data(file, offset)? {
        offset = data - data % PAGE as u64;
        let count = usize::try_from(length - offset)?.min(buffer.len());
        file.read_exact_at(&mut buffer[..count], offset)?;
        for (index, page) in buffer[..count].chunks(PAGE).enumerate() {
            let place = offset + (index * PAGE) as u64;
            if page == &NOTHING[..page.len()] {
                zeros(place.try_into()?, page.len().try_into()?)?;
            } else {
                hash.update(place.to_le_bytes());
                hash.update(page);
            }
        }
        offset += count as u64;
    }
    Ok(hex(&hash.finalize()))
}

/// Where the next bytes that are no hole begin.
fn next_data(file: &File, offset: u64) -> Result<Option<u64>> {
    match lseek(file, offset.try_into()?, Whence::SeekData) {
        Ok(data) => Ok(Some(data.try_into()?)),
        // ENXIO: there is nothing but a hole from there on.
        Err(nix::Error::ENXIO) => Ok(None),
        Err(error) => Err(error).context("cannot look for holes"),
    }
}

/// The SHA-256 of some bytes, in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
