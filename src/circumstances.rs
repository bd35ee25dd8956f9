//! Finds the reason for a refusal of the kernel's: an error number such as EPERM has many, and what is around the
//! process tells which one it is.

use std::fs;

use libbpf_rs::{ErrorKind, ProgramType};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::sys::utsname::uname;

use crate::failure::{Failure, Kind};

/// The capabilities that count, by their numbers in `include/uapi/linux/capability.h`.
const CAP_DAC_READ_SEARCH: Capability = Capability { name: "CAP_DAC_READ_SEARCH", bit: 2 };
const CAP_SYS_ADMIN: Capability = Capability { name: "CAP_SYS_ADMIN", bit: 21 };
const CAP_PERFMON: Capability = Capability { name: "CAP_PERFMON", bit: 38 };
const CAP_BPF: Capability = Capability { name: "CAP_BPF", bit: 39 };
const CAP_DAC_OVERRIDE: Capability = Capability { name: "CAP_DAC_OVERRIDE", bit: 1 };

#[derive(Debug, Clone, Copy)]
struct Capability {
    name: &'static str,
    bit: u32,
}

/// What decides whether a process may trace with BPF.
#[derive(Debug, Clone)]
pub struct Circumstances {
    /// The kernel's release, as of `uname -r`.
    pub release: String,
    /// The effective capabilities, one bit each.
    pub capabilities: u64,
    /// Whether the capabilities are those of a user namespace, which do not count for BPF.
    pub in_user_namespace: bool,
    /// Whether lockdown is at the level `confidentiality`, which forbids tracing.
    pub locked_down: bool,
    /// The soft limit RLIMIT_MEMLOCK in bytes, unless there is none.
    pub memlock: Option<u64>,
    /// Whether the kernel takes BPF programs for tracepoints.
    pub tracepoint_programs: bool,
}

impl Circumstances {
    /// Looks around. What cannot be read counts as harmless, so that it is not blamed.
    pub fn observe() -> Self {
        let read = |path| fs::read_to_string(path).ok();
        Self {
            release: uname()
                .map(|name| name.release().to_string_lossy().into_owned())
                .unwrap_or_default(),
            capabilities: read("/proc/self/status")
                .and_then(|status| effective_capabilities(&status))
                .unwrap_or(u64::MAX),
            in_user_namespace: read("/proc/self/uid_map").is_some_and(|map| !maps_every_id(&map)),
            locked_down: read("/sys/kernel/security/lockdown")
                .is_some_and(|levels| levels.contains("[confidentiality]")),
            memlock: getrlimit(Resource::RLIMIT_MEMLOCK)
                .ok()
                .map(|(soft, _)| soft)
                .filter(|soft| *soft != RLIM_INFINITY),
            tracepoint_programs: ProgramType::Tracepoint.is_supported().unwrap_or(true),
        }
    }

    /// Explains why something was refused.
    ///
    /// `what` completes "cannot …", `kind` is what libbpf or the system said, `log` is libbpf's log.
    pub fn explain(&self, what: &str, kind: ErrorKind, error: &str, log: &str) -> Failure {
        let release = &self.release;
        match kind {
            ErrorKind::PermissionDenied if !self.lacking().is_empty() => self.privileges(what),
            ErrorKind::PermissionDenied if self.in_user_namespace => Failure::new(
                Kind::Privileges,
                format!(
                    "cannot {what}: in a user namespace, such as a rootless container's, capabilities do not count \
                     for BPF; run it as root outside of it, with sudo"
                ),
            ),
            ErrorKind::PermissionDenied if self.locked_down => Failure::new(
                Kind::Lockdown,
                format!(
                    "cannot {what}: Linux {release} is locked down at the level `confidentiality`, which forbids \
                     tracing; boot it with lockdown=integrity (see /sys/kernel/security/lockdown)"
                ),
            ),
            ErrorKind::PermissionDenied if self.memlock_counts() => Failure::new(
                Kind::Memlock,
                format!(
                    "cannot {what}: Linux {release} counts BPF memory as locked memory, of which this process may \
                     have {} bytes; raise the limit with `ulimit -l unlimited`, or run it with CAP_SYS_RESOURCE, \
                     with which it does so itself",
                    self.memlock.unwrap_or_default()
                ),
            ),
            ErrorKind::Unsupported => Failure::new(
                Kind::NoBpf,
                format!(
                    "cannot {what}: Linux {release} has no bpf() system call; use a kernel built with \
                     CONFIG_BPF_SYSCALL=y"
                ),
            ),
            _ if !self.tracepoint_programs => Failure::new(
                Kind::NoBpf,
                format!(
                    "cannot {what}: Linux {release} takes no BPF programs for tracepoints; use a kernel built with \
                     CONFIG_BPF_EVENTS=y and CONFIG_PERF_EVENTS=y"
                ),
            ),
            _ => Failure::new(
                Kind::Refused,
                format!(
                    "{log}cannot {what} on Linux {release}: {error}; libbpf's log with -v has more"
                ),
            ),
        }
    }

    fn privileges(&self, what: &str) -> Failure {
        let lacking: Vec<_> = self.lacking().iter().map(|capability| capability.name).collect();
        Failure::new(
            Kind::Privileges,
            format!(
                "cannot {what}: not permitted. This needs CAP_BPF and CAP_PERFMON (CAP_SYS_ADMIN before Linux 5.8), \
                 and CAP_DAC_READ_SEARCH to read tracefs; of these, this process lacks {}. Run it as root, with sudo",
                lacking.join(", ")
            ),
        )
    }

