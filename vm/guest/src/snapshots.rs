//! Snapshots on disk, shared by every run on this machine.
//!
//! ```text
//! snapshots/<key>/        one: it gets this name when everything in it is written
//!     manifest.json    what it depends on, what it said, and how to tell that it is undamaged
//!     state            the machine's devices, as QEMU saved them
//!     ram              its memory
//!     console          what it had printed
//!     lock             held, shared, by every QEMU that uses it
//! snapshots/run-*/        one in the making or on its way out, unless the run was killed
//! snapshots/locks/<key>   held while it is being made
//! ```
//!
//! `<key>` is a hash of everything that the snapshot depends on, so that a changed one is never found.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::deadline::left;
use crate::qemu::RAM;
use crate::rundir::{LOCK, RunDir};
use vm_kernels::digest::{Sha256Hex, sha256};
use vm_kernels::lock::{self, How};
use vmtest_agent::Ready;

/// Bytes on disk of all snapshots together; beyond it those go that were not used for longest.
const LIMIT: u64 = 4 << 30;

/// The file that QEMU saves the machine's devices to.
pub const STATE: &str = "state";
/// The file with what the guest had printed.
pub const CONSOLE: &str = "console";
const MANIFEST: &str = "manifest.json";
const LOCKS: &str = "locks";

/// One that is whole, and that stays as long as its lock is open.
#[derive(Debug)]
pub struct Snapshot {
    /// Its directory.
    pub dir: PathBuf,
    /// What its agent said when it became ready.
    pub ready: Ready,
    /// What it had printed on its console.
    pub console: Vec<u8>,
    /// Whoever has this open keeps it from being removed.
    pub lock: File,
}

/// A directory among the snapshots, for those who clean up.
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

/// Where snapshots are kept.
#[derive(Debug, Clone)]
pub struct Snapshots {
    root: PathBuf,
}

impl Snapshots {
    /// Those in this cache directory.
    pub fn below(cache: &Path) -> Self {
        Self { root: cache.join("snapshots") }
    }

    /// The snapshot that depends on this; nothing if there is none. One that is damaged is an error.
    pub fn find(&self, key_material: &Value) -> Result<Option<Snapshot>> {
        let dir = self.dir(key_material);
        let Some(lock) = lock(&dir, How::LockShared)? else { return Ok(None) };
        let manifest = Manifest::read(&dir)?;
        let state = fs::read(dir.join(STATE)).context("its devices cannot be read")?;
        ensure!(sha256(&state) == manifest.state_sha256, "its devices are not what was saved");
        let console = fs::read(dir.join(CONSOLE)).context("its console cannot be read")?;
        ensure!(sha256(&console) == manifest.console_sha256, "its console is not what was saved");
        let ram = stamp(&dir.join(RAM)).context("its memory cannot be read")?;
        ensure!(ram == manifest.ram, "its memory was changed");
        // Only the limit needs this; in a cache that cannot be written to nothing is removed either.
        let _ = lock.set_modified(SystemTime::now());
        Ok(Some(Snapshot { dir, ready: manifest.ready, console, lock }))
    }

