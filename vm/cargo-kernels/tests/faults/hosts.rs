//! Hosts that lack something, or are shared.

use std::fs;

use crate::support::{Process, Run, Scene};

/// A test that passes at once.
const QUICK: &str = "contained::prints_the_agents_words";

/// The harness is run after a shell script that has mounts of its own, which needs root.
fn with_mounts(script: &str) -> Scene {
    let script = format!("set -e; here=$PWD; {script}; cd \"$here\"; exec \"$@\"");
    let under = ["unshare", "--mount", "sh", "-c", &script, "sh"].map(str::to_owned).into();
    Scene { under, ..Scene::new().own_cache() }
}

/// And none of them disturbs another.
#[test]
#[ignore = "boots VMs, needs root: `cargo xtask test` runs it"]
fn tmp_is_full_paths_are_odd_and_the_user_is_an_ordinary_one() {
    let full = with_mounts("mount -t tmpfs -o size=64k tmpfs /tmp; ! head -c 1m /dev/zero > /tmp/full 2> /dev/null");
    let on_full = Run::start(&full, full.vmtest(&[], QUICK));

    let odd = Scene::new().own_cache();
    let target = odd.path("zwei Wörter, $HOME & 'ein \"drittes\"' ☃");
    let mut vmtest = odd.vmtest(&[], QUICK);
    vmtest.env("CARGO_TARGET_DIR", &target);
    let on_odd = Run::start(&odd, vmtest);

    // The user namespace maps whoever runs this to a user who owns the checkout and can do no more than that.
    let check = "test $(id -u) = 1000 && grep -q 'CapEff:.0000000000000000' /proc/self/status && exec \"$@\"";
    let user = ["unshare", "--user", "--map-user=1000", "--map-group=1000", "sh", "-c", check, "sh"];
    let ordinary = Scene { under: user.map(str::to_owned).into(), ..Scene::new() };
    let on_ordinary = Run::start(&ordinary, ordinary.vmtest(&[], QUICK));

    for run in [on_full, on_odd, on_ordinary] {
        run.end().expect("pass", 0, "");
    }
    assert!(target.join("vmtest/logs").is_dir());
}

#[test]
fn the_report_directory_cannot_be_written_to() {
    let scene = Scene::new();
    fs::write(scene.reports(), "a file").unwrap();
    scene.run(&[], QUICK).expect_exit(3, "no reports can be written to");
}

/// A `/dev` of its own, in which `/dev/kvm` is made by a command, and what is then said of it.
const KVMS: &[(&str, &str)] = &[
    ("true", "there is no /dev/kvm"),
    // Not even root can open a device through a file system that is mounted without devices.
    ("mknod nodev/kvm c 10 232; touch dev/kvm; mount --bind nodev/kvm dev/kvm", "this user may not open /dev/kvm"),
    // It opens, and knows nothing of what it is asked.
    ("mknod -m 666 dev/kvm c 1 3", "/dev/kvm is there, but QEMU cannot use it"),
];

#[test]
#[ignore = "boots a VM, needs root: `cargo xtask test` runs it"]
fn without_kvm_it_emulates_unless_kvm_is_insisted_on() {
    for (kvm, why) in KVMS {
        let script = format!(
            "mkdir -p /run/vmtest-fault; mount -t tmpfs tmpfs /run/vmtest-fault; cd /run/vmtest-fault; \
             mkdir dev nodev; mount -t tmpfs tmpfs dev; mount -t tmpfs -o nodev tmpfs nodev; \
             for node in null zero full random urandom tty; do cp -a /dev/$node dev; done; \
             ln -s /proc/self/fd dev/fd; {kvm}; mount --rbind dev /dev; cd /"
        );
        // The guest ends as soon as the kernel is up.
        let scene = with_mounts(&script).metadata("kernel-args = ['rdinit=/nonexistent']");
        // What is known of the host's.
        let _ = fs::remove_file(scene.cache().join("kvm.json"));
        let ended = scene.run(&[], QUICK);
        assert_eq!(ended.expect("panic", 3, "Kernel panic - not syncing: VFS")["accel"], "tcg");
        let note = format!("emulating, since KVM does not work here: {why}");
        assert!(ended.printed.contains(&note), "{}", ended.printed);

        let why = format!("KVM does not work here: {why}");
        scene.run(&["--accel", "kvm"], QUICK).expect("host-error", 3, &why);
    }
}

