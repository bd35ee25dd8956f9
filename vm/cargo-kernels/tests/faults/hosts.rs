//! Hosts that lack something, or are shared.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::output::MEMORY;
use crate::support::{Ended, Run, Scene, Verdict, target};

/// A test that passes at once.
const QUICK: &str = "contained::prints_the_agents_words";
/// A kernel parameter with which a guest ends as soon as the kernel is up, for what is decided before that.
const SHORT: &str = "kernel-args = ['rdinit=/nonexistent']";
const PANIC: &str = "Kernel panic - not syncing: VFS";

/// Runs a shell script with mounts of its own, which needs root, and then `xtask`.
fn with_mounts<'a>(scene: &'a Scene, script: &str, options: &[&str]) -> Ended<'a> {
    let script = format!("set -e; here=$PWD; {script}; cd \"$here\"; exec \"$@\"");
    let mut command = scene.xtask_under("unshare", &["--mount", "sh", "-c", &script, "sh"]);
    scene.vmtest_args(&mut command, options, QUICK);
    command.env("VMTEST_CACHE_DIR", scene.cache());
    Run::whole(scene, command)
}

#[test]
#[ignore = "boots a VM, needs root: `cargo xtask test` runs it"]
fn tmp_is_full() {
    let full = "mount -t tmpfs -o size=64k tmpfs /tmp; ! head -c 1m /dev/zero > /tmp/full 2> /dev/null";
    with_mounts(&Scene::new(), full, &[]).expect("pass", 0, "");
}

#[test]
fn the_report_directory_cannot_be_written_to() {
    let scene = Scene::new();
    fs::write(scene.reports(), "a file").unwrap();
    Run::whole(&scene, scene.vmtest(QUICK)).expect_error(3, "no reports can be written to");
}

/// A `/dev` of its own, with `/dev/kvm` as it is made by a command.
fn with_kvm(kvm: &str) -> String {
    format!(
        "mkdir -p /run/vmtest-fault; mount -t tmpfs tmpfs /run/vmtest-fault; cd /run/vmtest-fault; \
         mkdir dev nodev; mount -t tmpfs tmpfs dev; mount -t tmpfs -o nodev tmpfs nodev; \
         for node in null zero full random urandom tty; do cp -a /dev/$node dev; done; \
         ln -s /proc/self/fd dev/fd; {kvm}; mount --rbind dev /dev; cd /"
    )
}

const NO_KVM: &str = "true";
/// Not even root can open a device through a file system that is mounted without devices.
const FORBIDDEN_KVM: &str = "mknod nodev/kvm c 10 232; touch dev/kvm; mount --bind nodev/kvm dev/kvm";
/// It opens, and knows nothing of what it is asked.
const DEAD_KVM: &str = "mknod -m 666 dev/kvm c 1 3";

fn auto_ends_on_tcg(kvm: &str, why: &str) {
    let scene = Scene::new().metadata(SHORT);
    let ended = with_mounts(&scene, &with_kvm(kvm), &[]);
    let verdict = ended.expect("panic", 3, PANIC);
    assert_eq!(verdict.kernel["accel"], "tcg");
    let note = format!("emulating, since KVM does not work here: {why}");
    assert!(ended.printed.contains(&note), "{}", ended.printed);
}

fn insisting_on_kvm_fails(kvm: &str, why: &str) {
    let scene = Scene::new();
    let why = format!("KVM does not work here: {why}");
    with_mounts(&scene, &with_kvm(kvm), &["--accel", "kvm"]).expect("host-error", 3, &why);
}

#[test]
#[ignore = "boots a VM, needs root: `cargo xtask test` runs it"]
fn absent_kvm_falls_back_to_emulation() {
    auto_ends_on_tcg(NO_KVM, "there is no /dev/kvm");
    insisting_on_kvm_fails(NO_KVM, "there is no /dev/kvm");
}

