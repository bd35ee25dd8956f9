//! Where things are: the project, its target directory, the user's cache.

use std::path::PathBuf;

use anyhow::{Context, Result};
use cargo_metadata::{Error, MetadataCommand};
use etcetera::BaseStrategy;

/// The directories of one run; found once, and passed to whatever needs them.
#[derive(Debug, Clone)]
pub struct Dirs {
    /// The root of the cargo workspace that the current directory is in.
    pub project: PathBuf,
    /// What cargo builds goes here, and everything of the harness's own that is not worth keeping.
    pub target: PathBuf,
    /// Kernels and snapshots: `$VMTEST_CACHE_DIR`, else `vmtest` in the user's cache directory.
    pub cache: PathBuf,
}

impl Dirs {
    /// Asks cargo about the current directory. Outside of a cargo project, and without cargo, that directory is the
    /// project, and its target directory is below the cache.
    pub fn find() -> Result<Self> {
        Self::around(std::env::current_dir().context("cannot find the working directory")?, cache()?)
    }

    fn around(here: PathBuf, cache: PathBuf) -> Result<Self> {
        let mut metadata = MetadataCommand::new();
        metadata.current_dir(&here).no_deps().other_options(["--offline".to_owned()]);
        let is_project = || here.ancestors().any(|dir| dir.join("Cargo.toml").exists());
        let (project, target) = match metadata.exec() {
            Ok(found) => (found.workspace_root.into(), found.target_directory.into()),
            Err(error) if !matches!(error, Error::Io(_)) && is_project() => {
                return Err(error).context("cargo cannot read this project");
            }
            // Kernels can be fetched where there is no cargo.
            Err(_) => (here, cache.join("no-project")),
        };
        Ok(Self { project, target, cache })
    }

    /// The current directory, or the project's if that is elsewhere.
    pub fn here(&self) -> PathBuf {
        let here = std::env::current_dir().ok().filter(|here| here.starts_with(&self.project));
        here.unwrap_or_else(|| self.project.clone())
    }

    /// Where each VM run has its directory.
    pub fn runs(&self) -> PathBuf {
        self.target.join("vmtest/runs")
    }
}

fn cache() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("VMTEST_CACHE_DIR").filter(|dir| !dir.is_empty()) {
        return std::path::absolute(dir).context("VMTEST_CACHE_DIR is not a usable path");
    }
    let base = etcetera::choose_base_strategy().context("no cache directory: set HOME or VMTEST_CACHE_DIR")?;
    Ok(base.cache_dir().join("vmtest"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn project_found_from_subdirectory_broken_manifest_is_error() {
        let project = tempfile::tempdir().unwrap();
        let (manifest, below) = (project.path().join("Cargo.toml"), project.path().join("src"));
        let around = || Dirs::around(below.clone(), "/cache".into());
        std::fs::create_dir(&below).unwrap();
        std::fs::write(below.join("lib.rs"), "").unwrap();
        let dirs = around().unwrap();
        assert_eq!((dirs.project, dirs.target), (below.clone(), "/cache/no-project".into()));
        std::fs::write(&manifest, "[package]\nname = 'p'\n").unwrap();
        assert_eq!(around().unwrap().project, project.path());
        std::fs::write(&manifest, "[package").unwrap();
        let error = format!("{:#}", around().unwrap_err());
        assert!(error.contains("cargo cannot read this project: "), "{error}");
    }
}
