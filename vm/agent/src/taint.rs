//! What the kernel remembers of its own errors, whether it showed them on its console or not.

use std::fs;

/// The kernel's taint flags (Documentation/admin-guide/tainted-kernels.rst); none where it does not tell.
pub fn flags() -> u64 {
    let text = fs::read_to_string("/proc/sys/kernel/tainted").unwrap_or_default();
    text.trim().parse().unwrap_or_default()
}