#[test]
#[ignore = "boots a VM, needs root: `cargo xtask test` runs it"]
fn forbidden_kvm_falls_back_to_emulation() {
    auto_ends_on_tcg(FORBIDDEN_KVM, "this user may not open /dev/kvm");
    insisting_on_kvm_fails(FORBIDDEN_KVM, "this user may not open /dev/kvm");
}

#[test]
#[ignore = "boots a VM, needs root: `cargo xtask test` runs it"]
fn dead_kvm_falls_back_to_emulation() {
    auto_ends_on_tcg(DEAD_KVM, "/dev/kvm is there, but QEMU cannot use it");
    insisting_on_kvm_fails(DEAD_KVM, "/dev/kvm is there, but QEMU cannot use it");
}

#[test]
#[ignore = "needs a kernel: `cargo xtask test` runs it"]
fn the_kernel_lacks_an_option() {
    let scene = Scene::new();
    let fragment = scene.path("kconfig");
    fs::write(&fragment, "CONFIG_NOT_INVENTED_YET=y  # it is not\n").unwrap();
    let scene = scene.metadata(&format!("kconfig = ['{}']", fragment.display()));
    let words = "built without options that are needed";
    let verdict = Run::whole(&scene, scene.vmtest(QUICK)).expect("unsupported", 3, words);
    assert!(verdict.kernel["excerpt"].to_string().contains("CONFIG_NOT_INVENTED_YET"));
}

#[test]
#[ignore = "boots VMs: `cargo xtask test` runs it"]
fn two_matrices_run_at_once() {
    let scenes = [Scene::new(), Scene::new()].map(|scene| scene.kernels("5.10,6.1"));
    let runs = scenes.each_ref().map(|scene| Run::start(scene, scene.vmtest(QUICK)));
    for (run, scene) in runs.into_iter().zip(&scenes) {
        run.end().expect("pass", 0, "");
        let second = Verdict::read(&scene.reports(), 1).unwrap();
        assert_eq!(second.word, "pass", "{}", second.reason);
    }
}

/// Both find nothing saved; one saves the guest, and both restore it.
#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn two_runs_want_the_same_saved_guest_at_once() {
    let scenes = [Scene::new(), Scene::new()];
    let cache = scenes[0].cache();
    let runs = scenes.each_ref().map(|scene| {
        let mut vmtest = scene.xtask();
        scene.vmtest_args(&mut vmtest, &["--warm"], QUICK);
        vmtest.env("VMTEST_CACHE_DIR", &cache);
        Run::start(scene, vmtest)
    });
    let notes = runs.map(|run| {
        let ended = run.end();
        ended.expect("pass", 0, "");
        ended.printed.matches("booting it once, to save it").count()
    });
    assert!(notes.iter().sum::<usize>() >= 1, "the state was there");
    let snapshots = fs::read_dir(cache.join("snapshots")).unwrap().map(|entry| entry.unwrap().file_name());
    let snapshots: Vec<_> = snapshots.filter(|name| name != "locks").collect();
    assert_eq!(snapshots.len(), 1, "{snapshots:?}");
}

