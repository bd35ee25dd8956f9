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
    /// Kernels and saved snapshots: `$VMTEST_CACHE_DIR`, else `vmtest` in the user's cache directory.
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
        match metadata.exec() {
            Ok(found) => {
                Ok(Self { project: found.workspace_root.into(), target: found.target_directory.into(), cache })
            }
            Err(error)
                if !matches!(error, Error::Io(_)) && here.ancestors().any(|dir| dir.join("Cargo.toml").exists()) =>
            {
                Err(error).context("cargo cannot read this project")
            }
            // Kernels can be fetched where there is no cargo.
            Err(_) => Ok(Self { project: here, target: cache.join("no-project"), cache }),
        }
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
    fn outside_of_a_project_the_target_directory_is_below_the_cache() {
        let here = tempfile::tempdir().unwrap();
        let cache = here.path().join("cache");
        let dirs = Dirs::around(here.path().to_owned(), cache.clone()).unwrap();
        assert_eq!(dirs.project, here.path());
        assert!(dirs.target.starts_with(cache));
    }

    #[test]
    fn a_project_is_found_from_below_and_one_that_cargo_cannot_read_is_an_error() {
        let project = tempfile::tempdir().unwrap();
        let (manifest, below) = (project.path().join("Cargo.toml"), project.path().join("src"));
        std::fs::create_dir(&below).unwrap();
        std::fs::write(below.join("lib.rs"), "").unwrap();
        std::fs::write(&manifest, "[package]\nname = 'p'\n").unwrap();
        let dirs = Dirs::around(below.clone(), "/cache".into()).unwrap();
        assert_eq!(dirs.project, project.path());
        std::fs::write(&manifest, "[package").unwrap();
        let error = Dirs::around(below, "/cache".into()).unwrap_err();
        assert!(format!("{error:#}").contains("cargo cannot read this project: "), "{error:#}");
    }
}
