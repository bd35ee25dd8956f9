//! Snapshot guests on disk, shared by every run on this machine.
//!
//! ```text
//! snapshots/<key>/        one guest: it gets this name when everything in it is written
//!     manifest.json    what it depends on, what it said, and how to tell that it is undamaged
//!     state            the machine's devices, as QEMU saved them
//!     ram              its memory, with holes where it is zero
//!     console          what it had printed
//!     lock             held, shared, by every QEMU that uses it
//! snapshots/new-*/        one in the making or on its way out, unless the run was killed
//! snapshots/locks/<key>   held while it is being made
//! ```
//!
//! `<key>` is a hash of everything that the guest depends on, so that a changed one is never found.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Ready;
use crate::deadline::within;
use crate::qemu::RAM;
use vm_kernels::lock::{self, How};

/// Bytes on disk of all saved guests together; beyond it those go that were not used for longest.
pub const LIMIT: u64 = 4 << 30;

/// The file that QEMU saves the machine's devices to.
pub const STATE: &str = "state";
/// The file with what the guest had printed.
pub const CONSOLE: &str = "console";
const MANIFEST: &str = "manifest.json";
const LOCK: &str = "lock";
const LOCKS: &str = "locks";
const NEW: &str = "new-";

/// What a saved guest is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// The key of what is made of these key_material.
    pub fn of(key_material: &serde_json::Value) -> Self {
        Self(sha256(key_material.to_string().as_bytes())[..32].to_owned())
    }
}

/// A saved guest that is whole, and that stays as long as its lock is open.
#[derive(Debug)]
pub struct Snapshot {
    /// Its directory.
    pub dir: PathBuf,
    /// What its agent said when it became ready.
    pub ready: Ready,
    /// The machine's devices.
    pub state: Vec<u8>,
    /// What it had printed on its console.
    pub console: Vec<u8>,
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
pub struct Snapshots {
    root: PathBuf,
    limit: u64,
}

impl Snapshots {
    /// Those in this cache directory.
    pub fn below(cache: &Path) -> Self {
        Self { root: cache.join("snapshots"), limit: LIMIT }
    }

    /// The saved guest of this key; nothing if there is none.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn find(&self, key: &Key) -> Result<Option<Snapshot>> {
        let dir = self.dir(key);
        let Some(lock) = lock(&dir, How::LockShared)? else { return Ok(None) };
        let manifest = Manifest::read(&dir)?;
        let state = fs::read(dir.join(STATE)).context("its devices cannot be read")?;
        ensure!(sha256(&state) == manifest.state_sha256, "its devices are not what was saved");
        let console = fs::read(dir.join(CONSOLE)).context("its console cannot be read")?;
        ensure!(sha256(&console) == manifest.console_sha256, "its console is not what was saved");
        let ram = Stamp::of(&dir.join(RAM)).context("its memory cannot be read")?;
        ensure!(ram == manifest.ram, "its memory was changed");
        // Only the limit needs this; in a cache that cannot be written to nothing is removed either.
        let _ = lock.set_modified(SystemTime::now());
        Ok(Some(Snapshot { dir, ready: manifest.ready, state, console, lock }))
    }

    /// The saved guest of these key_material, made if need be, once, however many ask at the same
    /// time: `make` leaves [`RAM`], [`STATE`] and [`CONSOLE`] in a directory, and returns what the agent said.
    ///
    /// # Errors
    /// Those of `make`, when the cache cannot be written to, and when someone else makes it until `deadline`.
    pub fn make(
        &self,
        kernel: &str,
        key_material: serde_json::Value,
        deadline: Instant,
        make: impl FnOnce(&Path) -> Result<Ready>,
    ) -> Result<Snapshot> {
        let key = Key::of(&key_material);
        let _making = self.lock_making(&key, deadline)?;
        if let Ok(Some(saved)) = self.find(&key) {
            return Ok(saved);
        }
        self.clear_abandoned();
        let new = New::create(&self.root)?;
        let ready = make(&new.path)?;
        Manifest::describe(&new.path, kernel, key_material, ready)?.write(&new.path)?;
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
        // Behind the gate no new directory is about to be locked: one that is not is abandoned.
        let _gate = listed.is_new().then(|| gate(&self.root, How::LockExclusive)).transpose()?;
        let lock = lock(&listed.dir, How::NonBlockingLockExclusive)?;
        if lock.is_none() && listed.dir.join(LOCK).exists() {
            return Ok(false);
        }
        match listed.is_new() {
            true => {
                fs::remove_dir_all(&listed.dir).with_context(|| format!("cannot remove {}", listed.dir.display()))?
            }
            false => self.remove(&listed.dir)?,
        }
        Ok(true)
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
            let _ = self.prune(listed);
        }
    }

    fn lock_making(&self, key: &Key, deadline: Instant) -> Result<File> {
        let path = self.root.join(LOCKS).join(&key.0);
        let locked = || -> Result<File> {
            fs::create_dir_all(self.root.join(LOCKS))?;
            let file = path.clone();
            // There is no flock(2) with a time limit.
            within(deadline, move || lock::exclusive(&file, || ()))
                .context("another run was saving this guest for as long as this one could wait")?
                .map_err(Into::into)
        };
        locked().with_context(|| format!("cannot lock {}", path.display()))
    }

    /// It is out of sight in one step: nobody ever finds half of it.
    fn remove(&self, dir: &Path) -> Result<()> {
        let out = New::create(&self.root)?;
        fs::rename(dir, out.path.join("old")).with_context(|| format!("cannot remove {}", dir.display()))
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
    key_material: serde_json::Value,
    ready: Ready,
    state_sha256: String,
    console_sha256: String,
    /// Memory is too much to hash for every run: a file that nobody wrote to is believed.
    ram: Stamp,
    ram_sha256: String,
}

