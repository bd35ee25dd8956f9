//! What is around the process and decides whether it may trace with BPF.

use std::fs;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::sys::utsname::uname;

use crate::error::Error;

/// Capabilities that count, by their numbers in `include/uapi/linux/capability.h`.
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// What decides.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// The kernel's release, as of `uname -r`.
    pub release: String,
    /// The effective capabilities, one bit each.
    pub capabilities: u64,
    /// Whether the capabilities are those of a user namespace, which do not count for BPF.
    pub in_user_namespace: bool,
    /// Whether lockdown is at the level `confidentiality`, which forbids tracing.
    pub locked_down: bool,
    /// The soft limit RLIMIT_MEMLOCK in bytes, where it is one on BPF memory: since 5.11 the kernel charges control
    /// groups instead, and on older ones libbpf lifts the limit, if it may.
    pub memlock: Option<u64>,
    /// Whether the kernel accepts BPF programs for tracepoints at all.
    pub takes_tracepoints: bool,
}

impl Environment {
    /// Looks around. What cannot be read counts as harmless, so that it is not blamed.
    pub fn observe() -> Self {
        let read = |path| fs::read_to_string(path).ok();
        let release =
            uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default();
        let memlock = getrlimit(Resource::RLIMIT_MEMLOCK).ok().map(|(soft, _)| soft);
        Self {
            memlock: memlock.filter(|soft| *soft != RLIM_INFINITY && memlock_counts(&release)),
            release,
            capabilities: read("/proc/self/status")
                .and_then(|status| effective_capabilities(&status))
                .unwrap_or(u64::MAX),
            in_user_namespace: read("/proc/self/uid_map").is_some_and(|map| !maps_every_id(&map)),
            locked_down: read("/sys/kernel/security/lockdown")
                .is_some_and(|levels| levels.contains("[confidentiality]")),
            takes_tracepoints: true,
        }
    }

    /// Checks the privileges without which every kernel refuses, so that they are what an ordinary user is told of.
    ///
    /// # Errors
    ///
    /// When one is missing.
    pub fn check_privileges(&self) -> Result<(), Error> {
        if self.in_user_namespace {
            return Err(Error::UserNamespace);
        }
        let has = |capability: u32| self.capabilities & (1 << capability) != 0;
        let needed = [(CAP_BPF, "CAP_BPF"), (CAP_PERFMON, "CAP_PERFMON")];
        let lacking: Vec<&str> =
            needed.into_iter().filter(|(bit, _)| !has(*bit)).map(|(_, name)| name).collect();
        if lacking.is_empty() || has(CAP_SYS_ADMIN) {
            return Ok(());
        }
        Err(Error::Capabilities(lacking.join(" and ")))
    }
}

/// The line `CapEff` of `/proc/self/status`.
fn effective_capabilities(status: &str) -> Option<u64> {
    let hexadecimal = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(hexadecimal.trim(), 16).ok()
}

/// Whether `/proc/self/uid_map` is that of the initial user namespace, in which every ID is itself.
fn maps_every_id(uid_map: &str) -> bool {
    uid_map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Whether a kernel of this release, such as `5.10.0-32-amd64`, limits BPF memory as locked memory.
fn memlock_counts(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    matches!((numbers.next(), numbers.next()), (Some(Ok(major)), Some(Ok(minor))) if (major, minor) < (5, 11))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(capabilities: u64, in_user_namespace: bool) -> Option<String> {
        let around = Environment { capabilities, in_user_namespace, ..Environment::default() };
        around.check_privileges().err().map(|error| error.to_string())
    }

    #[test]
    fn capabilities_that_are_missing_are_named() {
        assert!(message(0, false).is_some_and(|it| it.contains("lacks CAP_BPF and CAP_PERFMON;")));
        assert!(message(1 << CAP_BPF, false).is_some_and(|it| it.contains("lacks CAP_PERFMON;")));
        assert_eq!(message(1 << CAP_BPF | 1 << CAP_PERFMON, false), None);
        assert_eq!(message(1 << CAP_SYS_ADMIN, false), None, "before 5.8");
        assert!(message(u64::MAX, true).is_some_and(|it| it.contains("user namespace")));
    }

    #[test]
    fn files_in_proc_are_understood() {
        let status = "Name:\tx\nCapEff:\t000001fffeffffff\n";
        assert_eq!(effective_capabilities(status), Some(0x1fffeffffff));
        assert_eq!(effective_capabilities("Name:\tx\n"), None);
        assert!(maps_every_id("         0          0 4294967295\n"));
        assert!(!maps_every_id("         0       1000          1\n"));
    }

    #[test]
    fn memlock_counts_before_5_11() {
        assert!(memlock_counts("5.10.0-32-amd64") && memlock_counts("4.19.1"));
        assert!(!memlock_counts("5.11.0") && !memlock_counts("7.3") && !memlock_counts("next"));
    }
}
