//! `cargo xtask kernels add`: fetches a kernel, hashes it, reads its release, and pins it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use toml_edit::{ArrayOfTables, DocumentMut, Item, Table, value};
use url::Url;

use super::show::{self, Board};
use crate::exit::{self, Exit};
use crate::kernels::cache::{Entry, Origin};
use crate::kernels::digest::Pinned;
use crate::kernels::download::Address;
use crate::kernels::pins::{self, Pin, Place, Source};
use crate::kernels::{self, Expected, Progress, cache};
use crate::paths;
use vm_kernels::lock::{self, How};

/// What the pin says until somebody knows better.
const WHY: &str = "added with `cargo xtask kernels add`";

/// Runs the command.
pub fn run(name: &str, from: &str) -> Result<u8> {
    let path = kernels::file();
    read(&path, name)?;
    pins::check_new_name(name).map_err(Exit::usage)?;
    let given = Given::parse(from)?;
    let board = Board::new(std::iter::once(name));
    let line = board.line(name);
    let (release, source, size) = store(name, &given, &line)?;
    drop(line);
    pin(&path, name, &release, &source)?;
    println!("{name}: pinned {release}, {}, in {}", show::size(size), path.display());
    println!("Say there, under `why`, what this kernel is for.");
    if let Place::File(file, _) = &source.place {
        if file.is_absolute() {
            println!(
                "{} is outside of the workspace: other machines will refuse this pin.",
                file.display()
            );
        }
    }
    Ok(exit::OK)
}

/// The text of the pins, of which none has this name yet.
fn read(path: &Path, name: &str) -> Result<String> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        text => text.with_context(|| format!("cannot read the pins in {}", path.display()))?,
    };
    if kernels::parse(&text, path)?.iter().any(|pin| pin.name == name) {
        return Err(Exit::usage(format!("{name} is pinned already, in {}", path.display())));
    }
    Ok(text)
}

/// Adds the pin to the file as it is now: fetching takes minutes, in which others may have changed it.
fn pin(path: &Path, name: &str, release: &str, source: &Source) -> Result<()> {
    let dir = directory(path);
    let _alone = lock::existing(dir, How::LockExclusive)
        .with_context(|| format!("cannot lock {}", dir.display()))?;
    let text = with_pin(&read(path, name)?, name, release, source)?;
    // What is written must be readable: better to find out here than at the next command.
    kernels::parse(&text, path).context("the new list of pins is wrong; it was not written")?;
    write(path, &text)
}

fn directory(file: &Path) -> &Path {
    file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// What the user named.
enum Given {
    Url(Url),
    File(PathBuf),
}

impl Given {
    fn parse(text: &str) -> Result<Self> {
        if text.contains("://") {
            let url = Url::parse(text).map_err(|error| Exit::usage(format!("{text}: {error}")))?;
            if url.scheme() != "https" {
                return Err(Exit::usage(format!("{text}: expected an https address")));
            }
            return Ok(Self::Url(url));
        }
        let path = Path::new(text).canonicalize();
        let path = path.map_err(|error| Exit::usage(format!("{text}: {error}")))?;
        if !path.is_file() {
            let hint =
                "expected a file: an image, a .deb or a tar archive; a directory works with -k";
            return Err(Exit::usage(format!("{text}: {hint}")));
        }
        Ok(Self::File(path.strip_prefix(paths::workspace()).map_or(path.clone(), Path::to_owned)))
    }

    fn address(&self) -> Result<Address> {
        let url = match self {
            Self::Url(url) => url.clone(),
            Self::File(path) => kernels::file_address(&paths::workspace().join(path))?,
        };
        Ok(Address { url, proxy: None })
    }

    fn place(&self, pinned: Pinned) -> Place {
        match self {
            Self::Url(url) => Place::Url(url.clone(), pinned),
            Self::File(path) => Place::File(path.clone(), pinned),
        }
    }
}

/// Fetches the kernel into the cache, where `fetch` would put it; returns its release, its source and its size.
fn store(name: &str, given: &Given, progress: &dyn Progress) -> Result<(String, Source, u64)> {
    let address = given.address()?;
    let dir = cache::scratch(&kernels::store()?.cache, name)?;
    let part = dir.path().join("0.part");
    progress.note(&format!("fetching {}", address.url));
    crate::kernels::download::download(&address, &part, progress)
        .map_err(|error| anyhow::anyhow!("{}: {error}", address.url))?;
    let measured = crate::kernels::digest::measure(&part)?;
    let pinned = Pinned { sha256: Some(measured.sha256.clone()), sha1: None };
    let source = Source {
        place: given.place(pinned),
        release: None,
        arch: Some(std::env::consts::ARCH.to_owned()),
    };
    let pin = Pin {
        name: name.to_owned(),
        expected: Expected::Any,
        why: WHY.to_owned(),
        sources: vec![source.clone()],
    };
    let entry =
        Entry::of(&kernels::store()?.cache, &pin, &source).context("a source without a hash")?;
    let _lock = entry.lock(|| progress.note("another run is fetching it; waiting"))?;
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
    let pinned = match &source.place {
        Place::Url(url, pinned) => {
            table["url"] = value(url.as_str());
            pinned
        }
        Place::File(path, pinned) => {
            table["path"] = value(path.to_str().context("a path that is not UTF-8")?);
            pinned
        }
        Place::Nix | Place::Debian(_) => bail!("only a file or an address can be added"),
    };
    if let Some(sha256) = &pinned.sha256 {
        table["sha256"] = value(sha256.as_str());
    }
    if source.arch.as_deref().is_some_and(|arch| arch != pins::DEFAULT_ARCH) {
        table["arch"] = value(source.arch.as_deref().unwrap_or_default());
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
