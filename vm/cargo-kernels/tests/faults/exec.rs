//! `xtask exec`: one command in a guest that has the host's root.

use crate::support::{Run, Scene};

/// The kernel that the commands run in.
const KERNEL: &str = "6.12";

/// What a command printed that ran in a guest. The cargo that it is given builds the agent and nothing else, as in a
/// tree that does not compile.
fn exec(script: &str) -> String {
    let scene = Scene::new();
    let only_the_agent = "for arg; do case $arg in misbehave | --test) exit 101 ;; esac; done";
    let cargo = scene.script("cargo", &format!("{only_the_agent}\nexec '{}' \"$@\"", env!("CARGO")));
    let mut command = scene.xtask();
    command.env("CARGO", cargo).args(["exec", "--kernel", KERNEL, "--timeout", "300"]);
    command.args(["--", "sh", "-c", script]);
    let ended = Run::whole(&scene, command);
    ended.expect_exit(0);
    ended.printed
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn a_command_runs_where_the_program_does_not_compile_and_ends_with_its_own_process() {
    let printed = exec("sleep 9999 & setsid sleep 9999 & echo hi");
    assert_eq!(printed.lines().last(), Some("hi"), "{printed}");
}

#[test]
#[ignore = "boots a VM: `cargo xtask test` runs it"]
fn a_command_finds_what_a_test_does() {
    let modules = "modprobe dummy; mount -t squashfs nothing /run; ls -d /sys/module/dummy /sys/module/squashfs";
    let printed = exec(&format!("{modules}; grep ' /sys/fs/bpf bpf ' /proc/mounts; hostname"));
    for words in ["/sys/module/dummy\n", "/sys/module/squashfs\n", "/sys/fs/bpf", "vmtest\n"] {
        assert!(printed.contains(words), "{words:?} is not in {printed}");
    }
}
