//! The cache of kernels on disk, shared by every run on this machine.
//!
//! ```text
//! kernels/<pin>-<id>/      one source's kernel, complete: it gets this name when everything in it is written
//!     manifest.json        what it is and where it came from
//!     SHA256SUMS           of every file in tree/, as sha256sum(1) reads it
//!     tree/                what was unpacked
//! incoming/<pin>-<id>/     what is being fetched: downloads, which survive a kill and are taken up again
//! locks/<pin>-<id>         held while an entry is being made
//! configs/<sha256>         what configuration an image has inside that was given with -k; empty for none
//! states/…                 saved guests, of the warm lane
//! ```
//!
//! `<id>` is made of the hashes that the pin states, so a changed pin never finds the old kernel.

use std::collections::{BTreeMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::digest::{self, Measured, Sha256Hex};
use super::pins::{Pin, Source};
use super::{Kernel, archive, image, kconfig, tree};
use crate::paths;

/// Counts changes of what an entry looks like on disk; part of every entry's name.
const LAYOUT: u32 = 1;
const MANIFEST: &str = "manifest.json";
const SUMS: &str = "SHA256SUMS";
const TREE: &str = "tree";
const KERNELS: &str = "kernels";
const INCOMING: &str = "incoming";
const LOCKS: &str = "locks";
const CONFIGS: &str = "configs";
/// Saved guests, which the warm lane makes: a directory each, with a file `lock` that is locked while in use.
const STATES: &str = "states";

/// One source's place in the cache.
#[derive(Debug, Clone)]
pub struct Entry {
    root: PathBuf,
    name: String,
}

/// What an entry says of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    /// The pin that it was fetched for.
    pub pin: String,
    /// The source's kind.
    pub source: String,
    /// Each file that was fetched.
    pub origin: Vec<Origin>,
    /// The release that the image names.
    pub release: Option<String>,
    /// The image, relative to the entry, as are the other paths.
    pub image: PathBuf,
    /// The image's hash, checked whenever it is used.
    pub image_sha256: Sha256Hex,
    /// The hash of `SHA256SUMS`.
    pub sums_sha256: Sha256Hex,
    /// `…/lib/modules/<release>`.
    pub modules: Option<PathBuf>,
    /// The kernel's configuration.
    pub config: Option<PathBuf>,
    /// Bytes in all files together.
    pub size: u64,
}

/// A file as it was fetched.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Origin {
    /// Where it is to be had.
    pub url: String,
    /// What it was.
    #[serde(flatten)]
    pub measured: Measured,
}

/// What is found at an entry's place.
#[derive(Debug)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// A kernel that is the pinned one.
    Ready(Box<Kernel>),
    /// Something that is not, or no more; the text says what is wrong with it.
    Damaged(String),
}

impl Entry {
    /// The place of `source`'s kernel; `None` for Nix, which keeps its kernels itself.
    pub fn of(pin: &Pin, source: &Source) -> Result<Option<Self>> {
        let hashes = source.pinned();
        if hashes.is_empty() {
            return Ok(None);
        }
        let mut identity = format!("{LAYOUT}");
        for pinned in hashes {
            identity += &format!(" {pinned}");
        }
        let id = &digest::sha256(identity.as_bytes()).as_str()[..12].to_owned();
        Ok(Some(Self { root: paths::cache()?, name: format!("{}-{id}", pin.name) }))
    }

    /// Its name: the pin's, and what the hashes make.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory of the finished entry.
    pub fn dir(&self) -> PathBuf {
        self.root.join(KERNELS).join(&self.name)
    }

    /// Where downloads for it go.
    pub fn incoming(&self) -> PathBuf {
        self.root.join(INCOMING).join(&self.name)
    }

    /// Whether there is a finished entry, without looking into it.
    pub fn exists(&self) -> bool {
        self.dir().join(MANIFEST).is_file()
    }