    /// The snapshot of this key's material, made if need be, once, however many ask at the same time, and an error if
    /// someone else makes it until `deadline`: `make` leaves `RAM`, `STATE` and `CONSOLE` in a directory.
    pub fn make(
        &self,
        kernel: &str,
        key_material: Value,
        deadline: Instant,
        make: impl FnOnce(&Path) -> Result<Ready>,
    ) -> Result<Snapshot> {
        let dir = self.dir(&key_material);
        let _making = self.lock_making(&dir, deadline)?;
        if let Ok(Some(saved)) = self.find(&key_material) {
            return Ok(saved);
        }
        RunDir::clear_abandoned(&self.root);
        let new = RunDir::create(&self.root)?;
        let file = |name: &str| new.path().join(name);
        let manifest = Manifest {
            kernel: kernel.to_owned(),
            key_material: key_material.clone(),
            ready: make(new.path())?,
            state_sha256: sha256(&fs::read(file(STATE)).context("QEMU saved nothing")?),
            console_sha256: sha256(&fs::read(file(CONSOLE)).context("nothing was kept of its console")?),
            ram: stamp(&file(RAM))?,
            ram_sha256: digest_ram(&file(RAM))?,
        };
        fs::write(file(MANIFEST), serde_json::to_vec_pretty(&manifest)?).context("cannot write the manifest")?;
        // All of it must be on disk before the name is, or a power cut leaves a torn guest.
        nix::unistd::syncfs(File::open(new.path())?)?;
        self.discard(&key_material)?;
        new.keep_as(&dir)?;
        let saved = self.find(&key_material)?.context("it vanished while it was being made")?;
        self.shrink(LIMIT);
        Ok(saved)
    }

    /// Removes the snapshot that depends on this, if there is one; guests that run from it go on.
    pub fn discard(&self, key_material: &Value) -> Result<()> {
        let dir = self.dir(key_material);
        if dir.try_exists()? { self.remove(&dir) } else { Ok(()) }
    }

    /// All there are, damaged ones too. What killed runs left behind is cleared away.
    pub fn list(&self) -> Vec<Listed> {
        RunDir::clear_abandoned(&self.root);
        let Ok(entries) = fs::read_dir(&self.root) else { return Vec::new() };
        let dirs = entries.flatten().map(|entry| entry.path());
        let listed = |dir: PathBuf| {
            let used = fs::metadata(dir.join(LOCK)).or_else(|_| fs::metadata(&dir)).ok()?.modified().ok()?;
            let kernel = Manifest::read(&dir).ok().map(|manifest| manifest.kernel);
            Some(Listed { bytes: vm_kernels::cache::size_of(&dir), dir, kernel, used })
        };
        dirs.filter(|dir| !dir.ends_with(LOCKS) && !RunDir::is_one(dir)).filter_map(listed).collect()
    }

    /// Removes one of the [`list`](Self::list), unless it is in use; says whether it is gone.
    pub fn prune(&self, listed: &Listed) -> Result<bool> {
        let lock = lock(&listed.dir, How::NonBlockingLockExclusive)?;
        if lock.is_none() && listed.dir.join(LOCK).exists() {
            return Ok(false);
        }
        self.remove(&listed.dir)?;
        Ok(true)
    }

    fn shrink(&self, limit: u64) {
        let mut all = self.list();
        all.sort_by_key(|listed| listed.used);
        let mut bytes: u64 = all.iter().map(|listed| listed.bytes).sum();
        for listed in all {
            if bytes > limit && self.prune(&listed).unwrap_or(false) {
                bytes = bytes.saturating_sub(listed.bytes);
            }
        }
    }

    fn lock_making(&self, dir: &Path, deadline: Instant) -> Result<File> {
        let path = self.root.join(LOCKS).join(dir.file_name().unwrap_or_default());
        let failed = format!("cannot lock {}", path.display());
        fs::create_dir_all(self.root.join(LOCKS)).context(failed.clone())?;
        // There is no flock(2) with a time limit. Whoever gets the lock too late drops it.
        let (sender, locked) = mpsc::channel();
        thread::spawn(move || sender.send(lock::exclusive(&path, || ())));
        let late = "another run was making this snapshot for as long as this one could wait";
        locked.recv_timeout(left(deadline).unwrap_or_default()).context(late)?.context(failed)
    }

    /// It is out of sight in one step: nobody ever finds half of it.
    fn remove(&self, dir: &Path) -> Result<()> {
        let out = RunDir::create(&self.root)?;
        fs::rename(dir, out.path().join("old")).with_context(|| format!("cannot remove {}", dir.display()))
    }

