//! What is around the process and decides whether it may trace with BPF.

use std::fs;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memlock_counts_before_5_11() {
        assert!(memlock_counts("5.10.0-32-amd64") && memlock_counts("4.19.1"));
        assert!(!memlock_counts("5.11.0") && !memlock_counts("7.3") && !memlock_counts("next"));
    }
}
