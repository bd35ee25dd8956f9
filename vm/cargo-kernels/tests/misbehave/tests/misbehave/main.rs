//! Tests that do everything that tests should not: `vm/cargo-kernels/tests/faults` has the harness run them in a guest and
//! looks at what it says of them.
//!
//! Every one is ignored by default, and refuses to do anything outside of the harness's guest: run by accident as
//! root on a real machine, they fail and nothing else happens.

#![allow(clippy::unwrap_used)]

mod contained;
mod failing;
mod fatal;

use std::path::Path;
use std::process::Command;

/// The agent, as it runs in a guest of virtme-ng, and as the first process of an initramfs.
const AGENT: [&str; 2] = ["/run/vmtest-agent", "/vmtest-agent"];
/// The agent's line to the harness.
const AGENTS_LINE: &str = "/dev/ttyS1";

/// Defines tests. None of them can forget to be ignored, or to ask where it is.
macro_rules! misdeeds {
    ($($(#[$doc:meta])* fn $name:ident() $body:block)*) => {
        $(
            $(#[$doc])*
            #[test]
            #[ignore = "does harm: `cargo xtask test` has it done in a guest"]
            fn $name() {
                crate::require();
                $body
            }
        )*
    };
}
use misdeeds;

/// Fails unless this process was started by the agent of a guest of the harness's.
fn require() {
    let parent = std::fs::read_link(format!("/proc/{}/exe", agent())).unwrap_or_default();
    assert!(
        AGENT.map(Path::new).contains(&&*parent),
        "this does harm, and is only done in a guest: see vm/cargo-kernels/tests/faults"
    );
}

fn agent() -> u32 {
    std::os::unix::process::parent_id()
}

/// Runs one of busybox's commands to its end; `true` if that was a success.
fn run(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).status().unwrap().success()
}

/// Ends this process by a signal, or sends one to another.
fn kill(signal: &str, pid: u32) {
    assert!(run("kill", &[signal, &pid.to_string()]));
}

/// Waits for something else to end this.
fn wait_for_the_end() -> ! {
    loop {
        std::thread::park();
    }
}
