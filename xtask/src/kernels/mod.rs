//! Kernels: which are pinned, where they come from, and getting them onto this machine.

pub mod command;

use std::collections::BTreeMap;
use std::path::PathBuf;

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