    /// Waits until no other run makes this entry; `waiting` is called if there is one.
    pub fn lock(&self, waiting: impl FnOnce()) -> Result<Flock<File>> {
        let path = self.root.join(LOCKS).join(&self.name);
        let hint = || cannot_write(&self.root);
        for dir in [LOCKS, KERNELS] {
            std::fs::create_dir_all(self.root.join(dir)).with_context(hint)?;
        }
        let open = || OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let file = match Flock::lock(open().with_context(hint)?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((file, nix::errno::Errno::EWOULDBLOCK)) => file,
            Err((_, errno)) => return Err(errno).with_context(|| lock_failed(&path)),
        };
        waiting();
        Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| errno)
            .with_context(|| lock_failed(&path))
    }

    /// Looks whether the pinned kernel is here, and is it: its image is hashed.
    pub fn look(&self, pin: &Pin, source: &Source) -> Found {
        match self.dir().try_exists() {
            Ok(false) => Found::Nothing,
            Ok(true) => match self.load(pin, source) {
                Ok(kernel) => Found::Ready(Box::new(kernel)),
                Err(error) => Found::Damaged(format!("{error:#}")),
            },
            Err(error) => Found::Damaged(error.to_string()),
        }
    }

    fn load(&self, pin: &Pin, source: &Source) -> Result<Kernel> {
        let dir = self.dir();
        hold(File::open(dir.join(MANIFEST)).context("it has no manifest")?);
        let manifest = self.manifest()?;
        let image = dir.join(&manifest.image);
        let found = digest::sha256_file(&image)
            .with_context(|| format!("cannot read {}", image.display()))?;
        ensure!(found == manifest.image_sha256, "{} is not what was unpacked", image.display());
        let modules = manifest.modules.map(|modules| dir.join(modules));
        if let Some(modules) = &modules {
            ensure!(modules.is_dir(), "{} is gone", modules.display());
        }
        let config = match manifest.config {
            Some(config) => Some(self.config(&config)?),
            None => None,
        };
        Ok(Kernel {
            name: pin.name.clone(),
            image,
            modules,
            expected: pin.expected_from(source),
            release: manifest.release,
            config,
            source: source.kind().to_owned(),
        })
    }

    /// Reads the kernel's configuration, if it is still what was unpacked.
    fn config(&self, relative: &Path) -> Result<kconfig::Config> {
        let path = self.dir().join(relative);
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let sums = std::fs::read_to_string(self.dir().join(SUMS))
            .with_context(|| format!("cannot read {SUMS}"))?;
        let line = format!("{}  {}\n", digest::sha256(text.as_bytes()), relative.display());
        let known = memchr::memmem::find(sums.as_bytes(), line.as_bytes()).is_some();
        ensure!(known, "{} is not what was unpacked", path.display());
        Ok(kconfig::parse(&text))
    }

    /// What the entry says of itself.
    pub fn manifest(&self) -> Result<Manifest> {
        let path = self.dir().join(MANIFEST);
        let text =
            std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))
    }

    /// Hashes every file again; returns how many there are.
    ///
    /// # Errors
    ///
    /// Names what is missing, changed, or should not be there.
    pub fn verify(&self) -> Result<usize> {
        let dir = self.dir();
        let manifest = self.manifest()?;
        let text = std::fs::read(dir.join(SUMS)).with_context(|| format!("cannot read {SUMS}"))?;
        ensure!(digest::sha256(&text) == manifest.sums_sha256, "{SUMS} is not what was written");
        let listed = String::from_utf8(text)?;
        let listed: BTreeMap<&str, &str> =
            listed.lines().filter_map(|line| line.split_once("  ")).map(|(h, p)| (p, h)).collect();
        let mut files = Vec::new();
        walk(&dir.join(TREE), &mut files)?;
        let mut wrong = Vec::new();
        for path in &files {
            let name = path.strip_prefix(&dir)?.to_string_lossy().into_owned();
            match (listed.get(name.as_str()), digest::sha256_file(path)) {
                (Some(pinned), Ok(found)) if *pinned == found.as_str() => {}
                (Some(_), Ok(_)) => wrong.push(format!("{name} is not what was unpacked")),
                (None, _) => wrong.push(format!("{name} should not be there")),
                (_, Err(error)) => wrong.push(format!("{name}: {error}")),
            }
        }
        let lost = listed.keys().find(|name| !dir.join(name).is_file());
        wrong.extend(lost.map(|name| format!("{name} is gone")));
        match wrong.as_slice() {
            [] => Ok(files.len()),
            [one] => bail!("{one}"),
            [first, others @ ..] => bail!("{first}, and {} more", others.len()),
        }
    }

    /// Removes the entry; the caller holds the lock.
    pub fn remove(&self) -> Result<()> {
        remove_all(&self.dir())
    }

    /// Makes the entry of what was downloaded; the caller holds the lock.
    pub fn make(
        &self,
        pin: &Pin,
        source: &Source,
        downloads: &[PathBuf],
        origin: Vec<Origin>,
    ) -> Result<()> {
        let staging = self.incoming().join("entry");
        remove_all(&staging)?;
        let root = staging.join(TREE);
        std::fs::create_dir_all(&root)?;
        for download in downloads {
            archive::unpack(download, &root)?;
        }
        let manifest = describe(pin, source, &staging, origin)?;
        let json = serde_json::to_vec_pretty(&manifest)?;
        std::fs::write(staging.join(MANIFEST), json).context("cannot write the manifest")?;
        // Nothing is forced to the disk: what a power cut damages is found by its hash when it is used.
        remove_all(&self.dir())?;
        std::fs::rename(&staging, self.dir())
            .with_context(|| format!("cannot rename to {}", self.dir().display()))
    }
}