impl Manifest {
    /// Describes what is in `dir`, and frees the disk space of zeros in the memory's file.
    fn describe(dir: &Path, kernel: &str, key_material: serde_json::Value, ready: Ready) -> Result<Self> {
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
        let console = fs::read(dir.join(CONSOLE)).context("nothing was kept of its console")?;
        Ok(Self {
            kernel: kernel.to_owned(),
            key_material,
            ready,
            state_sha256: sha256(&state),
            console_sha256: sha256(&console),
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
        Ok(Self { bytes: file.len(), inode: file.ino(), modified_s: file.mtime(), modified_ns: file.mtime_nsec() })
    }
}

impl Listed {
    fn of(dir: PathBuf) -> io::Result<Self> {
        let used = fs::metadata(dir.join(LOCK)).or_else(|_| fs::metadata(&dir))?.modified()?;
        let kernel = Manifest::read(&dir).ok().map(|manifest| manifest.kernel);
        Ok(Self { bytes: vm_kernels::cache::size_of(&dir), dir, kernel, used })
    }

    fn is_new(&self) -> bool {
        let name = self.dir.file_name().unwrap_or_default();
        name.to_string_lossy().starts_with(NEW)
    }
}

/// A locked directory of this process's own, removed with all that is in it unless it is kept.
struct New {
    path: PathBuf,
    _lock: File,
}

impl New {
    fn create(root: &Path) -> Result<Self> {
        let failed = || format!("cannot create a directory in {}", root.display());
        let _gate = gate(root, How::LockShared)?;
        let dir = tempfile::Builder::new().prefix(NEW).tempdir_in(root).with_context(failed)?;
        let lock = lock::exclusive(&dir.path().join(LOCK), || ()).with_context(failed)?;
        Ok(Self { path: dir.keep(), _lock: lock })
    }

    fn keep_as(mut self, name: &Path) -> Result<()> {
        fs::rename(&self.path, name).with_context(|| format!("cannot rename to {}", name.display()))?;
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

/// Held, shared, from making a new directory until it is locked.
fn gate(root: &Path, how: How) -> Result<File> {
    let path = root.join(LOCKS);
    fs::create_dir_all(&path)
        .and_then(|()| lock::existing(&path, how))
        .and_then(|gate| gate.ok_or(io::ErrorKind::NotFound.into()))
        .with_context(|| format!("cannot lock {}", path.display()))
}

/// Locks a directory; nothing if it is not there, has no lock, or is locked by someone else.
fn lock(dir: &Path, how: How) -> Result<Option<File>> {
    let path = dir.join(LOCK);
    match lock::existing(&path, how) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.with_context(|| format!("cannot lock {}", path.display())),
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
    Ok(hex::encode(hash.finalize()))
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
    hex::encode(Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;

    struct Fixture {
        snapshots: Snapshots,
        _root: tempfile::TempDir,
    }

    fn fixture() -> Fixture {
        let root = tempfile::tempdir().unwrap();
        Fixture { snapshots: Snapshots { root: root.path().into(), limit: LIMIT }, _root: root }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    fn ready() -> Ready {
        Ready { protocol: 1, release: "6.12".into(), uptime_s: 1.5 }
    }

    /// What a guest leaves: a page of memory between two that are zero.
    fn leave(dir: &Path) -> Result<Ready> {
        let mut ram = vec![0; 3 * 4096];
        ram[4096..2 * 4096].fill(b'm');
        fs::write(dir.join(RAM), ram)?;
        fs::write(dir.join(STATE), "devices")?;
        fs::write(dir.join(CONSOLE), "words")?;
        Ok(ready())
    }

    impl Fixture {
        fn make(&self, key_material: &Value) -> Snapshot {
            self.snapshots.make("kernel", key_material.clone(), soon(), leave).unwrap()
        }

        fn has(&self, key_material: &Value) -> bool {
            self.snapshots.find(&Key::of(key_material)).unwrap().is_some()
        }

        fn why_damaged(&self, key_material: &Value) -> String {
            format!("{:#}", self.snapshots.find(&Key::of(key_material)).unwrap_err())
        }
    }

    /// A test beside this one that starts a process has every lock open for a moment, in that
    /// process, before it executes its program.
    fn eventually(mut is_so: impl FnMut() -> bool) -> bool {
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while !is_so() {
            if std::time::Instant::now() > deadline {
                return false;
            }
            std::thread::yield_now();
        }
        true
    }

    #[test]
    fn what_was_made_is_found_and_not_made_again() {
        let fixture = fixture();
        let key_material = json!({ "kernel": "a", "cpu": 1 });
        assert!(!fixture.has(&key_material));
        let made = fixture.make(&key_material);
        assert_eq!((&*made.state, &made.ready), (&b"devices"[..], &ready()));
        assert_eq!(made.console, b"words");
        assert!(fixture.has(&json!({ "cpu": 1, "kernel": "a" })), "order matters");
        assert!(!fixture.has(&json!({ "kernel": "a", "cpu": 2 })));
        let again = fixture.snapshots.make("kernel", key_material, soon(), |_| panic!("made again")).unwrap();
        assert_eq!(again.dir, made.dir);
    }

    #[test]
    fn one_that_several_want_is_made_once() {
        let fixture = fixture();
        let made = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let make = |dir: &Path| {
                        made.fetch_add(1, Ordering::Relaxed);
                        leave(dir)
                    };
                    fixture.snapshots.make("kernel", json!(1), soon(), make).unwrap();
                });
            }
        });
        assert_eq!(made.into_inner(), 1);
    }

    #[test]
    fn one_that_another_makes_for_too_long_is_not_waited_for() {
        let fixture = fixture();
        let _making = fixture.snapshots.lock_making(&Key::of(&json!(1)), soon()).unwrap();
        let late = fixture.snapshots.make("kernel", json!(1), Instant::now(), leave).unwrap_err();
        assert!(format!("{late:#}").contains("another run"), "{late:#}");
    }

    #[test]
    fn damage_is_seen_named_and_repaired() {
        type Damage = fn(&Path);
        let damages: [(&str, Damage); 7] = [
            ("console is not", |dir| fs::write(dir.join(CONSOLE), "wordz").unwrap()),
            ("devices are not", |dir| fs::write(dir.join(STATE), "devicez").unwrap()),
            ("devices cannot be read", |dir| fs::remove_file(dir.join(STATE)).unwrap()),
            ("memory was changed", |dir| {
                let ram = File::options().write(true).open(dir.join(RAM)).unwrap();
                ram.write_at(b"x", 5000).unwrap();
            }),
            ("memory was changed", |dir| {
                File::options().write(true).open(dir.join(RAM)).unwrap().set_len(4096).unwrap();
            }),
            ("memory cannot be read", |dir| fs::remove_file(dir.join(RAM)).unwrap()),
            ("manifest is damaged", |dir| fs::write(dir.join(MANIFEST), "{\"kernel\":").unwrap()),
        ];
        let fixture = fixture();
        for (what, damage) in damages {
            let made = fixture.make(&json!(1));
            damage(&made.dir);
            assert!(fixture.why_damaged(&json!(1)).contains(what), "{what}");
            fixture.make(&json!(1));
            assert!(fixture.has(&json!(1)), "{what}: not repaired");
        }
    }

    #[test]
    fn a_failure_leaves_nothing() {
        let fixture = fixture();
        let fail = |dir: &Path| {
            leave(dir)?;
            anyhow::bail!("no boot")
        };
        assert!(fixture.snapshots.make("kernel", json!(1), soon(), fail).is_err());
        assert!(!fixture.has(&json!(1)));
        assert_eq!(fixture.snapshots.list().len(), 0);
    }

    #[test]
    fn memory_keeps_its_content_and_loses_its_zeros() {
        let fixture = fixture();
        let dir = fixture.make(&json!(1)).dir;
        let ram = File::options().read(true).write(true).open(dir.join(RAM)).unwrap();
        assert_eq!(next_data(&ram, 0).unwrap(), Some(4096), "zeros take space");
        assert_eq!(next_data(&ram, 2 * 4096).unwrap(), None, "zeros take space");
        assert_eq!(ram.metadata().unwrap().len(), 3 * 4096);
        assert!(verify_ram(&dir).unwrap());
        // As a disk damages it: without a trace.
        let modified = ram.metadata().unwrap().modified().unwrap();
        ram.write_at(b"n", 5000).unwrap();
        ram.set_modified(modified).unwrap();
        assert!(fixture.has(&json!(1)));
        assert!(!verify_ram(&dir).unwrap());
    }

    #[test]
    fn one_in_use_is_not_removed() {
        let fixture = fixture();
        let in_use = fixture.make(&json!(1));
        drop(fixture.make(&json!(2)));
        let all = fixture.snapshots.list();
        assert_eq!(all.len(), 2);
        for listed in all {
            if listed.dir == in_use.dir {
                assert!(!fixture.snapshots.prune(&listed).unwrap());
            } else {
                assert!(eventually(|| fixture.snapshots.prune(&listed).unwrap()));
            }
        }
        let listed = &fixture.snapshots.list()[0];
        assert_eq!(listed.dir, in_use.dir);
        drop(in_use);
        assert!(eventually(|| fixture.snapshots.prune(listed).unwrap()));
        assert_eq!(fixture.snapshots.list().len(), 0);
    }

    #[test]
    fn a_lock_lasts_as_long_as_a_process_that_inherited_it() {
        let fixture = fixture();
        let lock = fixture.make(&json!(1)).lock;
        // It waits for the end of its input, and holds the lock as its error output.
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).stderr(lock).spawn().unwrap();
        let listed = &fixture.snapshots.list()[0];
        assert!(!fixture.snapshots.prune(listed).unwrap());
        child.wait().unwrap();
        assert!(eventually(|| fixture.snapshots.prune(listed).unwrap()));
    }

