//! `cargo xtask kernels add`: fetches a kernel or its source, hashes it, reads its release, and pins it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use toml_edit::{ArrayOfTables, DocumentMut, Item, Table, value};
use url::Url;

use super::show::{self, Board};
use crate::dirs::Dirs;
use crate::exit::{self, Exit};
use crate::kernels::cache::{Entry, Origin};
use crate::kernels::digest::Sha256Hex;
use crate::kernels::download::Address;
use crate::kernels::pins::{self, Pin, Source};
use crate::kernels::{self, Expected, Progress, cache};
use crate::kernels::{ARCHES, Arch};
use vm_kernels::lock::{self, How};

/// What the pin says until somebody knows better.
const WHY: &str = "added with `kernels add`";

/// Runs the command.
pub fn run(dirs: &Dirs, name: &str, from: &str) -> Result<u8> {
    let path = kernels::file(dirs);
    read(dirs, &path, name)?;
    pins::check_name(name).map_err(Exit::usage)?;
    let given = Given::parse(dirs, from)?;
    let board = Board::new(std::iter::once(name));
    let line = board.line(name);
    let (release, source, size) = store(dirs, name, &given, &line)?;
    drop(line);
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
    let text = with_pin(&read(dirs, path, name)?, name, release, source)?;
    // What is written must be readable: better to find out here than at the next command.
    kernels::parse(dirs, &text, path).context("the new list of pins is wrong; it was not written")?;
    write(path, &text)
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

    fn address(&self, dirs: &Dirs) -> Result<Address> {
        let url = match self {
            Self::Release(release) => tarball(release)?,
            Self::Url(url) => url.clone(),
            Self::File(path) => kernels::file_address(&dirs.project.join(path))?,
        };
        Ok(Address { url, proxy: None })
    }

    fn source(&self, sha256: Sha256Hex) -> Result<Source> {
        Ok(match self {
            Self::Release(release) => Source::Source { url: tarball(release)?, sha256 },
            Self::Url(url) => Source::Url { url: url.clone(), sha256 },
            Self::File(path) => Source::File { path: path.clone(), sha256 },
        })
    }
}

/// Where kernel.org has a release, for good.
fn tarball(release: &str) -> Result<Url> {
    let major = release.split('.').next().unwrap_or_default();
    let dir = "https://cdn.kernel.org/pub/linux/kernel";
    Ok(Url::parse(&format!("{dir}/v{major}.x/linux-{release}.tar.xz"))?)
}

/// Fetches the kernel into the cache, where `fetch` would put it; returns its release, its source and its size.
fn store(dirs: &Dirs, name: &str, given: &Given, progress: &dyn Progress) -> Result<(String, Source, u64)> {
    let address = given.address(dirs)?;
    let dir = cache::scratch(&kernels::store(dirs)?.cache, name)?;
    let part = dir.path().join("0.part");
    progress.note(&format!("fetching {}", address.url));
    crate::kernels::download::download(&address, &part, progress)
        .map_err(|error| anyhow::anyhow!("{}: {error}", address.url))?;
    let measured = crate::kernels::digest::measure(&part)?;
    let source = given.source(measured.sha256.clone())?;
    let pin = Pin {
        name: name.to_owned(),
        arch: Arch::host(),
        expected: Expected::Any,
        why: WHY.to_owned(),
        extra: false,
        sources: vec![source.clone()],
    };
    let entry = Entry::of(&kernels::store(dirs)?.cache, &pin, &source);
    let _lock = entry.lock(|| progress.note("another run is fetching it; waiting"))?;
    if let Given::Release(release) = given {
        // `fetch` finds it there, and builds it.
        let incoming = entry.incoming();
        std::fs::create_dir_all(&incoming)?;
        std::fs::rename(&part, incoming.join("0.part"))?;
        return Ok((release.clone(), source, measured.size));
    }
    progress.note("unpacking");
    let origin = vec![Origin { url: address.url.to_string(), measured }];
    let made = entry.make(&pin, &source, &[part], origin);
    cache::remove_all(&entry.incoming())?;
    made?;
    let manifest = entry.manifest()?;
    match manifest.release {
        Some(release) => Ok((release, source, manifest.size)),
        None => bail!("{name}: the image names no release; write this pin by hand"),
    }
}

/// The text with the pin at its end; what is there, comments included, stays as it is.
fn with_pin(text: &str, name: &str, release: &str, source: &Source) -> Result<String> {
    let mut pin = Table::new();
    pin["name"] = value(name);
    pin["release"] = value(release);
    pin["why"] = value(WHY);
    pin["source"] = array_of(source_table(source)?);
    let mut added = DocumentMut::new();
    added["kernel"] = array_of(pin);
    let gap = if text.is_empty() || text.ends_with("\n\n") { "" } else { "\n" };
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    Ok(format!("{text}{end}{gap}{added}"))
}

fn array_of(table: Table) -> Item {
    let mut array = ArrayOfTables::new();
    array.push(table);
    Item::ArrayOfTables(array)
}

fn source_table(source: &Source) -> Result<Table> {
    let mut table = Table::new();
    table["kind"] = value(source.kind());
    match source {
        Source::Url { url, .. } | Source::Source { url, .. } => table["url"] = value(url.as_str()),
        Source::File { path, .. } => {
            table["path"] = value(path.to_str().context("a path that is not UTF-8")?);
        }
        Source::Debian { .. } => bail!("only a release, a file or an address can be added"),
    }
    for pinned in source.pinned() {
        table["sha256"] = value(pinned.sha256.as_str());
    }
    if !matches!(source, Source::Source { .. }) && Arch::host() != &ARCHES[0] {
        table["arch"] = value(Arch::host().name);
    }
    Ok(table)
}

fn write(path: &Path, text: &str) -> Result<()> {
    let context = || format!("cannot write {}", path.display());
    let mut file = tempfile::NamedTempFile::new_in(directory(path)).with_context(context)?;
    std::io::Write::write_all(&mut file, text.as_bytes()).with_context(context)?;
    // A new list is for others to read, which a temporary file is not.
    let permissions = std::fs::metadata(path).map(|metadata| metadata.permissions());
    let permissions = permissions.unwrap_or(std::fs::Permissions::from_mode(0o644));
    file.as_file().set_permissions(permissions)?;
    file.persist(path).with_context(context)?;
    Ok(())
}
