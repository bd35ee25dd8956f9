//! Finds the reason for a refusal of the kernel's: an error number such as EPERM has many, and what is around the
//! process tells which one it is.

use std::fs;

use libbpf_rs::ErrorKind;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::sys::utsname::uname;

use crate::failure::{Failure, Kind};

/// Capabilities that count, by their numbers in `include/uapi/linux/capability.h`.
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

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
        }
    }

    /// Checks the privileges without which every kernel refuses.
    ///
    /// # Errors
    ///
    /// When one is missing.
    pub fn check_privileges(&self) -> Result<(), Failure> {
        if self.in_user_namespace {
            return Err(Failure::new(
                Kind::Privileges,
                "not permitted: this is a user namespace, such as a rootless container's, whose capabilities do not \
                 count for BPF; run it outside, as root",
            ));
        }
        let lacking = self.lacking();
        if lacking.is_empty() {
            return Ok(());
        }
        Err(Failure::new(
            Kind::Privileges,
            format!(
                "not permitted: tracing with BPF needs the capabilities CAP_BPF and CAP_PERFMON (before Linux 5.8 \
                 CAP_SYS_ADMIN), of which this process lacks {}; run it as root, with sudo",
                lacking.join(" and ")
            ),
        ))
    }

    /// Explains why a file of tracefs could not be opened, to do `what`.
    pub fn explain_tracefs(&self, what: &str, error: &std::io::Error) -> Failure {
        if error.kind() != std::io::ErrorKind::PermissionDenied {
            return Failure::other(format!("cannot {what}"), error);
        }
        if self.locked_down {
            return self.lockdown(what);
        }
        Failure::new(
            Kind::Privileges,
            format!(
                "cannot {what}: {error}; only root may read tracefs, unless it was mounted otherwise: run it as root, \
                 with sudo, or with the capability CAP_DAC_READ_SEARCH"
            ),
        )
    }

    /// Explains why libbpf could not do `what`.
    ///
    /// `takes_tracepoints` is whether the kernel accepts BPF programs for tracepoints at all, and `log` is libbpf's.
    pub fn explain_libbpf(
        &self,
        what: &str,
        error: &libbpf_rs::Error,
        takes_tracepoints: bool,
        log: &str,
    ) -> Failure {
        let release = &self.release;
        match error.kind() {
            ErrorKind::PermissionDenied if self.locked_down => self.lockdown(what),
            // EINVAL where the limit made libbpf believe that the kernel has no maps for global data.
            ErrorKind::PermissionDenied | ErrorKind::InvalidInput if self.memlock_counts() => {
                Failure::new(
                    Kind::Memlock,
                    format!(
                        "cannot {what}: Linux {release} counts BPF memory as locked memory, of which this process may \
                     have {} bytes; raise the limit with `ulimit -l unlimited`, or run it with the capability \
                     CAP_SYS_RESOURCE, with which it raises the limit itself",
                        self.memlock.unwrap_or_default()
                    ),
                )
            }
            ErrorKind::Unsupported => Failure::new(
                Kind::NoBpf,
                format!(
                    "cannot {what}: Linux {release} has no system call bpf; use a kernel built with \
                     CONFIG_BPF_SYSCALL=y"
                ),
            ),
            _ if !takes_tracepoints => Failure::new(
                Kind::NoBpf,
                format!(
                    "cannot {what}: Linux {release} takes no BPF programs for tracepoints; use a kernel built with \
                     CONFIG_BPF_EVENTS=y and CONFIG_PERF_EVENTS=y"
                ),
            ),
            _ => Failure::new(
                Kind::Refused,
                format!(
                    "{log}cannot {what}: Linux {release} refused: {error:#}; its reasons are above"
                ),
            ),
        }
    }

    fn lockdown(&self, what: &str) -> Failure {
        let release = &self.release;
        Failure::new(
            Kind::Lockdown,
            format!(
                "cannot {what}: Linux {release} is locked down to `confidentiality`, which forbids tracing; boot it \
                 with lockdown=integrity (/sys/kernel/security/lockdown shows the level)"
            ),
        )
    }

    /// The capabilities that are needed and not there.
    fn lacking(&self) -> Vec<&'static str> {
        let has = |capability: u32| self.capabilities & (1 << capability) != 0;
        if has(CAP_SYS_ADMIN) {
            return Vec::new();
        }
        let needed = [(CAP_BPF, "CAP_BPF"), (CAP_PERFMON, "CAP_PERFMON")];
        needed.into_iter().filter(|(bit, _)| !has(*bit)).map(|(_, name)| name).collect()
    }

    /// Whether the limit on locked memory is one on BPF memory. Since 5.11 the kernel charges control groups instead;
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
    #![allow(clippy::unwrap_used)]

    use nix::errno::Errno;

    use super::*;

    fn root(release: &str) -> Circumstances {
        Circumstances {
            release: release.into(),
            capabilities: 0x1ff_ffff_ffff,
            in_user_namespace: false,
            locked_down: false,
            memlock: None,
        }
    }

    #[track_caller]
    fn check(failure: Failure, kind: Kind, words: &[&str]) {
        assert_eq!(failure.kind, kind, "{failure}");
        for word in words {
            assert!(failure.message.contains(word), "no `{word}` in: {failure}");
        }
    }

    fn libbpf(circumstances: &Circumstances, errno: Errno) -> Failure {
        let error = libbpf_rs::Error::from_raw_os_error(errno as i32);
        circumstances.explain_libbpf("load the program", &error, true, "libbpf: LOG\n")
    }

    #[test]
    fn capabilities_that_are_missing_are_named() {
        let with = |capabilities| Circumstances { capabilities, ..root("6.1.0") };
        let failure = with(0).check_privileges().unwrap_err();
        check(failure, Kind::Privileges, &["lacks CAP_BPF and CAP_PERFMON;", "sudo"]);
        let failure = with(1 << CAP_BPF).check_privileges().unwrap_err();
        check(failure, Kind::Privileges, &["lacks CAP_PERFMON;"]);
        assert_eq!(with(1 << CAP_BPF | 1 << CAP_PERFMON).check_privileges(), Ok(()));
        assert_eq!(with(1 << CAP_SYS_ADMIN).check_privileges(), Ok(()), "before 5.8");
    }

    #[test]
    fn capabilities_of_a_user_namespace_are_none() {
        let contained = Circumstances { in_user_namespace: true, ..root("6.1.0") };
        let failure = contained.check_privileges().unwrap_err();
        check(failure, Kind::Privileges, &["user namespace"]);
    }

    #[test]
    fn lockdown_is_told_from_missing_privileges() {
        let locked = Circumstances { locked_down: true, ..root("6.1.0") };
        let words = ["cannot load the program", "6.1.0", "lockdown=integrity"];
        check(libbpf(&locked, Errno::EPERM), Kind::Lockdown, &words);

        let denied = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        check(locked.explain_tracefs("read it", &denied), Kind::Lockdown, &["cannot read it"]);
        let failure = root("6.1.0").explain_tracefs("read it", &denied);
        check(failure, Kind::Privileges, &["cannot read it", "CAP_DAC_READ_SEARCH", "sudo"]);
    }

    #[test]
    fn the_limit_on_locked_memory_is_blamed_only_where_it_counts() {
        let limited = |release| Circumstances { memlock: Some(65536), ..root(release) };
        let words = ["5.10.0-32-amd64", "65536 bytes", "ulimit -l", "CAP_SYS_RESOURCE"];
        for errno in [Errno::EPERM, Errno::EINVAL] {
            check(libbpf(&limited("5.10.0-32-amd64"), errno), Kind::Memlock, &words);
        }
        check(libbpf(&limited("5.11.0"), Errno::EPERM), Kind::Refused, &[]);
    }

    #[test]
    fn a_kernel_without_bpf_is_told_by_its_option() {
        let failure = libbpf(&root("6.1.0"), Errno::ENOSYS);
        check(failure, Kind::NoBpf, &["6.1.0", "CONFIG_BPF_SYSCALL"]);
        let error = libbpf_rs::Error::from_raw_os_error(Errno::EINVAL as i32);
        let failure = root("6.1.0").explain_libbpf("load the program", &error, false, "");
        check(failure, Kind::NoBpf, &["6.1.0", "CONFIG_BPF_EVENTS"]);
    }

    #[test]
    fn a_refusal_by_the_verifier_shows_the_log() {
        for errno in [Errno::EACCES, Errno::EINVAL, Errno::E2BIG] {
            let words = ["libbpf: LOG\n", "cannot load the program", "6.1.0", errno.desc()];
            check(libbpf(&root("6.1.0"), errno), Kind::Refused, &words);
        }
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
