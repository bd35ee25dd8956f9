//! What was asked for: a pin by its name, or a kernel of the user's own at a path.

use std::io;
use std::path::{Path, PathBuf};

use super::obtain::{self, Unavailable};
use super::pins::Pin;
use super::progress::Progress;
use super::{Expected, Kernel, Store, image, tree};

/// A kernel that was asked for, and where it is looked for.
#[derive(Debug, Clone)]
pub struct Target {
    store: Store,
    kind: Kind,
    /// Other pins of the same series, which do when this one cannot be had.
    others: Vec<String>,
}

#[derive(Debug, Clone)]
enum Kind {
    /// One of the list.
    Pin(Pin),
    /// A kernel of the user's own, known to be one.
    Path { given: String, tree: tree::Tree },
}

/// What was asked for is no kernel.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    /// Neither a pin nor a path has this name.
    #[error("unknown kernel {wanted:?}: {}; the pins are {}", why(.error), .pins.join(", "))]
    Unknown {
        /// The name.
        wanted: String,
        /// The names that would do.
        pins: Vec<String>,
        /// Why it is no path.
        error: io::Error,
    },
    /// A directory without an image.
    #[error(
        "{}: there is no kernel image in this directory; looked for bzImage, vmlinuz*, boot/vmlinuz-*, \
         arch/x86/boot/bzImage and lib/modules/*/vmlinuz",
        .0.display()
    )]
    NoImage(PathBuf),
    /// A file that is no image.
    #[error("{}: {error:#}", .path.display())]
    NotAnImage {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        error: anyhow::Error,
    },
}

fn why(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no pin and no file has this name".to_owned(),
        _ => format!("no pin has this name, and as a path: {error}"),
    }
}

/// Finds what was asked for: pins' names, images, directories; every pin that is not extra if nothing was.
///
/// # Errors
///
/// For a name that is neither a pin nor a path, and for a path that is no kernel.
pub fn select(store: &Store, pins: &[Pin], wanted: &[String]) -> Result<Vec<Target>, SelectError> {
    let target = |kind| Target { store: store.clone(), others: others(&kind, pins), kind };
    if wanted.is_empty() {
        let pins = pins.iter().filter(|pin| !pin.extra).cloned();
        return Ok(pins.map(|pin| target(Kind::Pin(pin))).collect());
    }
    let mut targets: Vec<Target> = Vec::with_capacity(wanted.len());
    for name in wanted {
        if targets.iter().all(|target| target.name() != name) {
            targets.push(target(find(name, pins)?));
        }
    }
    Ok(targets)
}

/// The names of the other pins of the same series.
fn others(kind: &Kind, pins: &[Pin]) -> Vec<String> {
    let Kind::Pin(this) = kind else { return Vec::new() };
    let others = pins.iter().filter(|pin| pin.name != this.name && series(pin) == series(this));
    others.map(|pin| pin.name.clone()).collect()
}

/// The two numbers with which a pin's release begins.
fn series(pin: &Pin) -> Vec<&str> {
    let release = match &pin.expected {
        Expected::Exact(release) | Expected::Series(release) => release,
        Expected::Any => "",
    };
    release.split('.').take(2).collect()
}

fn find(wanted: &str, pins: &[Pin]) -> Result<Kind, SelectError> {
    if let Some(pin) = pins.iter().find(|pin| pin.name == wanted) {
        return Ok(Kind::Pin(pin.clone()));
    }
    let path = Path::new(wanted);
    let tree = match path.metadata() {
        Ok(metadata) if metadata.is_dir() => tree::find(path).ok_or_else(|| SelectError::NoImage(path.to_owned()))?,
        Ok(_) => tree::around(path),
        Err(error) => {
            let pins = pins.iter().map(|pin| pin.name.clone()).collect();
            return Err(SelectError::Unknown { wanted: wanted.to_owned(), pins, error });
        }
    };
    image::inspect(&tree.image).map_err(|error| SelectError::NotAnImage { path: tree.image.clone(), error })?;
    Ok(Kind::Path { given: wanted.to_owned(), tree })
}

impl Target {
    /// What the user called it.
    pub fn name(&self) -> &str {
        match &self.kind {
            Kind::Pin(pin) => &pin.name,
            Kind::Path { given, .. } => given,
        }
    }

    /// The pin, if it is one.
    pub fn pin(&self) -> Option<&Pin> {
        match &self.kind {
            Kind::Pin(pin) => Some(pin),
            Kind::Path { .. } => None,
        }
    }

    /// Whether it can be had without a network.
    pub fn at_hand(&self) -> bool {
        self.pin().is_none_or(|pin| obtain::at_hand(&self.store, pin))
    }

    /// Gets it: fetches, verifies, unpacks and caches what is not here. Several threads and processes may do so
    /// at once; what one fetches the others wait for and use.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] names each source that was tried and why it failed.
    pub fn obtain(&self, progress: &dyn Progress) -> Result<Kernel, Unavailable> {
        match &self.kind {
            Kind::Pin(pin) => obtain::pin(&self.store, pin, progress).map_err(|mut error| {
                if !self.others.is_empty() {
                    let others = self.others.join(", ");
                    error.attempts.push(format!("other builds of this series are pinned as {others}"));
                }
                error
            }),
            Kind::Path { given, tree } => own(&self.store, given, tree).map_err(|error| Unavailable {
                reason: format!("kernel {given} cannot be used: {error:#}"),
                attempts: Vec::new(),
            }),
        }
    }
}

fn own(store: &Store, given: &str, tree: &tree::Tree) -> anyhow::Result<Kernel> {
    let absolute = |path: &Path| std::path::absolute(path);
    let tree = tree::Tree {
        image: absolute(&tree.image)?,
        modules: tree.modules.as_deref().map(absolute).transpose()?,
        config: tree.config.as_deref().map(absolute).transpose()?,
    };
    obtain::from_tree(store, tree, given.to_owned(), Expected::Any, "path")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{Silent, fake, pins};

    fn chosen(wanted: &[&str]) -> Result<Vec<Target>, SelectError> {
        let cache = std::env::temp_dir().join("vm-kernels-no-such-cache");
        let store = Store { cache, project: "/".into(), nix: None, debian_archive: None };
        let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
        select(&store, &pins::built_in(), &wanted)
    }

    #[test]
    fn a_path_is_a_kernel_or_wrong_usage() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("bzImage");
        std::fs::write(&image, fake::bzimage("6.9.0-mine", None)).unwrap();
        std::fs::write(dir.path().join(".config"), "CONFIG_PCI=y\n").unwrap();
        let at = |path: &Path| chosen(&[path.to_str().unwrap()]);
        for path in [&image, &dir.path().to_owned()] {
            let target = at(path).unwrap().remove(0);
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
        let error = at(&image).unwrap_err();
        assert!(error.to_string().contains("it is an ELF file"), "{error}");
        std::fs::remove_file(&image).unwrap();
        assert!(at(dir.path()).unwrap_err().to_string().contains("no kernel image"));
        assert!(at(&image).unwrap_err().to_string().contains("the pins are 5.4, 5.10"));
    }

    #[test]
    fn a_kernel_asked_for_twice_is_one() {
        let targets = chosen(&["6.1", "5.4", "6.1"]).unwrap();
        assert_eq!(targets.iter().map(Target::name).collect::<Vec<_>>(), ["6.1", "5.4"]);
    }
}
