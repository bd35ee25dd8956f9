//! The file systems that tests find.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::{fs, io};

use anyhow::{Context, Error, Result};
use nix::mount::{MsFlags, mount};
use vmtest_agent::SHARE_TAG;

/// A file system, its place, its options.
type Mount = (&'static str, &'static str, &'static str);

/// What every guest has, in the order in which it is mounted. Not there already are: in an initramfs all of them, in
/// a guest of virtme-ng's those that it does not mount itself.
const NEEDED: &[Mount] = &[
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devtmpfs", "/dev", "mode=0755"),
    ("tmpfs", "/dev/shm", "mode=1777"),
    ("tmpfs", "/tmp", "mode=1777"),
    ("tmpfs", "/run", "mode=0755"),
];

/// What comes after that, and what a kernel may be built without; each is in one of the above, with which it comes into
/// the programs' root. The kernel makes the directories below /sys itself.
const OPTIONAL: &[Mount] = &[
    ("devpts", "/dev/pts", "mode=620,ptmxmode=666"),
    ("tracefs", "/sys/kernel/tracing", ""),
    ("debugfs", "/sys/kernel/debug", ""),
    ("securityfs", "/sys/kernel/security", ""),
    ("bpf", "/sys/fs/bpf", ""),
    ("cgroup2", "/sys/fs/cgroup", ""),
];

/// Mounts what is missing. Returns what went wrong.
pub fn missing() -> Vec<Error> {
    let there = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let all = NEEDED.iter().map(|needed| (needed, false)).chain(OPTIONAL.iter().map(|optional| (optional, true)));
    let missing = all.filter(|(entry, _)| !is_among(entry, &there));
    missing.filter_map(|(entry, optional)| make(*entry, optional).err()).collect()
}

/// Mounts a tmpfs of its own at `target`, which is made if need be.
pub fn tmpfs(target: &'static str) -> Result<()> {
    make(("tmpfs", target, "mode=0755"), false)
}

/// The places that are mounted on in the root directory itself.
pub fn top() -> impl Iterator<Item = &'static str> {
    NEEDED.iter().map(|(_, target, _)| *target).filter(|target| target.rfind('/') == Some(0))
}

/// Mounts the host's share.
pub fn share(target: &str) -> Result<()> {
    let options = "version=9p2000.L,trans=virtio,cache=loose,msize=262144";
    mount(Some(SHARE_TAG), target, Some("9p"), MsFlags::MS_RDONLY, Some(options))
        .with_context(|| format!("cannot mount the host's share at {target}"))
}

/// Where anything is mounted.
pub fn places() -> io::Result<HashSet<PathBuf>> {
    let mounts = fs::read("/proc/self/mounts");
    let mounts = mounts.map_err(|error| io::Error::new(error.kind(), format!("/proc/self/mounts: {error}")))?;
    let place = |line: &[u8]| Some(PathBuf::from(OsString::from_vec(unescape(line.split(|b| *b == b' ').nth(1)?))));
    Ok(mounts.split(|byte| *byte == b'\n').filter_map(place).collect())
}

/// A name in /proc/mounts: blanks, newlines and backslashes are three octal digits there (seq_file.c, `mangle_path`).
fn unescape(name: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    let mut rest = name;
    while let [first, tail @ ..] = rest {
        let octal = tail.get(..3).filter(|_| *first == b'\\').and_then(|it| std::str::from_utf8(it).ok());
        let escaped = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        plain.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &tail[3..] } else { tail };
    }
    plain
}

/// Whether one of the lines of /proc/mounts (proc_mounts(5)) is of this kind and at this place.
fn is_among((kind, target, _): &Mount, mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        (fields.next(), fields.next()) == (Some(*target), Some(*kind))
    })
}

fn make((kind, target, options): Mount, optional: bool) -> Result<()> {
    // Below sysfs the directories are the kernel's: one that is missing cannot be made.
    if let Err(error) = fs::create_dir_all(target) {
        return if optional { Ok(()) } else { Err(error).context(format!("cannot make {target}")) };
    }
    match mount(Some(kind), target, Some(kind), MsFlags::MS_NOSUID, Some(options)) {
        // ENODEV: the kernel does not know the file system.
        Err(nix::Error::ENODEV) if optional => Ok(()),
        // EBUSY: it is there already, as devtmpfs is with CONFIG_DEVTMPFS_MOUNT.
        Ok(()) | Err(nix::Error::EBUSY) => Ok(()),
        Err(error) => Err(error).context(format!("cannot mount {kind} at {target}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn optional_file_systems_are_in_needed_ones() {
        for (_, target, _) in OPTIONAL {
            assert!(top().any(|top| target.strip_prefix(top).is_some_and(|rest| rest.starts_with('/'))), "{target}");
        }
    }

    #[test]
    fn names_of_places_are_unescaped() {
        assert_eq!(unescape(b"/a\\040b\\134c\\0"), b"/a b\\c\\0");
    }

    #[test]
    fn mount_is_known_by_place_and_kind() {
        let tmp = ("tmpfs", "/tmp", "");
        assert!(is_among(&tmp, "proc /proc proc rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n"));
        assert!(!is_among(&tmp, "host /tmp 9p rw 0 0\ntmpfs /tmp/x tmpfs rw 0 0\n/tmp tmpfs x"));
    }
}
