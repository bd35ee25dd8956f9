//! The kernel's modules: all of them are there for whatever asks, a program or the kernel itself, and they stay on
//! the host until then.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result};
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use vmtest_agent::{FIRST_MODULES, MODULES_DIR, MODULES_SHARE};

use crate::mounts;

/// What the kernel executes when it wants a module, in the root of process 1. It looks for `/sbin/modprobe` by default,
/// which is not there while it boots: nothing is worth loading then.
const MODPROBE: &str = "/proc/sys/kernel/modprobe";

const MODPROBE_PLACES: [&str; 3] = ["/sbin/modprobe", "/usr/sbin/modprobe", "/bin/modprobe"];

/// Loads what the share needs. Returns what went wrong.
pub fn load_first() -> Vec<Error> {
    let entries = fs::read_dir(Path::new(MODULES_DIR).join(FIRST_MODULES)).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths.iter().filter_map(|path| load(path).err()).collect()
}

fn load(path: &Path) -> Result<()> {
    let loaded = File::open(path).map(|file| finit_module(file, c"", ModuleInitFlags::empty()));
    match loaded.with_context(|| format!("cannot read {}", path.display()))? {
        // It may be built in, and the list of what is may be missing.
        Ok(()) | Err(nix::Error::EEXIST) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot load {}", path.display())),
    }
}

/// Makes modules load on demand: those in the directory `from`, which is mounted already, or in the share.
pub fn share(from: Option<&str>) -> Result<()> {
    if !Path::new(MODULES_DIR).is_dir() {
        return Ok(());
    }
    link().context("cannot make a directory for modules")?;
    fs::create_dir_all(MODULES_SHARE)?;
    match from {
        Some(dir) => mount(Some(dir), MODULES_SHARE, None::<&str>, MsFlags::MS_BIND, None::<&str>)?,
        None => mounts::share(MODULES_SHARE)?,
    }
    on_demand()
}

pub fn on_demand() -> Result<()> {
    // The kernel looks in the root of process 1, which another program's guest did not change.
    let root = if std::process::id() == 1 { "/" } else { "/proc/1/root" };
    let there = |place: &&&str| Path::new(root).join(place.trim_start_matches('/')).exists();
    match MODPROBE_PLACES.iter().find(there) {
        Some(place) if Path::new(MODULES_DIR).is_dir() || Path::new(MODULES_SHARE).is_dir() => {
            fs::write(MODPROBE, place).with_context(|| format!("cannot write {MODPROBE}"))
        }
        _ => Ok(()),
    }
}

/// `/lib/modules/<release>` is [`MODULES_DIR`], whatever stands there.
fn link() -> Result<()> {
    const PARENT: &str = "/lib/modules";
    let release = nix::sys::utsname::uname()?.release().to_owned();
    let link = Path::new(PARENT).join(release);
    fs::create_dir_all(PARENT)?;
    let make = || {
        let _ = fs::remove_file(&link);
        symlink(MODULES_DIR, &link)
    };
    if make().is_err() {
        // The root is read-only.
        mounts::tmpfs(PARENT)?;
        make()?;
    }
    Ok(())
}
