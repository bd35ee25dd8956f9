//! Ends that come from outside: of QEMU, of virtme-ng, of the harness itself. Nothing may be left of a run.

use nix::sys::signal::Signal;

use crate::support::{Process, Run, Scene, tool};

fn scene() -> Scene {
    Scene::new().metadata("test-timeout-s = 1000.0")
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn qemu_or_vng_is_killed() {
    let qemu = tool("VMTEST_QEMU", "qemu-system-x86_64");
    for (options, start, words, reason) in [
        (&[][..], "./qemu ", "", "QEMU died"),
        // A program in Python.
        (&[], "/", "/vng --run", "vng was killed by SIGKILL"),
        (&["--warm"], qemu.to_str().unwrap(), "", "qemu-system-x86_64 was killed by SIGKILL"),
    ] {
        let scene = scene();
        let run = scene.endless(options);
        Process::find(&scene.mark(), start, words).signal(Signal::SIGKILL);
        run.end().expect("host-error", 3, reason);
    }
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn the_harness_is_interrupted_or_terminated() {
    let scene = scene();
    let run = scene.endless(&[]);
    let dir = Process::find(&scene.mark(), "./qemu ", "").directory();
    run.signal(Signal::SIGINT);
    run.end().expect("host-error", 128 + 2, "interrupted");
    assert!(!dir.exists(), "{} is left", dir.display());

    let run = scene.endless(&["--warm"]);
    run.signal(Signal::SIGTERM);
    run.end().expect("host-error", 128 + 15, "interrupted");
}

/// A cargo that knows the project, and is then busy for long, with its compiler.
const BUSY: &str = concat!(
    "[ \"$1\" = metadata ] && exec '",
    env!("CARGO"),
    "' \"$@\"\nsh -c 'echo compiling >&2; sleep 1000' & wait"
);

#[test]
#[ignore = "needs what a VM needs: `cargo xtask test` runs it"]
fn the_harness_ends_while_it_builds() {
    for (signal, code) in [(Signal::SIGINT, Some(128 + 2)), (Signal::SIGKILL, None)] {
        let scene = scene();
        let mut vmtest = scene.vmtest(&[], "failing::hangs");
        vmtest.env("CARGO", scene.script("cargo", BUSY));
        let run = Run::start(&scene, vmtest).wait_for("compiling");
        run.signal(signal);
        assert_eq!(run.end().status.code(), code);
        Process::wait_for_all(&scene.mark());
    }
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn run_after_kill_clears_leftovers() {
    let scene = scene();
    let run = scene.endless(&[]);
    let dir = Process::find(&scene.mark(), "./qemu ", "").directory();
    run.kill();
    scene.run(&["--warm"], "no::such::test").expect_exit(2, "no test matches");
    assert!(!dir.exists(), "{} is left", dir.display());
}
