//! Hosts that lack something, or are shared.

use std::fs;
use std::process::Command;

use crate::support::{Run, Scene, Verdict};

/// A test that passes at once.
const QUICK: &str = "contained::prints_the_agents_words";
/// A kernel parameter with which a guest ends as soon as the kernel is up, for what is decided before that.
const SHORT: &str = "kernel-args = ['rdinit=/nonexistent']";
const PANIC: &str = "Kernel panic - not syncing: VFS";

/// Runs a shell script with mounts of its own, then `xtask`. Needs root.
fn with_mounts(scene: &Scene, script: &str) -> Command {
    let script = format!("set -e; {script}; exec \"$@\"");
    let mut command = scene.xtask_under("unshare", &["--mount", "sh", "-c", &script, "sh"]);
    scene.vmtest_args(&mut command, &[], QUICK);
    command
}

#[test]
#[ignore = "boots a VM, needs root: `cargo xtask test` runs it"]
fn tmp_is_full() {
    let scene = Scene::new();
    let full =
        "mount -t tmpfs -o size=64k tmpfs /tmp; ! head -c 1m /dev/zero > /tmp/full 2> /dev/null";
    Run::whole(&scene, with_mounts(&scene, full)).expect("pass", 0, "");
}

#[test]
fn the_report_directory_cannot_be_written_to() {
    let scene = Scene::new();
    fs::write(scene.reports(), "a file").unwrap();
    Run::whole(&scene, scene.vmtest(QUICK)).expect_error(3, "report");
}

#[test]
#[ignore = "boots a VM, needs root: `cargo xtask test` runs it"]
fn there_is_no_kvm() {
    let scene = Scene::new().metadata(SHORT);
    // Everything of /dev but kvm.
    let hide = "mkdir -p /run/vmtest-dev; mount -t tmpfs -o mode=755 tmpfs /run/vmtest-dev; \
                for node in null zero full random urandom tty; do cp -a /dev/$node /run/vmtest-dev; done; \
                ln -s /proc/self/fd /run/vmtest-dev/fd; mount --move /run/vmtest-dev /dev";
    let ended = Run::whole(&scene, with_mounts(&scene, hide));
    let verdict = ended.expect("panic", 3, PANIC);
    assert_eq!(verdict.kernel["accel"], "tcg");
    let words = "emulating, since KVM does not work here: there is no /dev/kvm";
    assert!(ended.printed.contains(words), "{}", ended.printed);
}
