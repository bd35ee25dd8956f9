//! The cache of kernels on disk, shared by every run on this machine.
//!
//! ```text
//! kernels/<pin>-<id>/      one source's kernel, complete: it gets this name when everything in it is written
//!     manifest.json        what it is, and where in tree/
//!     SHA256SUMS           of every file in tree/, as sha256sum(1) reads it
//!     tree/                what was unpacked
//! incoming/<pin>-<id>/     what is being fetched: downloads, which survive a kill and are resumed
//! locks/<pin>-<id>         held while an entry is being made
//! snapshots/               snapshots of guests, which are not this module's
//! ```
//!
//! `<id>` is made of the hashes that the pin states, so a changed pin never finds the old kernel.

mod sums;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use walkdir::WalkDir;

use super::digest::{self, Sha256Hex};
use super::pins::{Pin, Source};
use super::{Kernel, build, image, kconfig, tree};
use crate::lock::{self, How};
use sums::unreadable;

/// Counts changes of what an entry looks like on disk; part of every entry's name.
const LAYOUT: u32 = 1;
const MANIFEST: &str = "manifest.json";
const KERNELS: &str = "kernels";
const INCOMING: &str = "incoming";
const LOCKS: &str = "locks";

/// One source's place in the cache.
pub struct Entry<'a> {
    root: &'a Path,
    pin: &'a Pin,
    source: &'a Source,
    name: String,
}

/// What an entry says of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    /// The release that the image names.
    pub release: Option<String>,
    /// The image, relative to the entry, as are the other paths.
    pub image: PathBuf,
    /// The hash of `SHA256SUMS`.
    pub sums_sha256: Sha256Hex,
    /// `…/lib/modules/<release>`.
    pub modules: Option<PathBuf>,
    /// The kernel's configuration.
    pub config: Option<PathBuf>,
    /// Bytes in all files together.
    pub size: u64,
}

impl<'a> Entry<'a> {
    /// The place of `source`'s kernel.
    pub fn of(root: &'a Path, pin: &'a Pin, source: &'a Source) -> Self {
        Self { root, pin, source, name: Self::name_of(pin, source) }
    }

    /// Its name: the pin's, and what the hashes make.
    pub fn name_of(pin: &Pin, source: &Source) -> String {
        let mut identity = format!("{LAYOUT}");
        for hash in source.hashes() {
            identity += &format!(" sha256:{hash}");
        }
        if matches!(source, Source::Source { .. }) {
            identity += &format!(" {}", build::identity(pin.arch));
        }
        format!("{}-{}", pin.name, &digest::sha256(identity.as_bytes()).as_str()[..12])
    }

    /// The directory of the finished entry.
    pub fn dir(&self) -> PathBuf {
        self.root.join(KERNELS).join(&self.name)
    }

    /// Where downloads for it go.
    pub fn incoming(&self) -> PathBuf {
        self.root.join(INCOMING).join(&self.name)
    }

    /// Waits until no other run makes this entry; `waiting` is called if there is one.
    pub fn lock(&self, waiting: impl FnOnce()) -> Result<File> {
        let path = self.root.join(LOCKS).join(&self.name);
        let hint = || cannot_write(self.root);
        for dir in [LOCKS, KERNELS] {
            std::fs::create_dir_all(self.root.join(dir)).with_context(hint)?;
        }
        lock::exclusive(&path, waiting).with_context(hint)
    }

