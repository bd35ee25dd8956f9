//! What a process must have for tracing with BPF, whatever the kernel.

use std::fs;

use crate::error::Error;

/// Checks what every kernel asks for first, so that this is what an ordinary user is told of.
pub fn check() -> Result<(), Error> {
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
}
