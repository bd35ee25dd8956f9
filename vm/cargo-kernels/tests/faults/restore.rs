//! Snapshot guests: damaged, cut short, shared, and older than the run that uses them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;

use crate::support::{Ended, Process, Run, Scene};

/// What a run says before it boots a guest to save it.
const SAVING: &str = "booting it once, to save it";
/// How long processes may take to be gone once `xtask` is.
const PATIENCE: Duration = Duration::from_secs(30);

/// A scene whose guests are saved in a cache of its own.
struct Restore {
    scene: Scene,
    cache: PathBuf,
}

impl Restore {
    fn new() -> Self {
        let scene = Scene::new();
        let cache = scene.cache();
        Self { scene, cache }
    }

    fn vmtest(&self, tests: &str) -> Command {
        let mut command = self.scene.xtask();
        command.env("VMTEST_CACHE_DIR", &self.cache);
        self.scene.vmtest_args(&mut command, &["--warm"], tests);
        command
    }

    fn run(&self, tests: &str) -> Ended<'_> {
        Run::whole(&self.scene, self.vmtest(tests))
    }

    /// A run that passes; what it printed.
    #[track_caller]
    fn pass(&self) -> String {
        let ended = self.run("contained::tells");
        ended.expect("pass", 0, "");
        ended.printed
    }

    /// The directories of saved guests, and of those that were begun.
    fn saved(&self) -> Vec<PathBuf> {
        // A run that is killed early has not even made the directory.
        let entries = fs::read_dir(self.cache.join("snapshots")).into_iter().flatten();
        let dirs = entries.map(|entry| entry.unwrap().path());
        dirs.filter(|dir| !dir.ends_with("locks")).collect()
    }

    /// The one directory that there is.
    #[track_caller]
    fn only(&self) -> PathBuf {
        let saved = self.saved();
        assert_eq!(saved.len(), 1, "{saved:?}");
        saved[0].clone()
    }
}