    /// The pinned kernel, if it is here: its image and configuration are hashed. Says what is wrong when what is here is
    /// not that, or no more.
    pub fn look(&self) -> Result<Option<Kernel>> {
        let dir = self.dir();
        if !dir.try_exists()? {
            return Ok(None);
        }
        ensure!(dir.join(MANIFEST).is_file(), "it has no manifest");
        hold(&dir, &dir.join(MANIFEST))?;
        let manifest = self.manifest()?;
        let listed = sums::read_checked(&dir, &manifest.sums_sha256)?;
        let real = dir.canonicalize().with_context(unreadable(&dir))?;
        let check = |path: &Path, found: &Sha256Hex| -> Result<()> {
            // It may be a link, and then what is listed is the file that it leads to.
            let file = path.canonicalize().with_context(unreadable(path))?;
            let pinned = listed.get(file.strip_prefix(&real).with_context(unreadable(path))?);
            ensure!(pinned.is_some_and(|hash| hash == found.as_str()), "{} is not what was unpacked", path.display());
            Ok(())
        };
        let image = dir.join(&manifest.image);
        let sha256 = digest::sha256_file(&image).with_context(unreadable(&image))?;
        check(&image, &sha256)?;
        let parse_config = |relative: PathBuf| -> Result<_> {
            let path = dir.join(relative);
            let text = std::fs::read(&path).with_context(unreadable(&path))?;
            check(&path, &digest::sha256(&text))?;
            Ok(kconfig::parse(std::str::from_utf8(&text).with_context(unreadable(&path))?))
        };
        let config = manifest.config.map(parse_config).transpose()?;
        let modules = manifest.modules.map(|modules| dir.join(modules));
        if let Some(modules) = &modules {
            ensure!(modules.is_dir(), "{} is gone", modules.display());
        }
        Ok(Some(Kernel {
            name: self.pin.label(),
            arch: self.pin.arch,
            image,
            sha256: Some(sha256),
            modules,
            expected: self.pin.expected.clone(),
            release: manifest.release,
            config,
            source: self.source.kind().to_owned(),
        }))
    }

    /// What the entry says of itself.
    pub fn manifest(&self) -> Result<Manifest> {
        let path = self.dir().join(MANIFEST);
        let text = std::fs::read(&path).with_context(unreadable(&path))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))
    }

    /// Hashes every file again; returns how many there are. Names what is missing, changed, or should not be there.
    pub fn verify(&self) -> Result<usize> {
        sums::verify(&self.dir(), &self.manifest()?.sums_sha256)
    }

    /// Removes the entry; the caller holds the lock.
    pub fn remove(&self) -> Result<()> {
        remove_at_once(&self.dir())
    }

    /// Makes the entry of what `fill` puts into the directory that it is given; the caller holds the lock.
    pub fn make(&self, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let staging = self.incoming().join("entry");
        remove_all(&staging)?;
        let root = staging.join(sums::TREE);
        fs_err::create_dir_all(&root)?;
        if let Err(error) = fill(&root) {
            remove_all(&staging)?;
            return Err(error);
        }
        let manifest = describe(self.pin, &staging)?;
        let json = serde_json::to_vec_pretty(&manifest)?;
        std::fs::write(staging.join(MANIFEST), json).context("cannot write the manifest")?;
        // Nothing is forced to the disk: what a power cut damages is found by its hash when it is used.
        self.remove()?;
        std::fs::rename(&staging, self.dir()).with_context(|| format!("cannot rename to {}", self.dir().display()))
    }
}

/// The files below `dir`, relative to it, each with its SHA-256, if `dir` is in an entry of the cache.
pub fn listing(dir: &Path) -> Result<Option<sums::Sums>> {
    let Some(entry) = dir.ancestors().find(|dir| dir.join(MANIFEST).is_file()) else { return Ok(None) };
    let dir = dir.strip_prefix(entry)?;
    let below = |(path, hash): (PathBuf, _)| Some((path.strip_prefix(dir).ok()?.to_owned(), hash));
    Ok(Some(sums::parse(&sums::read(entry)?)?.into_iter().filter_map(below).collect()))
}

fn cannot_write(dir: &Path) -> String {
    let dir = dir.display();
    format!("cannot write to the cache {dir}: make it writable, or set VMTEST_CACHE_DIR")
}

fn describe(pin: &Pin, staging: &Path) -> Result<Manifest> {
    let tree = staging.join(sums::TREE);
    let found = tree::find(&tree)?;
    let arch = found.header.arch;
    ensure!(arch == pin.arch, "the image is for {arch}, pinned is one for {}", pin.arch);
    found.check_release(&pin.expected)?;
    let mut config = found.config;
    if config.is_none() {
        // Next to the image, so that it need not be looked for inside of it again.
        if let Some(text) = image::config(&found.image)? {
            fs_err::write(tree.join("config"), text)?;
            config = Some(tree.join("config"));
        }
    }
    let relative = |path: &Path| path.strip_prefix(staging).map(Path::to_owned);
    let (size, sums_sha256) = sums::write(staging)?;
    Ok(Manifest {
        release: found.header.release,
        image: relative(&found.image)?,
        sums_sha256,
        modules: found.modules.as_deref().map(relative).transpose()?,
        config: config.as_deref().map(relative).transpose()?,
        size,
    })
}

