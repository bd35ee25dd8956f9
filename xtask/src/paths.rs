//! Where things are: the workspace, its target directory, the user's cache.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use etcetera::BaseStrategy;

/// The workspace's root directory.
pub fn workspace() -> &'static Path {
    // This crate is a direct child of the workspace; the parent exists as long as it does.
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// What cargo builds goes here, and everything of the harness's own that is not worth keeping.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => std::path::absolute(&dir).unwrap_or(dir.into()),
        None => workspace().join("target"),
    }
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