    fn dir(&self, key_material: &Value) -> PathBuf {
        self.root.join(&sha256(key_material.to_string().as_bytes()).as_str()[..32])
    }
}

/// Whether the memory of the guest in `dir` is what was saved, to the last byte: too slow for every run, worth it when a
/// guest behaves oddly.
pub fn verify_ram(dir: &Path) -> Result<bool> {
    Ok(digest_ram(&dir.join(RAM))? == Manifest::read(dir)?.ram_sha256)
}

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    /// The kernel's name, for people.
    kernel: String,
    /// What the key was made of, for people.
    key_material: Value,
    ready: Ready,
    state_sha256: Sha256Hex,
    console_sha256: Sha256Hex,
    /// Memory is too much to hash for every run: a file that nobody wrote to is believed.
    ram: Stamp,
    ram_sha256: String,
}

impl Manifest {
    fn read(dir: &Path) -> Result<Self> {
        let json = fs::read(dir.join(MANIFEST)).context("its manifest cannot be read")?;
        serde_json::from_slice(&json).context("its manifest is damaged")
    }
}

/// Length, inode, and time of the last change in seconds and nanoseconds.
type Stamp = (u64, u64, i64, i64);

/// What changes whenever someone writes to a file, or replaces it.
pub fn stamp(path: &Path) -> io::Result<Stamp> {
    let file = fs::symlink_metadata(path)?;
    Ok((file.len(), file.ino(), file.mtime(), file.mtime_nsec()))
}