/// Keeps `dir`, which the file or directory `path` stands for, from being pruned by another run as long as this process
/// lives.
fn hold(dir: &Path, path: &Path) -> Result<()> {
    static HELD: Mutex<Option<HashMap<PathBuf, File>>> = Mutex::new(None);
    match lock::existing(path, How::NonBlockingLockShared) {
        Ok(Some(lock)) => {
            let mut held = HELD.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            held.get_or_insert_default().insert(dir.to_owned(), lock);
            Ok(())
        }
        Ok(None) => bail!("another run is removing it"),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(error.into()),
        // Where a file system has no locks there is no protection either, and nothing else is lost.
        Err(_) => Ok(()),
    }
}

/// A directory in `cache` for a download that has no entry yet; it is removed when it is dropped.
pub fn scratch(cache: &Path, name: &str) -> Result<tempfile::TempDir> {
    let incoming = cache.join(INCOMING);
    let prefix = format!("{name}-add-");
    let make = |()| tempfile::Builder::new().prefix(&prefix).tempdir_in(&incoming);
    let dir = std::fs::create_dir_all(&incoming).and_then(make).with_context(|| cannot_write(&incoming))?;
    hold(dir.path(), dir.path())?;
    Ok(dir)
}

/// Removes a file or directory if it is there.
pub fn remove_all(path: &Path) -> Result<()> {
    let result = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    let was_gone = matches!(&result, Err(error) if error.kind() == ErrorKind::NotFound);
    if was_gone { Ok(()) } else { result.with_context(|| format!("cannot remove {}", path.display())) }
}

/// Removes a directory so that nobody ever finds half of it: it loses its name first.
fn remove_at_once(path: &Path) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // What a killed run left of an earlier one goes too; `kernels prune` finds it as well.
    let going = path.with_file_name(format!(".{name}.removed"));
    remove_all(&going)?;
    match std::fs::rename(path, &going) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot remove {}", path.display())),
        Ok(()) => remove_all(&going),
    }
}

/// What can go of the cache at `root`: kernels and downloads other than those of the entries `needed`.
pub fn stale(root: &Path, needed: &HashSet<String>) -> Result<Vec<PathBuf>> {
    let mut stale = Vec::new();
    for dir in [KERNELS, INCOMING].map(|kind| root.join(kind)) {
        if !dir.try_exists()? {
            continue;
        }
        for entry in WalkDir::new(&dir).min_depth(1).max_depth(1).sort_by_file_name() {
            let entry = entry.with_context(unreadable(&dir))?;
            if !needed.contains(&*entry.file_name().to_string_lossy()) {
                stale.push(entry.into_path());
            }
        }
    }
    Ok(stale)
}

/// Removes a stale kernel or download of the cache at `root`, unless it is in use; with `dry_run`, only finds out whether
/// it would. Says whether it is gone.
pub fn discard(root: &Path, stale: &Path, dry_run: bool) -> Result<bool> {
    let lock = match stale.starts_with(root.join(KERNELS)) {
        true => stale.join(MANIFEST),
        false => root.join(LOCKS).join(stale.file_name().unwrap_or_default()),
    };
    // A directory can be locked as well, which is what is left when the file is not there.
    let lock = if lock.exists() { &lock } else { stale };
    let Some(_lock) = lock::existing(lock, How::NonBlockingLockExclusive)? else { return Ok(false) };
    if !dry_run {
        remove_at_once(stale)?;
    }
    Ok(true)
}

/// Bytes on disk of all files below `path`, which may be one itself.
pub fn size_of(path: &Path) -> u64 {
    let files = WalkDir::new(path).follow_root_links(false).into_iter().flatten();
    // st_blocks counts 512 bytes whatever the file system's block is (stat(2)).
    files.filter_map(|file| file.metadata().ok()).map(|file| 512 * file.blocks()).sum()
}