/// The files below `dir`, relative to it, each with its SHA-256, if `dir` is in an entry of the cache.
pub fn listing(dir: &Path) -> Result<Option<Vec<(PathBuf, String)>>> {
    let Some(entry) = dir.ancestors().find(|dir| dir.join(MANIFEST).is_file()) else {
        return Ok(None);
    };
    let path = entry.join(SUMS);
    let sums = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let prefix = format!("{}/", dir.strip_prefix(entry)?.display());
    let file = |line: &str| {
        let (hash, path) = line.split_once("  ")?;
        Some((PathBuf::from(path.strip_prefix(&prefix)?), hash.to_owned()))
    };
    Ok(Some(sums.lines().filter_map(file).collect()))
}

fn cannot_write(dir: &Path) -> String {
    let dir = dir.display();
    format!("cannot write to the cache {dir}: make it writable, or set VMTEST_CACHE_DIR")
}

fn lock_failed(path: &Path) -> String {
    format!("cannot lock {}", path.display())
}

fn describe(pin: &Pin, source: &Source, staging: &Path, origin: Vec<Origin>) -> Result<Manifest> {
    let found = tree::find(&staging.join(TREE))
        .ok_or_else(|| anyhow!("there is no kernel image in what was fetched"))?;
    let image = image::inspect(&found.image)?;
    let expected = pin.expected_from(source);
    if let Some(release) = &image.release {
        ensure!(expected.accepts(release), "the image is {release}, pinned is {expected}");
    }
    let relative = |path: &Path| path.strip_prefix(staging).map(Path::to_owned);
    let config = match found.config {
        Some(config) => Some(config),
        None => extract_config(&found.image, &staging.join(TREE))?,
    };
    let (size, sums_sha256) = write_sums(staging)?;
    Ok(Manifest {
        pin: pin.name.clone(),
        source: source.kind().to_owned(),
        origin,
        release: image.release,
        image_sha256: digest::sha256_file(&found.image)?,
        image: relative(&found.image)?,
        sums_sha256,
        modules: found.modules.as_deref().map(relative).transpose()?,
        config: config.as_deref().map(relative).transpose()?,
        size,
    })
}

/// Writes the configuration that is inside an image next to it, so that it need not be looked for again.
fn extract_config(image: &Path, root: &Path) -> Result<Option<PathBuf>> {
    let Some(text) = image::config(image)? else { return Ok(None) };
    let path = root.join("config");
    std::fs::write(&path, text)?;
    Ok(Some(path))
}

/// Writes `SHA256SUMS`; returns the bytes in all files and the hash of the list.
fn write_sums(staging: &Path) -> Result<(u64, Sha256Hex)> {
    let mut files = Vec::new();
    walk(&staging.join(TREE), &mut files)?;
    files.sort();
    let (mut text, mut size) = (String::new(), 0);
    for file in files {
        let path = file.strip_prefix(staging)?.to_str().context("a name that is not UTF-8")?;
        text += &format!("{}  {path}\n", digest::sha256_file(&file)?);
        size += file.metadata()?.len();
    }
    let mut file = File::create(staging.join(SUMS))?;
    file.write_all(text.as_bytes())?;
    Ok((size, digest::sha256(text.as_bytes())))
}

