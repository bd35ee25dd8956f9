//! The file systems that tests find.

use std::fs;
use std::path::Path;

use nix::mount::{MsFlags, mount};

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

/// In the order in which they are mounted.
const ALL: &[Mount] = &[
    needed("proc", "/proc"),
    needed("sysfs", "/sys"),
    Mount { options: Some("mode=0755"), ..needed("devtmpfs", "/dev") },
    Mount { options: Some("mode=1777"), ..needed("tmpfs", "/tmp") },
    Mount { options: Some("mode=0755"), ..needed("tmpfs", "/run") },
    optional("bpf", "/sys/fs/bpf"),
];

/// The directory that a kernel with tracefs makes for it in sysfs (since 4.1).
const TRACEFS: Mount = optional("tracefs", "/sys/kernel/tracing");
/// Where tracing is on a kernel that has no tracefs: a directory of debugfs.
const DEBUGFS: Mount = optional("debugfs", "/sys/kernel/debug");

/// Mounts everything, on an empty initramfs. Returns what went wrong.
pub fn all() -> Vec<String> {
    let mut troubles: Vec<String> = ALL.iter().filter_map(|entry| entry.mount().err()).collect();
    troubles.extend(tracing());
    troubles
}

/// Mounts what is missing in a guest that is up already. Returns what went wrong.
pub fn missing() -> Vec<String> {
    let mut troubles = tracing();
    if tempfile_in(Path::new("/tmp")).is_err() {
        let tmp = Mount { options: Some("mode=1777"), ..needed("tmpfs", "/tmp") };
        troubles.extend(tmp.mount().err());
    }
    troubles
}

/// Mounts a tmpfs of its own at `target`, which is made if need be.
pub fn tmpfs(target: &'static str) -> Result<(), String> {
    Mount { options: Some("mode=0755"), ..needed("tmpfs", target) }.mount()
}

fn tracing() -> Vec<String> {
    let entry = if Path::new(TRACEFS.target).is_dir() { &TRACEFS } else { &DEBUGFS };
    if Path::new(entry.target).join("trace_pipe").exists()
        || Path::new(entry.target).join("tracing/trace_pipe").exists()
    {
        return Vec::new();
    }
    entry.mount().err().into_iter().collect()
}

/// Whether a file can be made in `directory`; it is gone again afterwards.
fn tempfile_in(directory: &Path) -> std::io::Result<()> {
    let probe = directory.join(format!(".vmtest-agent-{}", std::process::id()));
    fs::write(&probe, b"")?;
    fs::remove_file(&probe)
}

impl Mount {
    fn mount(&self) -> Result<(), String> {
        // Below sysfs the directories are the kernel's: one that is missing cannot be made.
        if let Err(error) = fs::create_dir_all(self.target) {
            return if self.optional {
                Ok(())
            } else {
                Err(format!("cannot make {}: {error}", self.target))
            };
        }
        let flags = MsFlags::MS_NOSUID | MsFlags::empty();
        match mount(Some(self.kind), self.target, Some(self.kind), flags, self.options) {
            Ok(()) => Ok(()),
            // ENODEV: the kernel does not know the file system.
            // EBUSY: it is there already, as devtmpfs is with CONFIG_DEVTMPFS_MOUNT.
            Err(nix::Error::ENODEV) if self.optional => Ok(()),
            Err(nix::Error::EBUSY) => Ok(()),
            Err(error) => Err(format!("cannot mount {} at {}: {error}", self.kind, self.target)),
        }
    }
}