/// The user namespace maps whoever runs this to an ordinary user, who owns the checkout and can do no more than that.
#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn an_ordinary_user_runs_it() {
    let scene = Scene::new();
    let check = "test $(id -u) = 1000 && grep -q 'CapEff:.0000000000000000' /proc/self/status && exec \"$@\"";
    let user = ["--user", "--map-user=1000", "--map-group=1000", "sh", "-c", check, "sh"];
    let mut command = scene.xtask_under("unshare", &user);
    scene.vmtest_args(&mut command, &[], QUICK);
    Run::whole(&scene, command).expect("pass", 0, "");
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn everything_is_below_a_path_with_spaces_and_more() {
    let scene = Scene::new();
    let odd = scene.path("zwei Wörter, $HOME & 'ein \"drittes\"' ☃");
    copy_builds(&odd);
    let mut vmtest = scene.vmtest(QUICK);
    vmtest.env("CARGO_TARGET_DIR", &odd).env("VMTEST_CACHE_DIR", scene.cache());
    Run::whole(&scene, vmtest).expect("pass", 0, "");
    assert!(odd.join("vmtest/logs").is_dir());
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn exec_runs_where_it_was_called_and_sees_no_secret() {
    let scene = Scene::new();
    let odd = scene.path("$(touch x) y'\"");
    fs::create_dir(&odd).unwrap();
    let mut exec = scene.xtask();
    // Not the package that misbehaves, of which every test is ignored.
    exec.env_remove("VMTEST_METADATA");
    exec.current_dir(&odd).env("SECRET", "secret").env("TOLD", "a $(touch x)");
    exec.args(["exec", "-k", "6.1", "--accel", "tcg", "--env", "TOLD", "--env", "NEW='\""]);
    exec.args(["--", "sh", "-c", "pwd; echo \"$TOLD $NEW ${SECRET-unset}\"; cat /proc/cmdline"]);
    let output = exec.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let expected = format!("{}\na $(touch x) '\" unset\n", odd.display());
    assert!(said.starts_with(&expected), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(!said.contains("secret"), "{said}");
    assert_eq!(fs::read_dir(&odd).unwrap().count(), 0);
}

/// So that not everything has to be built once more.
fn copy_builds(to: &Path) {
    fs::create_dir(to).unwrap();
    for dir in ["release", "x86_64-unknown-linux-gnu"] {
        let from = target().join(dir);
        assert!(Command::new("cp").arg("-a").args([&from, to]).status().unwrap().success());
    }
}

#[test]
fn a_tool_is_missing() {
    for variable in ["VMTEST_VNG", "VMTEST_QEMU", "VMTEST_BUSYBOX"] {
        let scene = Scene::new();
        let mut vmtest = scene.vmtest(QUICK);
        vmtest.env(variable, "/nonexistent/tool");
        let words = format!("{variable} is set to /nonexistent/tool");
        Run::whole(&scene, vmtest).expect_error(3, &words);
    }
}

/// A program that says of itself that it is a certain version, and does something else when it is used.
fn impostor(version: &str, does: &str) -> String {
    format!("case $1 in --version) echo '{version}' ;; *) {does} ;; esac")
}

fn with_tool<'a>(scene: &'a Scene, variable: &str, script: &str) -> Ended<'a> {
    let mut command = scene.xtask();
    scene.vmtest_args(&mut command, &["--accel", "tcg"], QUICK);
    command.env(variable, scene.script("tool", script));
    let (ended, peak) = Run::start(scene, command).end_with_peak();
    assert!(peak < MEMORY, "it used {peak} bytes");
    ended
}

#[test]
#[ignore = "needs a kernel: `cargo xtask test` runs it"]
fn vng_prints_nonsense_and_ends() {
    let vng = impostor("virtme-ng 1.42", "echo 'la la la'; exit 0");
    let words = "tool ended before QEMU was up: exit status: 0";
    let scene = Scene::new();
    let verdict = with_tool(&scene, "VMTEST_VNG", &vng).expect("host-error", 3, words);
    assert!(verdict.kernel["excerpt"].to_string().contains("la la la"), "{:#}", verdict.kernel);
}

#[test]
#[ignore = "needs a kernel: `cargo xtask test` runs it"]
fn vng_prints_nonsense_and_does_not_end() {
    let vng = impostor("virtme-ng 1.42", "exec yes 'la la la'");
    let words = "nothing was heard of the agent within 10 s; the kernel got as far as: l";
    let scene = Scene::new().timeout(10);
    with_tool(&scene, "VMTEST_VNG", &vng).expect("no-boot", 3, words);
}

#[test]
#[ignore = "needs a kernel: `cargo xtask test` runs it"]
fn qemu_ends_at_once() {
    let qemu = impostor("QEMU emulator version 7.2.0", "echo 'cannot do that' >&2; exit 1");
    let scene = Scene::new();
    let words = "vng ended before QEMU was up";
    let verdict = with_tool(&scene, "VMTEST_QEMU", &qemu).expect("host-error", 3, words);
    assert!(verdict.kernel["excerpt"].to_string().contains("cannot do that"), "{:#}", verdict.kernel);
}
