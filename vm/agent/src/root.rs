//! The root directory of a job's programs: made anew in each guest, however the guest came to be, so that the same
//! things are in the same places in all of them.

use std::fmt;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use vmtest_agent::{Job, MODULES_DIR, MODULES_SHARE, Root};

use crate::machine::Machine;
use crate::{modules, mounts, unpack};

const RUN: &str = "/run";
const NEW: &str = "/newroot";
const LAYERS: &str = "/layers";
/// What the minimal root has of the one that the guest came up with.
const MINIMAL: [&str; 2] = ["bin", "etc"];
/// Directories that programs expect, besides those that something is mounted on.
const DIRECTORIES: [&str; 3] = ["root", "lib/modules", "var/tmp"];

/// Makes the root, with the payload in it, and makes it this process's own. A guest cannot be saved any more after this.
pub fn enter(job: &Job, machine: &mut Machine) -> Result<()> {
    let (keep, lists) = match &job.root {
        Root::Minimal { keep } => {
            // A kernel without 9p has no modules to load.
            machine.errors.extend(modules::share(None).err());
            minimal(keep).context("cannot make the root directory")?;
            (keep, None)
        }
        Root::Host { keep, modules } => {
            share_host(modules.as_ref())?;
            // The host's modprobe reads more of them than busybox's.
            (keep, modules.as_ref().map(|[_, lists]| format!("{NEW}{lists}")))
        }
    };
    unpack::unpack(&job.payload, machine.ivshmem.as_ref(), Path::new(NEW))?;
    switch(keep, Path::new(lists.as_deref().unwrap_or(MODULES_DIR))).context("cannot change the root directory")?;
    modules::on_demand()
}

fn minimal(keep: &[String]) -> Result<()> {
    mounts::tmpfs(NEW)?;
    for name in MINIMAL {
        copy(&Path::new("/").join(name), &Path::new(NEW).join(name))?;
    }
    for name in DIRECTORIES {
        fs::create_dir_all(Path::new(NEW).join(name))?;
    }
    for dir in keep {
        fs::create_dir_all(format!("{NEW}{dir}"))?;
    }
    Ok(())
}

/// A directory with what is in it: files and links.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type()? {
            kind if kind.is_symlink() => symlink(fs::read_link(from)?, to)?,
            kind if kind.is_dir() => copy(&from, &to)?,
            _ => drop(fs::copy(from, to)?),
        }
    }
    Ok(())
}

/// The host's root below a layer in memory, which takes what is written.
fn share_host(modules: Option<&[String; 2]>) -> Result<()> {
    mounts::tmpfs(LAYERS)?;
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| format!("{LAYERS}/{name}"));
    for dir in [&lower, &upper, &work] {
        fs::create_dir_all(dir)?;
    }
    mounts::share(&lower).map_err(|error| NoHostRoot(format!("{error:#}")))?;
    // An overlay may be a module.
    modules::share(modules.map(|[dir, _]| format!("{lower}{dir}")).as_deref())?;
    let layers = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    match mount(Some("overlay"), NEW, Some("overlay"), MsFlags::empty(), Some(&*layers)) {
        Err(nix::Error::ENODEV) => {
            bail!(NoHostRoot("the kernel has no overlay file system (CONFIG_OVERLAY_FS)".into()))
        }
        result => result.context("cannot put a layer in memory over the host's root directory"),
    }
}

/// The kernel cannot have the host's root directory, and why.
#[derive(Debug)]
pub struct NoHostRoot(String);

impl fmt::Display for NoHostRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoHostRoot {}

/// Makes [`NEW`] the root, with everything that is mounted in the present one, and the modules' lists.
fn switch(keep: &[String], lists: &Path) -> Result<()> {
    // The present root keeps its own, where a program that is not of the job's finds the modules: the kernel's modprobe.
    let moved = mounts::top().filter(|dir| *dir != RUN);
    let moved: Vec<(&str, OwnedFd)> =
        moved.map(|dir| Ok((dir, tree(dir, OpenTreeFlags::empty())?))).collect::<Result<_>>()?;
    let modules = Path::new(MODULES_SHARE).is_dir().then(|| tree(MODULES_SHARE, CLONE)).transpose()?;
    let lists = lists.is_dir().then(|| tree(lists, CLONE)).transpose()?;
    std::env::set_current_dir(NEW)?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
    nix::unistd::chroot(".")?;
    std::env::set_current_dir("/")?;
    let hidden = |dir: &&String| mounts::top().any(|top| Path::new(dir).starts_with(top));
    let there = |dir: &&String| Path::new(dir).is_dir();
    let kept = keep.iter().filter(hidden).filter(there).map(|dir| Ok((PathBuf::from(dir), tree(dir, CLONE)?)));
    let kept: Vec<(PathBuf, OwnedFd)> = kept.collect::<Result<_>>()?;
    for (dir, from) in moved {
        attach(&from, dir)?;
    }
    mounts::tmpfs(RUN)?;
    let release = nix::sys::utsname::uname()?.release().to_owned();
    let modules = modules.map(|from| (MODULES_SHARE.into(), from));
    let lists = lists.map(|from| (Path::new("/lib/modules").join(release), from));
    modules.into_iter().chain(kept).chain(lists).try_for_each(|(dir, from)| attach(&from, dir))
}

/// For [`tree`]: a mount of its own of a directory and all that is mounted in it, at no place yet; else it is the mount that
/// is there.
const CLONE: OpenTreeFlags = OpenTreeFlags::OPEN_TREE_CLONE.union(OpenTreeFlags::AT_RECURSIVE);

/// What is mounted at a place (open_tree(2), since 5.2).
fn tree(dir: impl AsRef<Path>, flags: OpenTreeFlags) -> Result<OwnedFd> {
    let dir = dir.as_ref();
    open_tree(CWD, dir, flags | OpenTreeFlags::OPEN_TREE_CLOEXEC)
        .with_context(|| format!("cannot open {}", dir.display()))
}

/// Puts a mount at a place, which is made if need be.
fn attach(mount: &OwnedFd, place: impl AsRef<Path>) -> Result<()> {
    let place = place.as_ref();
    fs::create_dir_all(place)
        .and_then(|()| Ok(move_mount(mount, c"", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?))
        .with_context(|| format!("cannot mount {}", place.display()))
}
