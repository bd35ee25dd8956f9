//! What is around the process and decides whether it may trace with BPF.

use std::fs;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

use crate::error::Error;

/// Reasons for a refusal that its error number does not tell.
#[derive(Debug, Default)]
pub struct Environment {
    /// Lockdown is at the level `confidentiality`, which forbids tracing.
    pub locked_down: bool,
    /// The limit on locked memory in bytes, where it is one on BPF memory, too: since 5.11 the kernel charges control
    /// groups instead, and on older ones libbpf lifts the limit, if it may.
    pub memlock: Option<u64>,
}

impl Environment {
    /// Looks around. What cannot be read counts as harmless, so that it is not blamed.
    pub fn observe() -> Self {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease");
        let memlock = getrlimit(Resource::RLIMIT_MEMLOCK).ok().map(|(soft, _)| soft);
        let charged = memlock_counts(&release.unwrap_or_default());
        Self {
            locked_down: fs::read_to_string("/sys/kernel/security/lockdown")
                .is_ok_and(|levels| levels.contains("[confidentiality]")),
            memlock: memlock.filter(|soft| charged && *soft != RLIM_INFINITY),
        }
    }
}

/// Whether a kernel of this release, such as `5.10.0-32-amd64`, limits BPF memory as locked memory.
fn memlock_counts(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    matches!((numbers.next(), numbers.next()), (Some(Ok(major)), Some(Ok(minor))) if (major, minor) < (5, 11))
}

/// Checks what every kernel asks for first, so that this is what an ordinary user is told of.
pub fn check_privileges() -> Result<(), Error> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    privileges(&read("/proc/self/uid_map"), &read("/proc/self/status"))
}

fn privileges(uid_map: &str, status: &str) -> Result<(), Error> {
    // In the initial user namespace every ID is itself.
    if !uid_map.is_empty() && !uid_map.split_whitespace().eq(["0", "0", "4294967295"]) {
        return Err(Error::UserNamespace);
    }
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    // Numbers in include/uapi/linux/capability.h.
    let has = |number: u32| effective.is_none_or(|set| set & (1 << number) != 0);
    let (sys_admin, perfmon, bpf) = (has(21), has(38), has(39));
    if sys_admin || (perfmon && bpf) { Ok(()) } else { Err(Error::Capabilities) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INITIAL: &str = "         0          0 4294967295\n";

    fn message(uid_map: &str, capabilities: u64) -> Option<String> {
        let status = format!("Name:\tx\nCapEff:\t{capabilities:016x}\n");
        privileges(uid_map, &status).err().map(|error| error.to_string())
    }

    #[test]
    fn the_capabilities_for_tracing_are_asked_for_and_those_of_a_user_namespace_are_none() {
        for (capabilities, suffice) in
            [(0, false), (1 << 39, false), (1 << 38, false), (1 << 38 | 1 << 39, true), (1 << 21, true)]
        {
            assert_eq!(message(INITIAL, capabilities).is_none(), suffice, "{capabilities:x}");
        }
        let message = message("         0       1000          1\n", u64::MAX);
        assert!(message.is_some_and(|message| message.contains("user namespace")));
    }

    #[test]
    fn memlock_counts_before_5_11() {
        assert!(memlock_counts("5.10.0-32-amd64") && memlock_counts("4.19.1"));
        assert!(!memlock_counts("5.11.0") && !memlock_counts("7.3") && !memlock_counts("next"));
    }
}
