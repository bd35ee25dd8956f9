//! The file systems that tests find.

use std::fs;

use anyhow::{Context, Error, Result};
use nix::mount::{MsFlags, mount};
use vmtest_agent::SHARE_TAG;

/// One file system and its place.
struct Mount {
    kind: &'static str,
    target: &'static str,
    options: Option<&'static str>,
    /// A kernel may be built without it.
    optional: bool,
}

const fn needed(kind: &'static str, target: &'static str) -> Mount {
    Mount { kind, target, options: None, optional: false }
}

const fn optional(kind: &'static str, target: &'static str) -> Mount {
    Mount { kind, target, options: None, optional: true }
}

/// What every guest has, in the order in which it is mounted. Not there already are: in an initramfs all of them, in
/// a guest of virtme-ng's those that it does not mount itself.
const ALL: &[Mount] = &[
    needed("proc", "/proc"),
    needed("sysfs", "/sys"),
    Mount { options: Some("mode=0755"), ..needed("devtmpfs", "/dev") },
    Mount { options: Some("mode=620,ptmxmode=666"), ..optional("devpts", "/dev/pts") },
    Mount { options: Some("mode=1777"), ..needed("tmpfs", "/dev/shm") },
    Mount { options: Some("mode=1777"), ..needed("tmpfs", "/tmp") },
    Mount { options: Some("mode=0755"), ..needed("tmpfs", "/run") },
    // The kernel makes the directories below /sys, for what it was built with.
    optional("tracefs", "/sys/kernel/tracing"),
    optional("debugfs", "/sys/kernel/debug"),
    optional("securityfs", "/sys/kernel/security"),
    optional("bpf", "/sys/fs/bpf"),
    optional("cgroup2", "/sys/fs/cgroup"),
];

/// Mounts what is missing. Returns what went wrong.
pub fn missing() -> Vec<Error> {
    let there = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let missing = ALL.iter().filter(|entry| !entry.is_among(&there));
    missing.filter_map(|entry| entry.mount().err()).collect()
}

/// Mounts a tmpfs of its own at `target`, which is made if need be.
pub fn tmpfs(target: &'static str) -> Result<()> {
    Mount { options: Some("mode=0755"), ..needed("tmpfs", target) }.mount()
}

/// The places that are mounted on in the root directory itself.
pub fn top() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|mount| mount.target).filter(|target| target.rfind('/') == Some(0))
}

/// Mounts the host's share.
pub fn share(target: &str) -> Result<()> {
    let options = "version=9p2000.L,trans=virtio,cache=loose,msize=262144";
    mount(Some(SHARE_TAG), target, Some("9p"), MsFlags::MS_RDONLY, Some(options))
        .with_context(|| format!("cannot mount the host's share at {target}"))
}

impl Mount {
    /// Whether one of the lines of /proc/mounts (proc_mounts(5)) is of this kind and at this place.
    fn is_among(&self, mounts: &str) -> bool {
        mounts.lines().any(|line| {
            let mut fields = line.split(' ').skip(1);
            (fields.next(), fields.next()) == (Some(self.target), Some(self.kind))
        })
    }

    fn mount(&self) -> Result<()> {
        // Below sysfs the directories are the kernel's: one that is missing cannot be made.
        if let Err(error) = fs::create_dir_all(self.target) {
            return if self.optional { Ok(()) } else { Err(error).context(format!("cannot make {}", self.target)) };
        }
        match mount(Some(self.kind), self.target, Some(self.kind), MsFlags::MS_NOSUID, self.options) {
            // ENODEV: the kernel does not know the file system.
            Err(nix::Error::ENODEV) if self.optional => Ok(()),
            // EBUSY: it is there already, as devtmpfs is with CONFIG_DEVTMPFS_MOUNT.
            Ok(()) | Err(nix::Error::EBUSY) => Ok(()),
            Err(error) => Err(error).context(format!("cannot mount {} at {}", self.kind, self.target)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_is_known_by_its_place_and_its_kind() {
        let tmp = optional("tmpfs", "/tmp");
        assert!(tmp.is_among("proc /proc proc rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n"));
        assert!(!tmp.is_among("host /tmp 9p rw 0 0\ntmpfs /tmp/x tmpfs rw 0 0\n/tmp tmpfs x"));
    }
}
