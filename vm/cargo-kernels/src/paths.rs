//! Where things are: the workspace, its target directory, the user's cache.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use anyhow::{Context, Result};
use etcetera::BaseStrategy;

/// The workspace's root directory: of the project that the current directory is in.
pub fn workspace() -> &'static Path {
    &project().0
}

/// What cargo builds goes here, and everything of the harness's own that is not worth keeping.
pub fn target() -> PathBuf {
    project().1.clone()
}

/// The project's root and target directory, as cargo says; outside a project the current directory.
fn project() -> &'static (PathBuf, PathBuf) {
    static PROJECT: LazyLock<(PathBuf, PathBuf)> = LazyLock::new(|| {
        match cargo_metadata::MetadataCommand::new()
            .no_deps()
            .other_options(["--offline".to_owned()])
            .exec()
        {
            Ok(metadata) => (metadata.workspace_root.into(), metadata.target_directory.into()),
            Err(_) => (PathBuf::from("."), PathBuf::from("target")),
        }
    });
    &PROJECT
}

/// Where each VM run has its directory.
pub fn runs() -> PathBuf {
    target().join("vmtest/runs")
}

/// Kernels and saved states: `$VMTEST_CACHE_DIR`, else `vmtest` in the user's cache directory.
pub fn cache() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("VMTEST_CACHE_DIR").filter(|dir| !dir.is_empty()) {
        return std::path::absolute(dir).context("VMTEST_CACHE_DIR is not a usable path");
    }
    let base = etcetera::choose_base_strategy()
        .context("no cache directory: set HOME or VMTEST_CACHE_DIR")?;
    Ok(base.cache_dir().join("vmtest"))
}
