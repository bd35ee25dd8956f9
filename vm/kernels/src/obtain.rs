//! Getting a kernel: what is here already, else the pin's sources, one after the other.

use std::path::{Path, PathBuf};

use anyhow::Context;
use url::Url;

use super::cache::{self, Entry};
use super::digest::{self, Sha256Hex};
use super::download::{self, Address, Failure};
use super::pins::{Pin, Source};
use super::progress::Progress;
use super::{Expected, Kernel, archive, build, debian, image, kconfig, tree};

/// Names the directory of kernels that `nix develop` puts together; it has one entry per pin.
pub const NIX_VARIABLE: &str = "VMTEST_NIX_KERNELS";

/// Where kernels are kept, and where those come from that no pin's address names.
#[derive(Debug, Clone)]
pub struct Store {
    /// The cache's root; it need not be there yet.
    pub cache: PathBuf,
    /// What the paths of `file` sources are relative to: the project's root.
    pub project: PathBuf,
    /// The directory that [`NIX_VARIABLE`] names, if it does.
    pub nix: Option<PathBuf>,
    /// A place that serves files by hash as Debian's permanent archive does; Debian's own if it is not given.
    pub debian_archive: Option<Url>,
}

/// Why a kernel could not be had.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{reason}{}", .attempts.iter().map(|attempt| format!("\n  {attempt}")).collect::<String>())]
pub struct Unavailable {
    /// In one sentence.
    pub reason: String,
    /// Each source, or each address of it, that was tried, and why it failed.
    pub attempts: Vec<String>,
}

/// Gets a pinned kernel.
pub fn pin(store: &Store, pin: &Pin, progress: &dyn Progress) -> Result<Kernel, Unavailable> {
    let mut attempts = Vec::new();
    match nix(store, pin) {
        Some(Ok(kernel)) => return Ok(kernel),
        Some(Err(error)) => attempts.push(format!("nix: {error:#}")),
        None => {}
    }
    for source in &pin.sources {
        match Entry::of(&store.cache, pin, source).look() {
            Ok(Some(kernel)) => return Ok(kernel),
            Ok(None) => {}
            Err(why) => progress.note(&format!("the {} kernel here is damaged: {why:#}", source.kind())),
        }
    }
    for source in &pin.sources {
        match fetch(store, pin, source, progress) {
            Ok(kernel) => return Ok(kernel),
            Err(Failure::Remote(whys)) => {
                attempts.extend(whys.into_iter().map(|why| format!("{}: {why}", source.kind())));
            }
            Err(Failure::Local(why)) => {
                let reason = format!("it cannot be stored: {why:#}");
                return Err(Unavailable { reason, attempts });
            }
        }
    }
    Err(Unavailable { reason: "none of its sources could be had".into(), attempts })
}

/// Changes whenever the kernel that a pin gives may change.
pub fn key(pin: &Pin) -> String {
    let identity: String = pin.sources.iter().map(|source| Entry::name_of(pin, source)).collect();
    format!("{}-{}", pin.label(), &digest::sha256(identity.as_bytes()).as_str()[..16])
}

/// Whether a kernel needs no network, without hashing it.
pub fn is_cached(store: &Store, pin: &Pin) -> bool {
    let is_here = |source: &Source| Entry::of(&store.cache, pin, source).manifest().is_ok();
    nix(store, pin).is_some() || pin.sources.iter().any(is_here)
}

/// The pin's kernel in the directory that `nix develop` names, if it has one; it has this machine's kernels only.
pub fn nix(store: &Store, pin: &Pin) -> Option<anyhow::Result<Kernel>> {
    let dir = store.nix.as_ref()?.join(&pin.name);
    (pin.arch.is_host() && dir.is_dir())
        .then(|| tree::find(&dir).and_then(|found| from_tree(found, &pin.name, &pin.expected, "nix")))
}

/// A kernel that is used where it lies.
pub fn from_tree(found: tree::Tree, name: &str, expected: &Expected, source: &str) -> anyhow::Result<Kernel> {
    found.check_release(expected)?;
    let config = match &found.config {
        Some(path) => Some(std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?),
        None => image::config(&found.image)?,
    };
    Ok(Kernel {
        name: name.to_owned(),
        arch: found.header.arch,
        expected: expected.clone(),
        release: found.header.release,
        config: config.as_deref().map(kconfig::parse),
        image: found.image,
        sha256: None,
        modules: found.modules,
        source: source.to_owned(),
    })
}

