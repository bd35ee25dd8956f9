//! What a kernel is, once it is here.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::Arch;
use super::digest::Sha256Hex;

/// Option (`CONFIG_BPF`) to value (`y`, `m`, a number, a quoted string); an option that is not set is not there.
pub type Config = BTreeMap<String, String>;

/// A kernel that is on this machine, verified, unpacked and ready to boot.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// What it was asked for as: the pin's name, or the path that was given with `-k`.
    pub name: String,
    /// What it runs on.
    pub arch: &'static Arch,
    /// The bootable image (bzImage, Image).
    pub image: PathBuf,
    /// The image's hash, of a kernel that is held to one whenever it is used.
    pub sha256: Option<Sha256Hex>,
    /// `…/lib/modules/<release>`, for a kernel that has modules.
    pub modules: Option<PathBuf>,
    /// What `uname -r` must say in the guest.
    pub expected: Expected,
    /// The release that the image itself names in its header, where it could be read.
    pub release: Option<String>,
    /// The kernel's configuration, where it could be found.
    pub config: Option<Config>,
    /// Which source it came from, for a person: its kind, `nix`, or `path`.
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
