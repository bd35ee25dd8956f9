//! Where this is, and what there is to misbehave with.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The name of every guest.
const HOSTNAME: &str = "vmtest";
/// The agent, as it runs in a guest of virtme-ng, and as the first process of an initramfs.
const AGENT: [&str; 2] = ["/run/vmtest-agent", "/vmtest-agent"];
/// The agent's line to the harness.
pub const AGENTS_LINE: &str = "/dev/ttyS1";

/// Fails unless this is a guest of the harness's, and the agent is this process's parent.
pub fn require() {
    let permitted = std::env::var_os("VMTEST").is_some_and(|value| value == "1");
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let started = parent().is_ok_and(|path| AGENT.map(Path::new).contains(&&*path));
    assert!(
        permitted && hostname.trim() == HOSTNAME && started,
        "this does harm, and is only done in a guest: see vm/cargo-kernels/tests/faults"
    );
}

fn parent() -> std::io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/{}/exe", agent()))
}

/// The agent's process.
pub fn agent() -> u32 {
    std::os::unix::process::parent_id()
}

/// Runs one of busybox's commands to its end; `true` if that was a success.
pub fn run(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).status().unwrap().success()
}

/// Ends this process by a signal, or sends one to another.
pub fn kill(signal: &str, pid: u32) {
    assert!(run("kill", &[signal, &pid.to_string()]));
}

/// Waits for something else to end this.
pub fn wait_for_the_end() -> ! {
    loop {
        std::thread::park();
    }
}
