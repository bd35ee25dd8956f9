//! Where things are: the workspace, its target directory, the user's cache.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use anyhow::{Context, Result};
use etcetera::BaseStrategy;

/// The workspace's root directory.
pub fn workspace() -> &'static Path {
    static WORKSPACE: LazyLock<PathBuf> = LazyLock::new(|| {
        // This crate is a direct child of the workspace; the parent exists as long as it does.
        let built_in = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
        std::env::current_exe()
            .ok()
            .and_then(|exe| checkout_of(&exe))
            .unwrap_or_else(|| built_in.to_owned())
    });
    &WORKSPACE
}

/// The checkout in whose target directory a program is. To cargo the build in a copied checkout is as fresh as that in
/// the original, where it was made.
fn checkout_of(exe: &Path) -> Option<PathBuf> {
    let target = exe.ancestors().nth(2).filter(|dir| dir.ends_with("target"))?;
    let checkout = target.parent()?;
    let is_one =
        ["xtask/Cargo.toml", "vm/kernels/kernels.toml"].map(|file| checkout.join(file).is_file());
    (is_one == [true; 2]).then(|| checkout.to_owned())
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_program_in_a_copied_checkout_belongs_to_the_copy() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        assert_eq!(checkout_of(&file("target/debug/xtask")), None);
        for name in ["xtask/Cargo.toml", "vm/kernels/kernels.toml"] {
            std::fs::create_dir_all(file(name).parent().unwrap()).unwrap();
            std::fs::write(file(name), "").unwrap();
        }
        assert_eq!(checkout_of(&file("target/debug/xtask")).as_deref(), Some(dir.path()));
        // Another checkout's target directory may be below this one's.
        assert_eq!(checkout_of(&file("target/tmp/other/debug/xtask")), None);
        assert_eq!(checkout_of(&file("xtask")), None);
    }
}