fn fetch(store: &Store, pin: &Pin, source: &Source, progress: &dyn Progress) -> Result<Kernel, Failure> {
    let entry = Entry::of(&store.cache, pin, source);
    let _lock = entry.lock(|| progress.note("another run is fetching it; waiting"))?;
    if let Ok(Some(kernel)) = entry.look() {
        return Ok(kernel);
    }
    let incoming = entry.incoming();
    std::fs::create_dir_all(&incoming).with_context(|| format!("cannot write to the cache: {}", incoming.display()))?;
    let is_built = matches!(source, Source::Source { .. });
    if is_built {
        build::check(pin.arch, &incoming).map_err(|error| Failure::there(format!("{error:#}")))?;
    }
    let downloads = download_all(store, source, &incoming, progress)?;
    progress.note("unpacking");
    let work = incoming.join("build");
    // What a build has left that was killed.
    cache::remove_all(&work)?;
    let made = entry.make(|root| match downloads.as_slice() {
        [tarball] if is_built => build::build(pin.arch, tarball, &work, root, progress),
        files => archive::unpack(files, root),
    });
    // What was downloaded is either unpacked now or good for nothing, unless it was the compiler that failed.
    cache::remove_all(if is_built && made.is_err() { &work } else { &incoming })?;
    made.map_err(|error| match is_local(&error) {
        true => Failure::Local(error),
        false => Failure::there(format!("{error:#}")),
    })?;
    Ok(entry.look()?.context("it vanished while it was being stored")?)
}

/// Whether an error is this machine's own, such as a full disk, rather than the archive's.
fn is_local(error: &anyhow::Error) -> bool {
    use std::io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|error| matches!(error.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem | PermissionDenied))
}

/// Downloads the files of a source into `dir`, each held to its hash; returns where they are.
pub(crate) fn download_all(
    store: &Store,
    source: &Source,
    dir: &Path,
    progress: &dyn Progress,
) -> Result<Vec<PathBuf>, Failure> {
    let at = |url: Url| vec![Address { url, proxy: None }];
    let archive = store.debian_archive.as_ref();
    let addresses: Vec<Vec<Address>> = match source {
        Source::Debian { files } => files.iter().map(|file| debian::addresses(file, archive)).collect(),
        Source::Url { url, .. } | Source::Source { url, .. } => vec![at(url.clone())],
        Source::File { path, .. } => vec![at(file_url(&store.project.join(path))?)],
    };
    let mut parts = Vec::new();
    for (index, (sha256, addresses)) in source.hashes().into_iter().zip(addresses).enumerate() {
        let part = dir.join(format!("{index}.part"));
        get(&addresses, sha256, &part, progress)?;
        parts.push(part);
    }
    Ok(parts)
}

/// The address of a file on this machine.
pub fn file_url(path: &Path) -> anyhow::Result<Url> {
    Url::from_file_path(path).map_err(|()| anyhow::anyhow!("{} is no absolute path", path.display()))
}

/// Downloads one file to `part` from the first address that has it.
fn get(addresses: &[Address], sha256: &Sha256Hex, part: &Path, progress: &dyn Progress) -> Result<(), Failure> {
    // A run that was killed while unpacking has left the whole file.
    if digest::sha256_file(part).is_ok_and(|found| found == *sha256) {
        return Ok(());
    }
    let mut failed = Vec::new();
    for address in addresses {
        progress.note(&format!("fetching {}", address.url));
        match get_from(address, sha256, part, progress) {
            Ok(()) => return Ok(()),
            Err(Failure::Remote(whys)) => failed.extend(whys.iter().map(|why| format!("{}: {why}", address.url))),
            Err(Failure::Local(error)) => {
                // A beginning that fills the disk helps nobody.
                if is_local(&error) {
                    cache::remove_all(part)?;
                }
                return Err(error.into());
            }
        }
    }
    Err(Failure::Remote(failed))
}

/// Downloads and hashes; what is not the pinned file is removed at once.
fn get_from(address: &Address, sha256: &Sha256Hex, part: &Path, progress: &dyn Progress) -> Result<(), Failure> {
    let resumed = part.exists();
    download::download(address, part, progress)?;
    let found = digest::sha256_file(part).with_context(|| format!("cannot read back {}", part.display()))?;
    if found == *sha256 {
        return Ok(());
    }
    cache::remove_all(part)?;
    let why = format!("has SHA-256 {found}, pinned is {sha256}");
    if !resumed {
        return Err(Failure::there(why));
    }
    // The beginning may have been another file's.
    progress.note(&format!("what was resumed {why}; fetching it anew"));
    get_from(address, sha256, part, progress)
}
