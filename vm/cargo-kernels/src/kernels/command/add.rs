//! `cargo xtask kernels add`: fetches a kernel or its source, hashes it, reads its release, and pins it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;
use url::Url;

use super::show;
use crate::dirs::Dirs;
use crate::exit::{self, Exit};
use crate::kernels::cache::{self, Entry};
use crate::kernels::download::{Address, download};
use crate::kernels::pins::{self, Pin, Source};
use crate::kernels::{self, ARCHES, Arch, Expected, Progress, digest};
use vm_kernels::lock::{self, How};
use vm_kernels::{archive, whole_file};

/// What the pin says until somebody knows better.
const WHY: &str = "added with `kernels add`";

/// Runs the command.
pub fn run(dirs: &Dirs, name: &str, from: &str) -> Result<u8> {
    let path = kernels::file(dirs);
    read(dirs, &path, name)?;
    pins::check_name(name).map_err(Exit::usage)?;
    let given = Given::parse(dirs, from)?;
    let (release, source, size) = store(dirs, name, given, &show::Line::new(name))?;
    pin(dirs, &path, name, &release, &source)?;
    println!("{name}: pinned {release}, {}, in {}", show::size(size), path.display());
    println!("Say there, under `why`, what this kernel is for.");
    if matches!(source, Source::Source { .. }) {
        let fetch = crate::command::hint(&format!("fetch {name}"));
        println!("`{fetch}` builds it now; else the first run does.");
    }
    if let Source::File { path: file, .. } = &source {
        if file.is_absolute() {
            println!("{} is outside of the workspace: other machines will refuse this pin.", file.display());
        }
    }
    Ok(exit::OK)
}

/// The text of the pins, of which none has this name yet.
fn read(dirs: &Dirs, path: &Path, name: &str) -> Result<String> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        text => text.with_context(|| format!("cannot read the pins in {}", path.display()))?,
    };
    if kernels::parse(dirs, &text, path)?.iter().any(|pin| pin.name == name) {
        return Err(Exit::usage(format!("{name} is pinned already, in {}", path.display())));
    }
    Ok(text)
}

/// Adds the pin to the file as it is now: fetching takes minutes, in which others may have changed it.
fn pin(dirs: &Dirs, path: &Path, name: &str, release: &str, source: &Source) -> Result<()> {
    let dir = directory(path);
    let _alone = lock::existing(dir, How::LockExclusive).with_context(|| format!("cannot lock {}", dir.display()))?;
    let text = read(dirs, path, name)?;
    let gap = if text.is_empty() || text.ends_with("\n\n") { "" } else { "\n" };
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    // A source is for the first architecture if it does not say; a kernel's source is for all.
    let says_arch = !matches!(source, Source::Source { .. }) && Arch::host() != &ARCHES[0];
    let source = ListedSource { arch: says_arch.then_some(Arch::host().name), source };
    let added = List { kernel: [Listed { name, release, why: WHY, source: [source] }] };
    let text = format!("{text}{end}{gap}{}", toml::to_string(&added)?);
    // What is written must be readable: better to find out here than at the next command.
    kernels::parse(dirs, &text, path).context("the new list of pins is wrong; it was not written")?;
    whole_file::write(path, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

/// What is added to the list.
#[derive(Serialize)]
struct List<'a> {
    kernel: [Listed<'a>; 1],
}

#[derive(Serialize)]
struct Listed<'a> {
    name: &'a str,
    release: &'a str,
    why: &'a str,
    source: [ListedSource<'a>; 1],
}

#[derive(Serialize)]
struct ListedSource<'a> {
    arch: Option<&'a str>,
    #[serde(flatten)]
    source: &'a Source,
}

fn directory(file: &Path) -> &Path {
    file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// What the user named.
enum Given {
    /// A release of kernel.org's, such as `6.6.144`, which is built here.
    Release(String),
    Url(Url),
    File(PathBuf),
}

impl Given {
    fn parse(dirs: &Dirs, text: &str) -> Result<Self> {
        if text.contains("://") {
            let url = Url::parse(text).map_err(|error| Exit::usage(format!("{text}: {error}")))?;
            if url.scheme() != "https" {
                return Err(Exit::usage(format!("{text}: expected an https address")));
            }
            return Ok(Self::Url(url));
        }
        let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if text.contains('.') && text.split('.').all(number) && !Path::new(text).exists() {
            return Ok(Self::Release(text.to_owned()));
        }
        let path = Path::new(text).canonicalize();
        let path = path.map_err(|error| Exit::usage(format!("{text}: {error}")))?;
        if !path.is_file() {
            let hint = "expected a file: an image, a .deb or a tar archive; a directory works with -k";
            return Err(Exit::usage(format!("{text}: {hint}")));
        }
        Ok(Self::File(path.strip_prefix(&dirs.project).map_or(path.clone(), Path::to_owned)))
    }

    fn url(&self, dirs: &Dirs) -> Result<Url> {
        match self {
            Self::Release(release) => tarball(release),
            Self::Url(url) => Ok(url.clone()),
            Self::File(path) => {
                let path = dirs.project.join(path);
                Url::from_file_path(&path).map_err(|()| anyhow!("{} is no absolute path", path.display()))
            }
        }
    }
}

/// Where kernel.org has a release, for good.
fn tarball(release: &str) -> Result<Url> {
    let major = release.split('.').next().unwrap_or_default();
    let dir = "https://cdn.kernel.org/pub/linux/kernel";
    Ok(Url::parse(&format!("{dir}/v{major}.x/linux-{release}.tar.xz"))?)
}

/// Fetches the kernel into the cache, where `fetch` would put it; returns its release, its source and its size.
fn store(dirs: &Dirs, name: &str, given: Given, progress: &dyn Progress) -> Result<(String, Source, u64)> {
    let cache = kernels::store(dirs)?.cache;
    let url = given.url(dirs)?;
    let dir = cache::scratch(&cache, name)?;
    let part = dir.path().join("0.part");
    progress.note(&format!("fetching {url}"));
    let address = Address { url: url.clone(), proxy: None };
    download(&address, &part, progress).map_err(|error| anyhow!("{url}: {error}"))?;
    let sha256 = digest::sha256_file(&part)?;
    let (released, source) = match given {
        Given::Release(release) => (Some(release), Source::Source { url: url.clone(), sha256 }),
        Given::Url(url) => (None, Source::Url { url, sha256 }),
        Given::File(path) => (None, Source::File { path, sha256 }),
    };
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
    if let Some(release) = released {
        // `fetch` finds it there, and builds it.
        let incoming = entry.incoming();
        std::fs::create_dir_all(&incoming)?;
        std::fs::rename(&part, incoming.join("0.part"))?;
        let size = incoming.join("0.part").metadata()?.len();
        return Ok((release, source, size));
    }
    progress.note("unpacking");
    let made = entry.make(&pin, |root| archive::unpack(&[part], root));
    cache::remove_all(&entry.incoming())?;
    made?;
    let manifest = entry.manifest()?;
    match manifest.release {
        Some(release) => Ok((release, source, manifest.size)),
        None => bail!("{name}: the image names no release; write this pin by hand"),
    }
}
