//! Snapshot guests: damaged, cut short, shared, and older than the run that uses them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use crate::support::{Run, Scene, test};

/// What a run says before it boots a guest to save it.
const SAVING: &str = "booting it once, for a snapshot";
/// What every run that passes is made of.
const TEST: &str = "contained::tells_the_time_and_a_secret";

/// A run that passes, in a guest that has the time of its run; the guest's secret, and what was printed.
#[track_caller]
fn pass(scene: &Scene) -> (String, String) {
    let now = || SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let begun = now();
    let ended = scene.run(&["--warm"], TEST);
    let kernel = ended.expect("pass", 0, "");
    let output = test(&kernel, TEST)["output"].as_str().unwrap();
    let told = |what: &str| {
        // The first line begins with the test's name.
        let mut values = output.lines().filter_map(|line| line.split_once(what));
        values.next().unwrap().1.trim().to_owned()
    };
    let time: u64 = told("time=").parse().unwrap();
    assert!((begun..=now()).contains(&time), "{time} is not in {begun}..={}", now());
    (told("secret="), ended.printed)
}

/// The one guest that is saved.
#[track_caller]
fn only(scene: &Scene) -> PathBuf {
    let saved = scene.saved();
    assert_eq!(saved.len(), 1, "{saved:?}");
    saved[0].clone()
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn snapshot_is_reused_and_survives_killed_runs() {
    let scene = Scene::new().own_cache();
    Run::start(&scene, scene.vmtest(&["--warm"], TEST)).wait_for(SAVING).kill();
    let left = scene.saved();

    let (first, printed) = pass(&scene);
    assert!(printed.contains(SAVING), "{printed}");
    let saved = only(&scene);
    assert!(!left.contains(&saved), "what was left behind is still there");

    let (second, _) = pass(&scene);
    scene.endless(&["--warm"]).kill();
    let (third, printed) = pass(&scene);
    assert!(!printed.contains(SAVING) && !printed.contains("no good"), "{printed}");
    assert_eq!(only(&scene), saved);
    assert_eq!(BTreeSet::from([&first, &second, &third]).len(), 3, "{first} {second} {third}");
}

/// Each run says so, and saves another. What else is seen before QEMU starts, a test of vm/guest's snapshots shows.
#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn damaged_snapshot_is_made_again() {
    let scene = Scene::new().own_cache();
    pass(&scene);
    for (damage, words) in [
        (truncate as fn(&Path), "its memory was changed"),
        (rot, "the memory of its snapshot was damaged"),
        (exchange, "its snapshot is no good"),
    ] {
        damage(&only(&scene));
        let (_, printed) = pass(&scene);
        assert!(printed.contains(words), "{words:?} is not in {printed}");
    }
    let (_, printed) = pass(&scene);
    assert!(!["no good", "damaged", SAVING].iter().any(|words| printed.contains(words)), "{printed}");
}

fn truncate(saved: &Path) {
    File::options().write(true).open(saved.join("ram")).unwrap().set_len(4096).unwrap();
}

/// Overwrites many megabytes, as a disk does that fails: the file's times stay.
fn rot(saved: &Path) {
    let file = File::options().write(true).open(saved.join("ram")).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    file.write_all_at(&vec![0xcc; 96 << 20], 1 << 20).unwrap();
    file.set_modified(modified).unwrap();
}

/// Half of a state is there as it was saved, says the manifest: only QEMU sees that it is of no use.
fn exchange(saved: &Path) {
    let state = fs::read(saved.join("state")).unwrap();
    fs::write(saved.join("state"), &state[..state.len() / 2]).unwrap();
    let sum = Command::new("sha256sum").arg(saved.join("state")).output().unwrap();
    let manifest = fs::read(saved.join("manifest.json")).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    manifest["state_sha256"] = String::from_utf8(sum.stdout).unwrap()[..64].into();
    fs::write(saved.join("manifest.json"), manifest.to_string()).unwrap();
}

/// While one saves the guest the other waits, and then both restore it.
#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn concurrent_runs_make_one_snapshot() {
    let scenes = [Scene::new().own_cache(), Scene::new()];
    let first = Run::start(&scenes[0], scenes[0].vmtest(&["--warm"], TEST)).wait_for(SAVING);
    let mut second = scenes[1].vmtest(&["--warm"], TEST);
    second.env("VMTEST_CACHE_DIR", scenes[0].cache());
    let second = Run::start(&scenes[1], second);
    first.end().expect("pass", 0, "");
    second.end().expect("pass", 0, "");
    only(&scenes[0]);
}

/// Without the directory /sys/kernel/mm the kernel warns that there is no place for one below it, and goes on.
const WARNS_AT_BOOT: &str = "kernel-args = ['initcall_blacklist=mm_sysfs_init']";
/// The mark of a warning (Documentation/admin-guide/tainted-kernels.rst), and nothing on the console.
const TAINTED_AT_BOOT: &str = "kernel-args = ['sysctl.kernel.tainted=512']";

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn splat_during_boot_counts_booted_saved_and_restored() {
    for (args, words) in [
        (WARNS_AT_BOOT, "the kernel reported: WARNING: CPU: 0 PID: 1 at fs/sysfs/group.c"),
        (TAINTED_AT_BOOT, "there was a warning (taint flag W)"),
    ] {
        let scene = Scene::new().metadata(args).own_cache();
        scene.run(&[], TEST).expect("kernel-splat", 1, words);
        for kind in ["saved", "restored"] {
            let ended = scene.run(&["--warm"], TEST);
            assert_eq!(ended.printed.contains(SAVING), kind == "saved", "{}", ended.printed);
            let kernel = ended.expect("kernel-splat", 1, words);
            let log = kernel["console_log"].as_str().unwrap();
            let log = fs::read_to_string(scene.reports().join(log)).unwrap();
            assert_eq!(log.contains("internal_create_group"), args == WARNS_AT_BOOT, "{kind}: {log}");
        }
    }
}