/// Every regular file below `dir`; links are not followed.
fn walk(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            walk(&entry.path(), files)?;
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// The configuration inside an image that is not of the cache. Looking for it means decompressing the whole kernel,
/// so what was found, also nothing, is remembered by the image's hash.
pub fn config_inside(image: &Path) -> Result<Option<String>> {
    remembered_config(&paths::cache()?.join(CONFIGS), image)
}

fn remembered_config(dir: &Path, image: &Path) -> Result<Option<String>> {
    let hash =
        digest::sha256_file(image).with_context(|| format!("cannot read {}", image.display()))?;
    let known = dir.join(hash.as_str());
    if let Ok(text) = std::fs::read_to_string(&known) {
        return Ok(Some(text).filter(|text| !text.is_empty()));
    }
    let found = image::config(image)?;
    // A cache that cannot be written costs time, nothing else.
    let _ = remember(&known, found.as_deref().unwrap_or_default());
    Ok(found)
}

fn remember(path: &Path, text: &str) -> Result<()> {
    let dir = path.parent().context("no directory")?;
    std::fs::create_dir_all(dir)?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(text.as_bytes())?;
    file.persist(path)?;
    Ok(())
}

/// A directory for a download that has no entry yet; it is removed when it is dropped.
pub fn scratch(name: &str) -> Result<tempfile::TempDir> {
    let incoming = paths::cache()?.join(INCOMING);
    let make = || {
        std::fs::create_dir_all(&incoming)?;
        let dir = tempfile::Builder::new().prefix(&format!("{name}-add-")).tempdir_in(&incoming)?;
        hold(File::open(dir.path())?);
        Ok::<_, std::io::Error>(dir)
    };
    make().with_context(|| cannot_write(&incoming))
}

/// Something in the cache that is of no use any more.
pub struct Stale {
    /// What would be removed.
    pub path: PathBuf,
    /// A file that is locked as long as it is in use.
    lock: PathBuf,
}

/// Why something was not removed.
pub enum Kept {
    /// A run uses it.
    InUse,
    /// It could not be removed.
    Failed(anyhow::Error),
}

/// What can go: kernels and downloads other than those of the entries `needed`, all saved states, and what was
/// read out of images that no pin names.
pub fn stale(needed: &HashSet<String>) -> Result<Vec<Stale>> {
    let root = paths::cache()?;
    let mut stale = Vec::new();
    for path in children(&root.join(CONFIGS))? {
        stale.push(Stale { lock: path.clone(), path });
    }
    for (kind, lock_in) in [(KERNELS, Some(MANIFEST)), (INCOMING, None), (STATES, Some("lock"))] {
        for path in children(&root.join(kind))? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if kind != STATES && needed.contains(&name) {
                continue;
            }
            let lock = match lock_in {
                Some(file) => path.join(file),
                None => root.join(LOCKS).join(&name),
            };
            stale.push(Stale { path, lock });
        }
    }
    Ok(stale)
}

/// Removes what is stale, unless it is in use; with `dry_run`, only finds out whether it would.
pub fn discard(stale: &Stale, dry_run: bool) -> Result<(), Kept> {
    // A directory can be locked as well, which is what is left when the file is not there.
    let file = File::open(&stale.lock).or_else(|_| File::open(&stale.path));
    let file = file.map_err(|error| Kept::Failed(error.into()))?;
    let _lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| Kept::InUse)?;
    match dry_run {
        true => Ok(()),
        false => remove_all(&stale.path).map_err(Kept::Failed),
    }
}

/// Bytes on disk of all files below `path`.
pub fn size_of(path: &Path) -> u64 {
    let Ok(metadata) = path.symlink_metadata() else { return 0 };
    let below = match metadata.is_dir() {
        true => children(path).unwrap_or_default().iter().map(|path| size_of(path)).sum(),
        false => 0,
    };
    // st_blocks counts 512 bytes whatever the file system's block is (stat(2)).
    below + 512 * std::os::unix::fs::MetadataExt::blocks(&metadata)
}

/// A directory's entries, sorted; none when it is not there.
fn children(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", dir.display())),
    };
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// Keeps what `file` stands for from being pruned as long as this process lives.
fn hold(file: File) {
    static HELD: Mutex<Vec<Flock<File>>> = Mutex::new(Vec::new());
    // Where a file system has no locks there is no protection either, and nothing else is lost.
    if let Ok(lock) = Flock::lock(file, FlockArg::LockSharedNonblock) {
        HELD.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(lock);
    }
}

/// Removes a file or directory if it is there.
pub fn remove_all(path: &Path) -> Result<()> {
    let result = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::fake;
    use super::*;

    #[test]
    fn what_is_inside_an_image_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let (configs, image) = (dir.path().join("configs"), dir.path().join("bzImage"));
        for inside in [Some("CONFIG_PCI=y\n"), None] {
            std::fs::write(&image, fake::bzimage("6.1.0", inside)).unwrap();
            assert_eq!(remembered_config(&configs, &image).unwrap().as_deref(), inside);
            let known = configs.join(digest::sha256_file(&image).unwrap().as_str());
            assert_eq!(std::fs::read_to_string(&known).unwrap(), inside.unwrap_or_default());
            std::fs::write(&known, "CONFIG_FROM=memory\n").unwrap();
            let again = remembered_config(&configs, &image).unwrap();
            assert_eq!(again.as_deref(), Some("CONFIG_FROM=memory\n"));
        }
    }

    #[test]
    fn a_cache_that_cannot_be_written_does_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("bzImage");
        std::fs::write(&image, fake::bzimage("6.1.0", Some("CONFIG_PCI=y\n"))).unwrap();
        // A file where the directory should be.
        let found = remembered_config(&image.join("configs"), &image).unwrap();
        assert_eq!(found.as_deref(), Some("CONFIG_PCI=y\n"));
    }
}
