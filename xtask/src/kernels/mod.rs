//! Kernels: which are pinned, where they come from, and getting them onto this machine.

mod archive;
mod cache;
pub mod command;
mod debian;
mod digest;
pub mod direct;
mod download;
mod image;
pub mod kconfig;
pub mod modules;
mod obtain;
mod pins;
mod progress;
mod tree;

#[cfg(test)]
#[path = "../../tests/kernels/fake.rs"]
#[allow(dead_code, clippy::unwrap_used)]
mod fake;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::exit::Exit;

pub use digest::sha256_file;
pub use obtain::Unavailable;
pub use pins::Pin;
pub use progress::{Progress, Silent};

/// A kernel that is on this machine, verified, unpacked and ready to boot.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// The pin's name, or the path that was given with `-k`.
    pub name: String,
    /// The bootable image (bzImage).
    pub image: PathBuf,
    /// `…/lib/modules/<release>`, for a kernel that has modules.
    pub modules: Option<PathBuf>,
    /// What `uname -r` must say in the guest.
    pub expected: Expected,
    /// The release that the image itself names in its header, where it could be read.
    pub release: Option<String>,
    /// The kernel's configuration, where it could be found: option (`CONFIG_BPF`) to value (`y`, `m`, …).
    pub config: Option<BTreeMap<String, String>>,
    /// Which source it came from, for a person: `debian`, `nix`, `url`, `path`.
    pub source: String,
}

/// The release that a kernel must boot as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// Exactly this `uname -r`.
    Exact(String),
    /// A `uname -r` that starts with this, such as `5.15.`.
    Series(String),
    /// Whatever it is: a path given with `-k`.
    Any,
}

impl Expected {
    /// Whether a kernel that calls itself `release` is the one that was asked for.
    pub fn accepts(&self, release: &str) -> bool {
        match self {
            Self::Exact(exact) => release == exact,
            Self::Series(prefix) => release.starts_with(prefix.as_str()),
            Self::Any => true,
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(release) => f.write_str(release),
            Self::Series(prefix) => write!(f, "{prefix}x"),
            Self::Any => f.write_str("any release"),
        }
    }
}

/// A kernel that was asked for.
#[derive(Debug, Clone)]
pub enum Target {
    /// One of `vm/kernels.toml`.
    Pin(Pin),
    /// A kernel of the user's own, known to be one.
    Path(PathTarget),
}

/// A kernel at a path that was given with `-k`.
#[derive(Debug, Clone)]
pub struct PathTarget {
    given: String,
    tree: tree::Tree,
}

/// The pins of this workspace.
pub fn pinned() -> Result<Vec<Pin>> {
    pins::load()
}

/// Changes whenever the kernel that a pin gives may change.
pub fn cache_key(pin: &Pin) -> Result<String> {
    let mut identity = String::new();
    for source in &pin.sources {
        if let Some(entry) = cache::Entry::of(pin, source)? {
            identity += entry.name();
        }
    }
    Ok(format!("{}-{}", pin.name, &digest::sha256(identity.as_bytes()).as_str()[..16]))
}

/// Finds what was asked for with `-k`: pins' names, images, directories; every pin if nothing was.
///
/// # Errors
///
/// [`Exit::usage`] for a name that is neither a pin nor a path, and for a path that is no kernel.
pub fn select(wanted: &[String]) -> Result<Vec<Target>> {
    let pins = pins::load()?;
    if wanted.is_empty() {
        return Ok(pins.into_iter().map(Target::Pin).collect());
    }
    let mut targets: Vec<Target> = Vec::with_capacity(wanted.len());
    for name in wanted {
        if targets.iter().all(|target| target.name() != name) {
            targets.push(target(name, &pins)?);
        }
    }
    Ok(targets)
}

fn target(wanted: &str, pins: &[Pin]) -> Result<Target> {
    if let Some(pin) = pins.iter().find(|pin| pin.name == wanted) {
        return Ok(Target::Pin(pin.clone()));
    }
    let path = Path::new(wanted);
    let tree = match path.metadata() {
        Ok(metadata) if metadata.is_dir() => tree::find(path).ok_or_else(|| {
            Exit::usage(format!(
                "{wanted}: there is no kernel image in this directory; looked for bzImage, vmlinuz*, \
                 boot/vmlinuz-*, arch/x86/boot/bzImage and lib/modules/*/vmlinuz"
            ))
        })?,
        Ok(_) => tree::around(path),
        Err(error) => return Err(unknown(wanted, pins, &error)),
    };
    image::inspect(&tree.image)
        .map_err(|error| Exit::usage(format!("{}: {error:#}", tree.image.display())))?;
    Ok(Target::Path(PathTarget { given: wanted.to_owned(), tree }))
}

