//! `cargo xtask kernels add`: fetches a kernel or its source, hashes it, reads its release, and pins it.

use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use indicatif::BinaryBytes;
use toml::Value;
use url::Url;

use crate::dirs::Dirs;
use crate::error::Error;
use crate::exit;
use crate::kernels::cache::{self, Entry};
use crate::kernels::download::{Address, download};
use crate::kernels::pins::{self, Pin, Source};
use crate::kernels::{self, ARCHES, Arch, Expected, Progress, digest, obtain};
use crate::ui::{self, Line};
use vm_kernels::digest::Sha256Hex;
use vm_kernels::lock::{self, How};
use vm_kernels::{archive, whole_file};

/// What the pin says until somebody knows better.
const WHY: &str = "added with `kernels add`";

pub fn run(dirs: &Dirs, name: &str, from: &str) -> Result<u8> {
    let path = kernels::file(dirs);
    read(dirs, &path, name)?;
    pins::check_name(name).map_err(Error::usage)?;
    let (url, source) = given(dirs, from)?;
    let (release, source, size) = store(dirs, name, &url, source)?;
    // Of a source nothing says the release but what was asked for.
    let release = release.unwrap_or_else(|| from.to_owned());
    let built_in =
        kernels::pinned(dirs).unwrap_or_default().into_iter().find(|pin| pin.name == name && pin.arch.is_host());
    pin(dirs, &path, name, &release, &source)?;
    let replaced = built_in.map(|pin| format!("It replaces the built-in {name}, {}, in this project.\n", pin.expected));
    let more = match &source {
        Source::Source { .. } => {
            let fetch = crate::hint::hint(&format!("kernels fetch {name}"));
            format!("`{fetch}` builds it now; else the first run does.\n")
        }
        Source::File { path: file, .. } if file.is_absolute() => {
            format!("{} is outside of the workspace: other machines will refuse this pin.\n", file.display())
        }
        _ => String::new(),
    };
    let pinned = format!("{name}: pinned {release}, {}, in {}\n", BinaryBytes(size), path.display())
        + &replaced.unwrap_or_default();
    ui::print(&format!("{pinned}Say there, under `why`, what this kernel is for.\n{more}"))?;
    Ok(exit::OK)
}

/// The text of the pins, of which none has this name yet.
fn read(dirs: &Dirs, path: &Path, name: &str) -> Result<String> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        text => text.with_context(|| format!("cannot read the pins in {}", path.display()))?,
    };
    if kernels::parse(dirs, &text, path)?.iter().any(|pin| pin.name == name) {
        return Err(Error::usage(format!("{name} is pinned already, in {}", path.display())));
    }
    Ok(text)
}

/// Adds the pin to the file as it is now: fetching takes minutes, in which others may have changed it.
fn pin(dirs: &Dirs, path: &Path, name: &str, release: &str, source: &Source) -> Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let _alone = lock::existing(dir, How::LockExclusive).with_context(|| format!("cannot lock {}", dir.display()))?;
    let text = read(dirs, path, name)?;
    let gap = if text.is_empty() || text.ends_with("\n\n") { "" } else { "\n" };
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    // A source is for the first architecture if it does not say; a kernel's source is for all.
    let says_arch = !matches!(source, Source::Source { .. }) && Arch::host() != &ARCHES[0];
    let arch = if says_arch { format!("arch = \"{}\"\n", Arch::host()) } else { String::new() };
    let [name, release, why] = [name, release, WHY].map(Value::from);
    let added = format!("[[kernel]]\nname = {name}\nrelease = {release}\nwhy = {why}\n\n[[kernel.source]]\n{arch}");
    let text = format!("{text}{end}{gap}{added}{}", toml::to_string(source)?);
    // What is written must be readable: better to find out here than at the next command.
    kernels::parse(dirs, &text, path).context("the new list of pins is wrong; it was not written")?;
    whole_file::write(path, text.as_bytes())
}

/// Makes the source of a pin, once the hash of what is at its address is known.
type Make = Box<dyn FnOnce(Sha256Hex) -> Source>;

/// What the user named: an https address, a release of kernel.org's such as `6.6.144`, or a file.
fn given(dirs: &Dirs, text: &str) -> Result<(Url, Make)> {
    if text.contains("://") {
        let url = Url::parse(text).map_err(|error| Error::usage(format!("{text}: {error}")))?;
        if url.scheme() != "https" {
            return Err(Error::usage(format!("{text}: expected an https address")));
        }
        return Ok((url.clone(), Box::new(|sha256| Source::Url { url, sha256 })));
    }
    let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if text.contains('.') && text.split('.').all(number) && !Path::new(text).exists() {
        let major = text.split('.').next().unwrap_or_default();
        // kernel.org has it there for good.
        let url = Url::parse(&format!("https://cdn.kernel.org/pub/linux/kernel/v{major}.x/linux-{text}.tar.xz"))?;
        return Ok((url.clone(), Box::new(|sha256| Source::Source { url, sha256 })));
    }
    let path = Path::new(text).canonicalize().map_err(|error| Error::usage(format!("{text}: {error}")))?;
    if !path.is_file() {
        let hint = "expected a file: an image, a .deb or a tar archive; a directory works with -k";
        return Err(Error::usage(format!("{text}: {hint}")));
    }
    let url = obtain::file_url(&path)?;
    let path = path.strip_prefix(&dirs.project).map_or(path.clone(), Path::to_owned);
    Ok((url, Box::new(|sha256| Source::File { path, sha256 })))
}

/// Fetches the kernel into the cache, where `fetch` would put it; returns the release that it names, its source and its
/// size.
fn store(dirs: &Dirs, name: &str, url: &Url, source: Make) -> Result<(Option<String>, Source, u64)> {
    let (cache, progress) = (kernels::store(dirs)?.cache, &Line::new(name));
    let dir = cache::scratch(&cache, name)?;
    let part = dir.path().join("0.part");
    progress.note(&format!("fetching {url}"));
    let address = Address { url: url.clone(), proxy: None };
    download(&address, &part, progress).map_err(|error| anyhow!("{url}: {error}"))?;
    let source = source(digest::sha256_file(&part)?);
    let pin = Pin {
        name: name.to_owned(),
        arch: Arch::host(),
        expected: Expected::Any,
        why: WHY.to_owned(),
        extra: false,
        sources: vec![source.clone()],
    };
    let entry = Entry::of(&cache, &pin, &source);
    let _lock = entry.lock(|| progress.note("another run is fetching it; waiting"))?;
    if matches!(source, Source::Source { .. }) {
        // `fetch` finds it there, and builds it.
        let incoming = entry.incoming();
        fs_err::create_dir_all(&incoming)?;
        let size = part.metadata()?.len();
        fs_err::rename(&part, incoming.join("0.part"))?;
        return Ok((None, source, size));
    }
    progress.note("unpacking");
    let made = entry.make(|root| archive::unpack(&[part], root));
    cache::remove_all(&entry.incoming())?;
    made?;
    let manifest = entry.manifest()?;
    ensure!(manifest.release.is_some(), "{name}: the image names no release; write this pin by hand");
    Ok((manifest.release, source, manifest.size))
}
