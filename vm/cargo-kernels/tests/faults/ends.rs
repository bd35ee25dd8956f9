//! Ends that come from outside: of QEMU, of virtme-ng, of the harness itself. Nothing may be left of a run.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::{Process, Run, Scene, tool};

/// How long processes may take to be gone once `xtask` is.
const PATIENCE: Duration = Duration::from_secs(30);

/// A guest in which a test runs that does not end.
fn endless(scene: &Scene) -> Run<'_> {
    endless_with(scene, &[])
}

fn endless_with<'a>(scene: &'a Scene, options: &[&str]) -> Run<'a> {
    let mut vmtest = scene.xtask();
    scene.vmtest_args(&mut vmtest, options, "failing::hangs");
    let mut run = Run::start(scene, vmtest);
    run.wait_for_tests();
    run
}

fn scene() -> Scene {
    Scene::new().metadata("test-timeout-s = 1000.0")
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn qemu_is_killed() {
    let scene = scene();
    let run = endless(&scene);
    Process::find(&scene.mark(), "./qemu ").signal(Signal::SIGKILL);
    run.end().expect("host-error", 3, "QEMU died");
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn the_qemu_of_a_saved_guest_is_killed() {
    let scene = scene();
    let run = endless_with(&scene, &["--warm"]);
    let qemu = Process::find(&scene.mark(), tool("VMTEST_QEMU", "qemu-system-x86_64").to_str().unwrap());
    qemu.signal(Signal::SIGKILL);
    run.end().expect("host-error", 3, "qemu-system-x86_64 was killed by SIGKILL");
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn vng_is_killed() {
    let scene = scene();
    let run = endless(&scene);
    let vng = Process::marked(&scene.mark())
        .into_iter()
        .find(|process| process.command.contains("/vng --run") && !process.command.starts_with("vm-supervisor"));
    vng.unwrap().signal(Signal::SIGKILL);
    run.end().expect("host-error", 3, "vng was killed by SIGKILL");
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn xtask_is_interrupted() {
    let scene = scene();
    let run = endless(&scene);
    let dir = Process::find(&scene.mark(), "./qemu ").directory();
    run.signal(Signal::SIGINT);
    run.end().expect("host-error", 128 + 2, "interrupted");
    assert!(!dir.exists(), "{} is left", dir.display());
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn xtask_is_terminated() {
    let scene = scene();
    let run = endless(&scene);
    let dir = Process::find(&scene.mark(), "./qemu ").directory();
    run.signal(Signal::SIGTERM);
    run.end().expect("host-error", 128 + 15, "interrupted");
    assert!(!dir.exists(), "{} is left", dir.display());
}

/// A cargo that knows the project, and is then busy for long, with its compiler.
const BUSY: &str = concat!(
    "[ \"$1\" = metadata ] && exec '",
    env!("CARGO"),
    "' \"$@\"\nsh -c 'echo compiling >&2; sleep 1000' & wait"
);

fn building(scene: &Scene) -> Run<'_> {
    let mut vmtest = scene.vmtest("failing::hangs");
    vmtest.env("CARGO", scene.script("cargo", BUSY));
    let mut run = Run::start(scene, vmtest);
    run.wait_for("compiling");
    run
}

#[test]
#[ignore = "needs what a VM needs: `cargo xtask test` runs it"]
fn xtask_is_interrupted_while_it_builds() {
    let scene = scene();
    let run = building(&scene);
    run.signal(Signal::SIGINT);
    let ended = run.end();
    Process::wait_for_all(&scene.mark(), PATIENCE);
    ended.expect_exit(128 + 2);
}

#[test]
#[ignore = "needs what a VM needs: `cargo xtask test` runs it"]
fn xtask_is_killed_while_it_builds() {
    let scene = scene();
    let run = building(&scene);
    run.signal(Signal::SIGKILL);
    run.end();
    Process::wait_for_all(&scene.mark(), PATIENCE);
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn xtask_is_killed_and_the_next_run_clears_what_it_left() {
    let scene = scene();
    let run = endless(&scene);
    let dir = Process::find(&scene.mark(), "./qemu ").directory();
    run.signal(Signal::SIGKILL);
    let ended = run.end();
    assert_eq!(ended.status.code(), None);
    Process::wait_for_all(&scene.mark(), PATIENCE);

    Run::whole(&scene, scene.vmtest("no::such::test")).expect_error(2, "no test matches");
    assert!(!dir.exists(), "{} is left", dir.display());
}
