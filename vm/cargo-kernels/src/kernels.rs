//! Kernels as this workspace has them: `vm-kernels` with this machine's directories, this project's own list of pins,
//! and exit codes.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use url::Url;

use crate::dirs::Dirs;
use crate::error::Error;
use crate::metadata::Metadata;
use crate::ui::Line;

pub use vm_kernels::{
    ARCHES, Arch, Expected, Kernel, NIX_VARIABLE, Pin, Progress, Silent, Store, Target, cache, digest, download,
    kconfig, modules, obtain, pins, sha256_file,
};

/// Another list of pins than the built-in one and the project's, for trying one out and for tests.
const FILE_VARIABLE: &str = "VMTEST_KERNELS_TOML";
/// Another place than Debian's that serves files by hash, for hosts that cannot reach it; https only.
const ARCHIVE_VARIABLE: &str = "VMTEST_DEBIAN_ARCHIVE";

/// A variable's value, unless it is empty.
pub(crate) fn variable(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The cache, the project, and what the environment names.
pub fn store(dirs: &Dirs) -> Result<Store> {
    let debian_archive = variable(ARCHIVE_VARIABLE).map(|base| archive(&base.to_string_lossy())).transpose()?;
    let (cache, project) = (dirs.cache.clone(), dirs.project.clone());
    Ok(Store { cache, project, nix: variable(NIX_VARIABLE).map(PathBuf::from), debian_archive })
}

fn archive(base: &str) -> Result<Url> {
    // Without the slash a file's name would replace the last part.
    let url = Url::parse(&format!("{}/", base.trim_end_matches('/')))
        .with_context(|| format!("{ARCHIVE_VARIABLE}={base}"))?;
    ensure!(url.scheme() == "https", "{ARCHIVE_VARIABLE}={base}: expected an https address");
    Ok(url)
}

/// The project's own list, where `kernels add` writes: `$VMTEST_KERNELS_TOML`, else `kernels.toml`.
pub fn file(dirs: &Dirs) -> PathBuf {
    variable(FILE_VARIABLE).map_or_else(|| dirs.project.join("kernels.toml"), PathBuf::from)
}

/// The built-in pins and the project's own, of which the latter count where both have a name; only those of
/// `$VMTEST_KERNELS_TOML` if that is set.
pub fn pinned(dirs: &Dirs) -> Result<Vec<Pin>> {
    let path = file(dirs);
    match variable(FILE_VARIABLE) {
        Some(_) => read(dirs, &path),
        None if path.exists() => Ok(pins::merged(pins::built_in(), read(dirs, &path)?)),
        None => Ok(pins::built_in()),
    }
}

fn read(dirs: &Dirs, path: &Path) -> Result<Vec<Pin>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the pins in {}", path.display()))?;
    parse(dirs, &text, path)
}

/// Reads pins from `text`, which is the content of `path`; what is not as it must be is wrong usage.
pub fn parse(dirs: &Dirs, text: &str, path: &Path) -> Result<Vec<Pin>> {
    let shown = path.strip_prefix(&dirs.project).unwrap_or(path);
    pins::parse(text, shown).map_err(|error| Error::usage(error.to_string()))
}

/// Finds what was asked for with `-k` and `--arch`: pins' names, images, directories; every pin that is not extra if
/// nothing was. What is none of these is wrong usage.
pub fn select(dirs: &Dirs, wanted: &[String], arches: &[&'static Arch]) -> Result<Vec<Target>> {
    let selected = vm_kernels::select(&store(dirs)?, &pinned(dirs)?, wanted, arches);
    selected.map_err(|error| Error::usage(format!("{error:#}")))
}

/// The kernels of each architecture.
pub fn by_arch(targets: Vec<Target>) -> Vec<(&'static Arch, Vec<Target>)> {
    let mut all: Vec<(&'static Arch, Vec<Target>)> = Vec::new();
    for target in targets {
        match all.iter_mut().find(|(arch, _)| *arch == target.arch()) {
            Some((_, targets)) => targets.push(target),
            None => all.push((target.arch(), vec![target])),
        }
    }
    all
}

/// The one kernel that is asked for, or that the project names.
pub fn select_one(
    dirs: &Dirs,
    name: Option<&String>,
    arch: Option<&'static Arch>,
    metadata: &Metadata,
) -> Result<Target> {
    let names = name.map_or(&metadata.kernels[..], std::slice::from_ref);
    let is_one = matches!(names, [name] if !name.contains(',') || Path::new(name).exists());
    if !is_one {
        return Err(Error::usage("which kernel? one is needed, such as `-k 6.12`"));
    }
    select(dirs, names, arch.as_slice())?.pop().context("no kernel was named")
}

/// Gets a kernel, and tells on standard error how that goes.
pub fn obtain(target: &Target) -> Result<Kernel> {
    target
        .obtain(&Line::new(target.name()))
        .map_err(|unavailable| anyhow!("kernel {} is unavailable: {unavailable}", target.name()))
}

/// What the fragments at `paths`, relative to the project, say that a kernel needs.
pub fn needs(dirs: &Dirs, paths: &[PathBuf]) -> Result<Vec<kconfig::Need>> {
    let mut needs = Vec::new();
    for path in paths {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(dirs.project.join(path))
            .map_err(|error| Error::usage(format!("cannot read the list of kernel options {shown}: {error}")))?;
        needs.extend(kconfig::needs(&text, &shown).map_err(|error| Error::usage(error.to_string()))?);
    }
    Ok(needs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_built_here_has_every_option_that_is_needed() {
        let dirs = Dirs::find().unwrap();
        for arch in &ARCHES {
            let has = kconfig::parse(arch.config);
            let lists = ["vm/kconfig", arch.kconfig.0, "vm/kconfig.boot", "vm/kconfig.host-root", "bpf/kconfig"];
            for list in lists {
                let needs = needs(&dirs, &[list.into()]).unwrap();
                assert!(!needs.is_empty(), "{list}");
                for need in needs {
                    let found = has.get(&need.option);
                    assert!(found.is_some_and(|value| need.values.contains(value)), "{arch}: {need:?}: {found:?}");
                }
            }
        }
    }
}