    #[test]
    fn beyond_the_limit_the_one_used_least_recently_goes() {
        let mut fixture = fixture();
        for number in 1..=3 {
            let lock = fixture.make(&json!(number)).lock;
            let long_ago = SystemTime::now() - Duration::from_secs(3600 * (4 - number));
            lock.set_modified(long_ago).unwrap();
        }
        // Using one is what counts, not making it.
        assert!(fixture.has(&json!(1)));
        fixture.snapshots.limit = 2 * fixture.snapshots.list()[0].bytes;
        let shrunk = |fixture: &Fixture| {
            fixture.snapshots.shrink();
            fixture.snapshots.list().len() == 2
        };
        assert!(eventually(|| shrunk(&fixture)));
        assert!(fixture.has(&json!(1)) && fixture.has(&json!(3)));
    }

    #[test]
    fn what_a_killed_run_left_is_cleared_and_what_a_living_one_makes_is_not() {
        let fixture = fixture();
        let left = fixture.snapshots.root.join("new-left");
        fs::create_dir(&left).unwrap();
        File::create(left.join(LOCK)).unwrap();
        let living = New::create(&fixture.snapshots.root).unwrap();
        let cleared = || {
            fixture.snapshots.clear_abandoned();
            !left.exists()
        };
        assert!(eventually(cleared));
        assert!(living.path.exists());
    }

    #[test]
    fn a_directory_that_is_about_to_be_locked_is_not_cleared() {
        let fixture = fixture();
        let root = &fixture.snapshots.root;
        // As a run that is between making its directory and locking it.
        let gate = gate(root, How::LockShared).unwrap();
        let made = root.join("new-made");
        fs::create_dir(&made).unwrap();
        File::create(made.join(LOCK)).unwrap();
        let snapshots = fixture.snapshots.clone();
        let clearing = std::thread::spawn(move || snapshots.clear_abandoned());
        // Long enough to be cleared, if anything would.
        std::thread::sleep(Duration::from_millis(50));
        let _lock = lock::exclusive(&made.join(LOCK), || panic!("somebody else has it")).unwrap();
        drop(gate);
        clearing.join().unwrap();
        assert!(made.exists());
    }
}