/// Overwrites a file's first megabytes, as a disk does that fails: its times stay.
fn rot(path: &Path) {
    let file = File::options().write(true).open(path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    file.write_all_at(&vec![0xcc; 96 << 20], 1 << 20).unwrap();
    file.set_modified(modified).unwrap();
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn a_saved_guest_is_used_again_and_saved_again_when_it_is_damaged() {
    let warm = Restore::new();
    assert!(warm.pass().contains(SAVING));
    let again = warm.pass();
    assert!(!again.contains(SAVING) && !again.contains("no good"), "{again}");

    fs::write(warm.only().join("state"), "nonsense").unwrap();
    assert!(warm.pass().contains("its devices are not what was saved"));
    assert!(!warm.pass().contains("no good"));

    File::options().write(true).open(warm.only().join("ram")).unwrap().set_len(4096).unwrap();
    assert!(warm.pass().contains("its memory was changed"));
    assert!(!warm.pass().contains("no good"));
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn a_guest_whose_memory_rotted_unseen_is_not_believed() {
    let warm = Restore::new();
    warm.pass();
    rot(&warm.only().join("ram"));
    let printed = warm.pass();
    assert!(printed.contains("the memory of its saved guest was damaged"), "{printed}");
    assert!(!warm.pass().contains("damaged"));
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn a_state_that_qemu_does_not_take_is_saved_again() {
    let warm = Restore::new();
    warm.pass();
    // The state of another machine: whole, and of no use.
    let dir = warm.only();
    let state = fs::read(dir.join("state")).unwrap();
    let cut = &state[..state.len() / 2];
    fs::write(dir.join("state"), cut).unwrap();
    let manifest = fs::read_to_string(dir.join("manifest.json")).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    manifest["state_sha256"] = sha256(&dir.join("state")).into();
    fs::write(dir.join("manifest.json"), manifest.to_string()).unwrap();
    let printed = warm.pass();
    assert!(printed.contains("its saved state is no good"), "{printed}");
    assert!(!warm.pass().contains("no good"));
}

fn sha256(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap()[..64].to_owned()
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn a_run_killed_while_it_saves_a_guest_leaves_nothing_that_stays() {
    let warm = Restore::new();
    let mut run = Run::start(&warm.scene, warm.vmtest("contained::tells"));
    run.wait_for(SAVING);
    run.signal(Signal::SIGKILL);
    run.end();
    Process::wait_for_all(&warm.scene.mark(), PATIENCE);
    let left: BTreeSet<_> = warm.saved().into_iter().collect();

    assert!(warm.pass().contains(SAVING));
    assert!(!left.contains(&warm.only()), "what was left behind is still there");
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn a_run_killed_in_a_test_harms_no_later_one() {
    let warm = Restore::new();
    warm.pass();
    let mut run = Run::start(&warm.scene, warm.vmtest("failing::hangs"));
    run.wait_for_tests();
    run.signal(Signal::SIGKILL);
    run.end();
    Process::wait_for_all(&warm.scene.mark(), PATIENCE);

    let printed = warm.pass();
    assert!(!printed.contains(SAVING) && !printed.contains("no good"), "{printed}");
    warm.only();
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn two_runs_at_once_save_one_guest_and_share_it() {
    let warm = Restore::new();
    let mut first = Run::start(&warm.scene, warm.vmtest("contained::tells"));
    first.wait_for(SAVING);
    // Both write to the same report, which is not what this is about.
    let second = Run::start(&warm.scene, warm.vmtest("contained::tells"));
    for run in [first, second] {
        assert_eq!(run.end().status.code(), Some(0));
    }
    warm.only();
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn each_guest_has_the_time_of_its_run_and_secrets_of_its_own() {
    let warm = Restore::new();
    warm.pass();
    // As if it had been saved long ago: a restored guest has the time of when it was saved.
    let mut secrets = BTreeSet::new();
    for _ in 0..3 {
        let begun = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let ended = warm.run("contained::tells");
        let verdict = ended.expect("pass", 0, "");
        let over = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let test = verdict.test("contained::tells_the_time_and_a_secret");
        let output = test["output"].as_str().unwrap();
        let told = |what: &str| {
            // The first line begins with the test's name.
            let mut values = output.lines().filter_map(|line| line.split_once(what));
            values.next().unwrap().1.trim().to_owned()
        };
        let time: u64 = told("time=").parse().unwrap();
        assert!((begun..=over).contains(&time), "{time} is not in {begun}..={over}");
        secrets.insert(told("secret="));
    }
    assert_eq!(secrets.len(), 3, "{secrets:?}");
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn a_kernel_that_cannot_be_saved_is_judged_as_when_it_is_booted() {
    let scene = Scene::new().metadata("kernel-args = ['rdinit=/nonexistent']");
    let cache = scene.cache();
    let warm = Restore { scene, cache };
    let words = "before the agent was up: Kernel panic - not syncing";
    let ended = warm.run("contained::tells");
    ended.expect("panic", 3, words);
    assert!(!ended.printed.contains("so it is booted"), "booted a second time: {}", ended.printed);
    assert_eq!(warm.saved(), Vec::<PathBuf>::new());
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn a_kernel_that_does_not_come_up_to_be_saved_is_not_waited_for_twice() {
    let args = "kernel-args = ['rdinit=/nonexistent', 'rootdelay=10000', 'ignore_loglevel']";
    let scene = Scene::new().metadata(args).timeout(30);
    let cache = scene.cache();
    let warm = Restore { scene, cache };
    let words = "nothing was heard of the agent within 30 s; the kernel got as far as: ";
    let ended = warm.run("contained::tells");
    ended.expect("no-boot", 3, words);
    assert!(!ended.printed.contains("so it is booted"), "waited for twice: {}", ended.printed);
}

/// Without the directory /sys/kernel/mm the kernel warns that there is no place for one below it, and goes on.
const WARNS_AT_BOOT: &str = "kernel-args = ['initcall_blacklist=mm_sysfs_init']";
/// The mark of a warning (Documentation/admin-guide/tainted-kernels.rst), and nothing on the console.
const TAINTED_AT_BOOT: &str = "kernel-args = ['sysctl.kernel.tainted=512']";

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn what_a_kernel_said_while_it_booted_counts_however_its_guest_came_to_be() {
    for (args, words) in [
        (WARNS_AT_BOOT, "the kernel reported: WARNING: CPU: 0 PID: 1 at fs/sysfs/group.c"),
        (TAINTED_AT_BOOT, "there was a warning (taint flag W)"),
    ] {
        let scene = Scene::new().metadata(args);
        let cache = scene.cache();
        let warm = Restore { scene, cache };
        let booted = Run::whole(&warm.scene, warm.scene.vmtest("contained::tells"));
        booted.expect("kernel-splat", 1, words);
        for kind in ["saved", "restored"] {
            let ended = warm.run("contained::tells");
            assert_eq!(ended.printed.contains(SAVING), kind == "saved", "{}", ended.printed);
            let verdict = ended.expect("kernel-splat", 1, words);
            let log = verdict.kernel["console_log"].as_str().unwrap();
            let log = fs::read_to_string(warm.scene.reports().join(log)).unwrap();
            assert_eq!(log.contains("internal_create_group"), args == WARNS_AT_BOOT, "{kind}: {log}");
        }
    }
}
