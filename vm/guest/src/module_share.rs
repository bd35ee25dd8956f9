//! A kernel's modules, for guests: a share of the host's directory, and beside it what modprobe has to know.
//!
//! They are 100 MB and more, and a guest wants none of them, or a few. So they stay on the host until one is asked for,
//! and only depmod's lists go into the guest's root directory. Those are made once and kept in the cache.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use vmtest_agent::{FIRST_MODULES, MODULES_DIR, MODULES_SHARE, Root};

use crate::backend::Spec;
use crate::environment;
use crate::snapshots::stamp;
use vm_kernels::digest::sha256;
use vm_kernels::{Arch, Kernel, modules};
use walkdir::WalkDir;

/// Counts changes of what is kept.
const LAYOUT: u32 = 2;

/// The modules that a guest needs to mount a directory of the host's.
pub fn first(arch: &Arch) -> Vec<&'static str> {
    [arch.virtio_modules, &["9pnet_virtio", "9p"]].concat()
}

/// Depmod's lists `modules.*` that busybox's modprobe reads, which go into every guest, and those that kmod's does besides.
const LISTS: &[&str] =
    &["dep", "alias", "builtin", "softdep", "alias.bin", "builtin.bin", "builtin.alias.bin", "dep.bin", "symbols.bin"];

/// A kernel's modules, and what a guest needs to find them.
#[derive(Debug, Clone)]
pub struct ModuleShare {
    /// The host's directory, `lib/modules/<release>`.
    pub modules: PathBuf,
    /// The directory with the lists, links into the share, and in [`FIRST_MODULES`] the modules to be loaded first.
    pub lists: PathBuf,
}

impl ModuleShare {
    /// That of a kernel, kept in this cache directory; nothing for one without modules.
    pub fn of(kernel: &Kernel, cache: &Path) -> Result<Option<Self>> {
        let Some(modules) = kernel.modules.clone() else { return Ok(None) };
        let failed = || format!("cannot list the modules in {}", modules.display());
        let kept = kept(cache);
        let lists = kept.join(&sha256(&identity(&modules, cache).with_context(failed)?).as_str()[..32]);
        if !lists.is_dir() {
            fs::create_dir_all(&kept).with_context(failed)?;
            let new = tempfile::Builder::new().prefix("new-").tempdir_in(&kept)?;
            make(kernel, &modules, new.path()).with_context(failed)?;
            // Whoever was quicker has made the same.
            if fs::rename(new.path().join("lists"), &lists).is_err() && !lists.is_dir() {
                anyhow::bail!("cannot write {}", lists.display());
            }
        }
        Ok(Some(Self { modules, lists }))
    }

    /// Copies the lists into a guest's root directory.
    pub fn stage(&self, root: &Path) -> Result<()> {
        let copied = || -> Result<()> {
            for entry in WalkDir::new(&self.lists) {
                let entry = entry?;
                let from = entry.path();
                let to = root.join(MODULES_DIR.trim_start_matches('/')).join(from.strip_prefix(&self.lists)?);
                if entry.file_type().is_dir() {
                    fs::create_dir(to)?;
                } else if entry.path_is_symlink() {
                    symlink(fs::read_link(from)?, to)?;
                } else if from.extension().is_none_or(|extension| extension != "bin") {
                    // Those are for kmod's modprobe only, which is on the host, where it finds them too.
                    fs::copy(from, to)?;
                }
            }
            Ok(())
        };
        copied().with_context(|| format!("cannot copy {}", self.lists.display()))
    }
}

/// What a guest's programs find as their root directory, and which directory of the host's its machine shares for that.
pub fn root(spec: &Spec<'_>, modules: Option<&ModuleShare>) -> Result<(Root, PathBuf)> {
    let keep = spec.keep.to_vec();
    let text = |path: &Path| path.to_str().map(str::to_owned).context("a path is not UTF-8");
    if spec.host_root {
        let pair = |share: &ModuleShare| anyhow::Ok([text(&share.modules)?, text(&share.lists)?]);
        return Ok((Root::Host { keep, modules: modules.map(pair).transpose()? }, "/".into()));
    }
    let shared = match modules {
        Some(share) => share.modules.clone(),
        None => {
            let nothing = spec.run.path().join("nothing");
            fs::create_dir_all(&nothing).context("cannot make an empty directory")?;
            nothing
        }
    };
    Ok((Root::Minimal { keep }, shared))
}

/// The directory with the lists of all kernels.
pub fn kept(cache: &Path) -> PathBuf {
    cache.join("modules")
}

/// What changes whenever a module does.
fn identity(modules: &Path, cache: &Path) -> Result<Vec<u8>> {
    let identity = |path: &Path| format!("{LAYOUT}\0{}\0", path.display()).into_bytes();
    // What is in the cache was hashed, and is never changed, wherever the cache is.
    if let Ok(in_cache) = modules.strip_prefix(cache.join("kernels")) {
        return Ok(identity(in_cache));
    }
    let mut identity = identity(modules);
    for entry in WalkDir::new(modules).sort_by_file_name() {
        let entry = entry?;
        identity.extend_from_slice(entry.path().as_os_str().as_bytes());
        if !entry.file_type().is_dir() {
            identity.extend_from_slice(format!("{:?}", stamp(entry.path())?).as_bytes());
        }
    }
    Ok(identity)
}

fn make(kernel: &Kernel, modules: &Path, scratch: &Path) -> Result<()> {
    // depmod wants a release's number, and any will do.
    const RELEASE: &str = "0.0.0";
    let tree = scratch.join("lib/modules").join(RELEASE);
    let lists = scratch.join("lists");
    let first = lists.join(FIRST_MODULES);
    fs::create_dir_all(&tree)?;
    fs::create_dir_all(&first)?;
    for entry in fs::read_dir(modules)? {
        let entry = entry?;
        // depmod writes beside the modules, and where these are is not to be written to.
        symlink(entry.path(), tree.join(entry.file_name()))?;
        if entry.file_type()?.is_dir() {
            symlink(Path::new(MODULES_SHARE).join(entry.file_name()), lists.join(entry.file_name()))?;
        }
    }
    depmod(scratch, RELEASE.as_ref())?;
    for name in LISTS.iter().map(|name| format!("modules.{name}")).filter(|name| tree.join(name).exists()) {
        fs::copy(tree.join(&name), lists.join(&name))?;
    }
    for (number, (name, bytes)) in modules::resolve_present(kernel, &self::first(kernel.arch))?.iter().enumerate() {
        fs::write(first.join(format!("{number:02}-{name}.ko")), bytes)?;
    }
    Ok(())
}

/// Lists what is in the modules below `dir/lib/modules/release`.
pub(crate) fn depmod(dir: &Path, release: &Path) -> Result<()> {
    // It complains of modules.order and modules.builtin, which only matter to those who load modules by alias.
    let output = Command::new("depmod")
        .env("PATH", environment::path_with(Path::new("/sbin/depmod"))?)
        .arg("-b")
        .arg(dir)
        .arg(release)
        .output()
        .context("cannot run depmod (Debian: apt install kmod)")?;
    ensure!(output.status.success(), "depmod failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