/// Locks a directory; nothing if it is not there, has no lock, or is locked by someone else.
fn lock(dir: &Path, how: How) -> Result<Option<File>> {
    let path = dir.join(LOCK);
    match lock::existing(&path, how) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// The hash of a guest's memory: of its pages and where they are, except those, most of them, that are zero.
fn digest_ram(path: &Path) -> Result<String> {
    const ZEROS: [u8; 4096] = [0; 4096];
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut file = BufReader::with_capacity(1 << 20, file);
    let (mut page, mut hash) = (ZEROS, Sha256::new());
    for place in (0..length).step_by(page.len()) {
        let count = usize::try_from(length - place)?.min(page.len());
        file.read_exact(&mut page[..count])?;
        if page[..count] != ZEROS[..count] {
            hash.update(place.to_le_bytes());
            hash.update(&page[..count]);
        }
    }
    Ok(hex::encode(hash.finalize()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn empty() -> (tempfile::TempDir, Snapshots) {
        let root = tempfile::tempdir().unwrap();
        let snapshots = Snapshots { root: root.path().into() };
        (root, snapshots)
    }

    fn make(snapshots: &Snapshots, key_material: &Value) -> Snapshot {
        snapshots.make("kernel", key_material.clone(), soon(), leave).unwrap()
    }

    fn has(snapshots: &Snapshots, key_material: &Value) -> bool {
        snapshots.find(key_material).unwrap().is_some()
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    /// What a guest leaves: a page of memory between two that are zero.
    fn leave(dir: &Path) -> Result<Ready> {
        let mut ram = vec![0; 3 * 4096];
        ram[4096..2 * 4096].fill(b'm');
        fs::write(dir.join(RAM), ram)?;
        fs::write(dir.join(STATE), "devices")?;
        fs::write(dir.join(CONSOLE), "words")?;
        Ok(Ready { protocol: 1, release: "6.12".into(), uptime_s: 1.5 })
    }

    /// A test beside this one that starts a process has every lock open there for a moment, until it executes its program.
    fn eventually(mut is_so: impl FnMut() -> bool) -> bool {
        (0..2000).any(|_| {
            thread::sleep(Duration::from_millis(10));
            is_so()
        })
    }

    #[test]
    fn snapshot_is_found_by_its_key_and_made_once() {
        let (_root, snapshots) = empty();
        let key_material = json!({ "kernel": "a", "cpu": 1 });
        assert!(!has(&snapshots, &key_material));
        let made = make(&snapshots, &key_material);
        assert_eq!((&*made.console, &*made.ready.release), (&b"words"[..], "6.12"));
        assert!(has(&snapshots, &key_material));
        assert!(!has(&snapshots, &json!({ "kernel": "a", "cpu": 2 })));
        snapshots.make("kernel", key_material, soon(), |_| panic!("made again")).unwrap();
    }

    #[test]
    fn damage_is_seen_named_and_repaired() {
        type Damage = fn(&Path);
        let damages: [(&str, Damage); 6] = [
            ("console is not", |dir| fs::write(dir.join(CONSOLE), "wordz").unwrap()),
            ("devices are not", |dir| fs::write(dir.join(STATE), "devicez").unwrap()),
            ("devices cannot be read", |dir| fs::remove_file(dir.join(STATE)).unwrap()),
            ("memory was changed", |dir| {
                let ram = File::options().write(true).open(dir.join(RAM)).unwrap();
                ram.write_at(b"x", 5000).unwrap();
                assert!(!verify_ram(dir).unwrap());
            }),
            ("memory cannot be read", |dir| fs::remove_file(dir.join(RAM)).unwrap()),
            ("manifest is damaged", |dir| fs::write(dir.join(MANIFEST), "{\"kernel\":").unwrap()),
        ];
        let (_root, snapshots) = empty();
        for (what, damage) in damages {
            let made = make(&snapshots, &json!(1));
            assert!(verify_ram(&made.dir).unwrap());
            damage(&made.dir);
            let error = snapshots.find(&json!(1)).unwrap_err();
            assert!(format!("{error:#}").contains(what), "{what}: {error:#}");
            make(&snapshots, &json!(1));
            assert!(has(&snapshots, &json!(1)), "{what}: not repaired");
        }
    }

    #[test]
    fn failed_make_leaves_nothing_make_times_out_behind_other_run() {
        let (_root, snapshots) = empty();
        let fail = |dir: &Path| leave(dir).and_then(|_| anyhow::bail!("no boot"));
        assert!(snapshots.make("kernel", json!(1), soon(), fail).is_err());
        let _making = snapshots.lock_making(&snapshots.dir(&json!(1)), soon()).unwrap();
        let late = snapshots.make("kernel", json!(1), Instant::now(), leave).unwrap_err();
        assert!(format!("{late:#}").contains("another run"), "{late:#}");
        assert!(!has(&snapshots, &json!(1)));
        let names = fs::read_dir(&snapshots.root).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(names.collect::<Vec<_>>(), [LOCKS]);
    }

    #[test]
    fn one_in_use_is_pruned_after_the_last_process_with_its_lock() {
        let (_root, snapshots) = empty();
        let lock = make(&snapshots, &json!(1)).lock;
        // It waits for the end of its input, and holds the lock as its error output.
        let mut child = Command::new("cat").stdin(Stdio::piped()).stderr(lock).spawn().unwrap();
        let listed = &snapshots.list()[0];
        assert!(!snapshots.prune(listed).unwrap());
        child.wait().unwrap();
        assert!(eventually(|| snapshots.prune(listed).unwrap()));
        assert_eq!(snapshots.list().len(), 0);
    }

    #[test]
    fn beyond_the_limit_the_one_used_least_recently_goes() {
        let (_root, snapshots) = empty();
        for number in 1..=3 {
            let lock = make(&snapshots, &json!(number)).lock;
            let long_ago = SystemTime::now() - Duration::from_secs(3600 * (4 - number));
            lock.set_modified(long_ago).unwrap();
        }
        // Using one is what counts, not making it.
        assert!(has(&snapshots, &json!(1)));
        let limit = 2 * snapshots.list()[0].bytes;
        assert!(eventually(|| {
            snapshots.shrink(limit);
            snapshots.list().len() == 2
        }));
        assert!(has(&snapshots, &json!(1)) && has(&snapshots, &json!(3)));
    }
}