fn unknown(wanted: &str, pins: &[Pin], error: &std::io::Error) -> anyhow::Error {
    let names = pins.iter().map(|pin| pin.name.as_str()).collect::<Vec<_>>().join(", ");
    let why = match error.kind() {
        std::io::ErrorKind::NotFound => "no pin and no file has this name".to_owned(),
        _ => format!("no pin has this name, and as a path: {error}"),
    };
    Exit::usage(format!("unknown kernel {wanted:?}: {why}; the pins are {names}"))
}

impl Target {
    /// What the user called it.
    pub fn name(&self) -> &str {
        match self {
            Self::Pin(pin) => &pin.name,
            Self::Path(path) => &path.given,
        }
    }

    /// Whether it can be had without a network.
    pub fn at_hand(&self) -> bool {
        match self {
            Self::Pin(pin) => obtain::at_hand(pin),
            Self::Path(_) => true,
        }
    }

    /// Gets it: fetches, verifies, unpacks and caches what is not here. Several threads and processes may do so
    /// at once; what one fetches the others wait for and use.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] names each source that was tried and why it failed.
    pub fn obtain(&self, progress: &dyn Progress) -> Result<Kernel, Unavailable> {
        match self {
            Self::Pin(pin) => obtain::pin(pin, progress),
            Self::Path(path) => path.kernel().map_err(|error| Unavailable {
                reason: format!("kernel {} cannot be used: {error:#}", path.given),
                attempts: Vec::new(),
            }),
        }
    }
}

impl PathTarget {
    fn kernel(&self) -> Result<Kernel> {
        let absolute = |path: &Path| std::path::absolute(path);
        let tree = tree::Tree {
            image: absolute(&self.tree.image)?,
            modules: self.tree.modules.as_deref().map(absolute).transpose()?,
            config: self.tree.config.as_deref().map(absolute).transpose()?,
        };
        obtain::from_tree(tree, self.given.clone(), Expected::Any, "path")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn expected_releases() {
        let series = Expected::Series("5.15.".into());
        assert!(series.accepts("5.15.135"));
        assert!(!series.accepts("5.150.1"));
        assert!(!Expected::Exact("6.1.0-47-amd64".into()).accepts("6.1.0-47-amd64-rt"));
        assert!(Expected::Any.accepts("anything"));
    }

    #[test]
    fn a_path_is_a_kernel_or_wrong_usage() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("bzImage");
        std::fs::write(&image, fake::bzimage("6.9.0-mine", None)).unwrap();
        std::fs::write(dir.path().join(".config"), "CONFIG_PCI=y\n").unwrap();
        let chosen = |path: &Path| select(&[path.to_str().unwrap().to_owned()]);
        for path in [&image, &dir.path().to_owned()] {
            let target = chosen(path).unwrap().remove(0);
            assert!(target.at_hand());
            assert_eq!(target.name(), path.to_str().unwrap());
            let kernel = target.obtain(&Silent).unwrap();
            assert_eq!(kernel.image, image);
            assert_eq!(kernel.release.as_deref(), Some("6.9.0-mine"));
            assert_eq!(kernel.expected, Expected::Any);
            assert_eq!(kernel.config.unwrap()["CONFIG_PCI"], "y");
            assert_eq!(kernel.modules, None);
        }
        std::fs::write(&image, b"\x7fELF").unwrap();
        let error = chosen(&image).unwrap_err();
        assert_eq!(crate::exit::code_of(&error), crate::exit::USAGE);
        assert!(error.to_string().contains("it is an ELF file"), "{error}");
        std::fs::remove_file(&image).unwrap();
        assert!(chosen(dir.path()).unwrap_err().to_string().contains("no kernel image"));
        assert!(chosen(&image).unwrap_err().to_string().contains("the pins are 5.4, 5.10"));
    }

    #[test]
    fn a_kernel_asked_for_twice_is_one() {
        let names: Vec<_> = ["6.1", "5.4", "6.1"].map(str::to_owned).into();
        let targets = select(&names).unwrap();
        assert_eq!(targets.iter().map(Target::name).collect::<Vec<_>>(), ["6.1", "5.4"]);
    }
}