#[test]
#[ignore = "needs a kernel: `cargo xtask test` runs it"]
fn the_kernel_lacks_an_option() {
    let scene = Scene::new();
    let fragment = scene.path("kconfig");
    fs::write(&fragment, "CONFIG_NOT_INVENTED_YET=y  # it is not\n").unwrap();
    let scene = scene.metadata(&format!("kconfig = ['{}']", fragment.display()));
    let kernel = scene.run(&[], QUICK).expect("unsupported", 3, "built without options that are needed");
    assert!(kernel["excerpt"].to_string().contains("CONFIG_NOT_INVENTED_YET"));
}

/// The cargo that it is given builds the agent and nothing else, as in a tree that does not compile.
#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn exec_has_directory_environment_and_modules_but_no_secret() {
    let scene = Scene::new();
    let odd = scene.path("$(touch x) y'\"");
    fs::create_dir(&odd).unwrap();
    let only_the_agent = "for arg; do case $arg in misbehave | --test) exit 101 ;; esac; done";
    let cargo = scene.script("cargo", &format!("{only_the_agent}\nexec '{}' \"$@\"", env!("CARGO")));
    let script = "pwd; echo \"$TOLD $NEW ${SECRET-unset}\"; cat /proc/cmdline; grep ' /sys/fs/bpf bpf ' /proc/mounts; hostname; \
                  modprobe dummy; mount -t squashfs nothing /run; ls -d /sys/module/dummy /sys/module/squashfs; \
                  grep -ow cx16 /proc/cpuinfo; sleep 9999 & setsid sleep 9999 & echo last";
    let mut exec = scene.harness();
    // Not the package that misbehaves, of which every test is ignored.
    exec.env_remove("VMTEST_METADATA").env("CARGO", cargo);
    exec.current_dir(&odd).env("SECRET", "secret").env("TOLD", "a $(touch x)");
    exec.args(["exec", "-k", "6.12", "--accel", "tcg", "--timeout", "300", "--env", "TOLD", "--env", "NEW='\""]);
    let output = exec.args(["--", "sh", "-c", script]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.starts_with(&format!("{}\na $(touch x) '\" unset\n", odd.display())), "{said}");
    for words in ["/sys/module/dummy\n", "/sys/module/squashfs\n", "/sys/fs/bpf", "vmtest\n"] {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
    assert!(said.ends_with("\nlast\n") && !said.contains("secret"), "{said}");
    // QEMU up to 7.2 emulates that instruction wrongly.
    assert!(!said.contains("cx16"), "{said}");
    assert_eq!(fs::read_dir(&odd).unwrap().count(), 0);
    assert_eq!(Process::marked(&scene.mark()), []);
}

/// A program that says of itself that it is a certain version, and does something else when it is used.
#[test]
#[ignore = "needs a kernel: `cargo xtask test` runs it"]
fn tools_that_do_something_else_are_host_errors() {
    const VNG: (&str, &str) = ("VMTEST_VNG", "virtme-ng 1.42");
    const QEMU: (&str, &str) = ("VMTEST_QEMU", "QEMU emulator version 7.2.0");
    for ((variable, version), does, verdict, words) in [
        (VNG, "echo 'la la la'", "host-error", "tool ended before QEMU was up: exit status: 0"),
        (VNG, "exec yes 'la la la'", "no-boot", "within 10 s; the kernel got as far as: l"),
        (QEMU, "echo 'la la la' >&2; exit 1", "host-error", "vng ended before QEMU was up"),
    ] {
        let scene = Scene { timeout: 10, ..Scene::new() };
        let tool = format!("case $1 in --version) echo '{version}' ;; *) {does} ;; esac");
        let mut command = scene.vmtest(&["--accel", "tcg"], QUICK);
        command.env(variable, scene.script("tool", &tool));
        let kernel = Run::start(&scene, command).end_within_memory().expect(verdict, 3, words);
        assert!(kernel["excerpt"].to_string().contains("la la la"), "{kernel:#}");
    }
}