    fn has(&self, capability: Capability) -> bool {
        self.capabilities & (1 << capability.bit) != 0
    }

    /// The capabilities that are needed and not there.
    fn lacking(&self) -> Vec<Capability> {
        let mut lacking = Vec::new();
        if !self.has(CAP_SYS_ADMIN) {
            lacking.extend([CAP_BPF, CAP_PERFMON].into_iter().filter(|needed| !self.has(*needed)));
        }
        if !self.has(CAP_DAC_OVERRIDE) && !self.has(CAP_DAC_READ_SEARCH) {
            lacking.push(CAP_DAC_READ_SEARCH);
        }
        lacking
    }

    /// Whether the limit on locked memory is one on BPF memory. The kernel charges control groups instead since 5.11;
    /// on older ones libbpf lifts the limit, if it may.
    fn memlock_counts(&self) -> bool {
        self.memlock.is_some() && version(&self.release).is_some_and(|version| version < (5, 11))
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

/// Major and minor number of a release such as `5.10.0-32-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: u64 = 0x1ff_ffff_ffff;

    fn root(release: &str) -> Circumstances {
        Circumstances {
            release: release.into(),
            capabilities: ROOT,
            in_user_namespace: false,
            locked_down: false,
            memlock: None,
            tracepoint_programs: true,
        }
    }

    #[track_caller]
    fn check(circumstances: Circumstances, error: ErrorKind, kind: Kind, words: &[&str]) {
        let failure = circumstances.explain("load the program", error, "EXPLANATION", "LOG\n");
        assert_eq!(failure.kind, kind, "{failure}");
        for word in ["cannot load the program"].iter().chain(words) {
            assert!(failure.message.contains(word), "no `{word}` in: {failure}");
        }
        assert_eq!(failure.message.contains("LOG"), kind == Kind::Refused, "{failure}");
    }

    #[test]
    fn capabilities_that_are_missing_are_named() {
        let nobody = Circumstances { capabilities: 0, ..root("6.1.0") };
        let words = ["lacks CAP_BPF, CAP_PERFMON, CAP_DAC_READ_SEARCH.", "sudo"];
        check(nobody, ErrorKind::PermissionDenied, Kind::Privileges, &words);

        let bpf_only = Circumstances { capabilities: 1 << 39 | 1 << 2, ..root("6.1.0") };
        check(bpf_only, ErrorKind::PermissionDenied, Kind::Privileges, &["lacks CAP_PERFMON."]);
    }

    #[test]
    fn the_capabilities_of_before_5_8_are_enough() {
        let admin = Circumstances { capabilities: 1 << 21 | 1 << 1, ..root("5.4.0") };
        assert!(admin.lacking().is_empty());
    }

    #[test]
    fn capabilities_of_a_user_namespace_are_none() {
        let contained = Circumstances { in_user_namespace: true, ..root("6.1.0") };
        check(contained, ErrorKind::PermissionDenied, Kind::Privileges, &["user namespace"]);
    }

    #[test]
    fn lockdown_is_told_from_missing_privileges() {
        let locked = Circumstances { locked_down: true, ..root("6.1.0") };
        check(locked, ErrorKind::PermissionDenied, Kind::Lockdown, &["6.1.0", "lockdown="]);
    }

    #[test]
    fn the_memlock_limit_is_blamed_only_where_it_counts() {
        let limited = |release| Circumstances { memlock: Some(65536), ..root(release) };
        let error = ErrorKind::PermissionDenied;
        check(limited("5.10.0-32-amd64"), error, Kind::Memlock, &["5.10.0", "65536", "ulimit"]);
        check(limited("5.11.0"), error, Kind::Refused, &["EXPLANATION", "LOG"]);
    }

    #[test]
    fn a_kernel_without_bpf_is_told_by_its_option() {
        check(root("6.1.0"), ErrorKind::Unsupported, Kind::NoBpf, &["CONFIG_BPF_SYSCALL"]);
        let untraceable = Circumstances { tracepoint_programs: false, ..root("6.1.0") };
        check(untraceable, ErrorKind::InvalidInput, Kind::NoBpf, &["CONFIG_BPF_EVENTS"]);
    }

    #[test]
    fn a_refusal_by_the_verifier_shows_the_log() {
        check(root("6.1.0"), ErrorKind::PermissionDenied, Kind::Refused, &["LOG", "EXPLANATION"]);
        check(root("6.1.0"), ErrorKind::InvalidInput, Kind::Refused, &["LOG", "EXPLANATION"]);
    }

    #[test]
    fn the_kernels_own_words_are_understood() {
        assert_eq!(
            effective_capabilities("Name:\tx\nCapEff:\t000001fffeffffff\n"),
            Some(0x1fffeffffff)
        );
        assert_eq!(effective_capabilities("Name:\tx\n"), None);
        assert!(maps_every_id("         0          0 4294967295\n"));
        assert!(!maps_every_id("         0       1000          1\n"));
        assert_eq!(version("5.10.0-32-amd64"), Some((5, 10)));
        assert_eq!(version("7.3"), Some((7, 3)));
        assert_eq!(version("next"), None);
    }
}
