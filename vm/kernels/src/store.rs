//! Where things are on this machine. Data only; what is done with it is in [`crate::cache`] and [`crate::obtain`].

use std::path::PathBuf;

use url::Url;

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
