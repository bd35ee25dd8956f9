//! The lists of kernel options are enough: the tracer's tests pass on a kernel that has nothing else.

use std::fs;
use std::process::Command;

use cargo_kernels::kernels::{Arch, kconfig};

use crate::{workspace, xtask};

/// What Kconfig wants around the listed options: menus, and what they depend on.
const AROUND: [&str; 5] = ["VIRTIO_MENU", "NETWORK_FILESYSTEMS", "INET", "FTRACE", "UPROBE_EVENTS"];

/// Every option of the lists that is not to be absent, and those around them, as lines of a configuration.
fn options() -> Vec<String> {
    let lists = ["vm/kconfig", Arch::host().kconfig.0, "vm/kconfig.boot", "bpf/kconfig"];
    let text = lists.map(|name| fs::read_to_string(workspace().join(name)).unwrap()).join("\n");
    let needs = kconfig::needs(&text, "lists").unwrap().into_iter();
    let wanted = needs.filter(|need| need.values.iter().any(|value| value == "y"));
    wanted.map(|need| format!("{}=y", need.option)).chain(AROUND.map(|name| format!("CONFIG_{name}=y"))).collect()
}

#[test]
#[ignore = "builds a kernel, in minutes, of a clean source tree that the variable LINUX_SOURCE names"]
fn kernel_with_only_listed_options_passes() {
    let tree = std::env::var("LINUX_SOURCE").expect("LINUX_SOURCE: the path of a kernel's source tree");
    let build = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (fragment, config) = (build.path().join("fragment"), build.path().join(".config"));
    fs::write(&fragment, options().join("\n") + "\n").unwrap();
    let make = |target: &str| {
        let mut make = Command::new("make");
        make.args(["-C", &tree, &format!("O={}", build.path().display())]);
        make.args([&format!("ARCH={}", Arch::host()), "LOCALVERSION=", "-j2", target]);
        let status = make.env("KCONFIG_ALLCONFIG", &fragment).env_remove("MAKEFLAGS").status().unwrap();
        assert!(status.success(), "make {target}");
    };
    make("allnoconfig");
    let has = fs::read_to_string(config).unwrap();
    let dropped: Vec<String> = options().into_iter().filter(|line| !has.lines().any(|has| has == line)).collect();
    assert!(dropped.is_empty(), "dropped without a word: {dropped:?}");
    let [_, target, image] = Arch::host().source;
    make(target);
    for how in [&[][..], &["--warm"]] {
        xtask(&["vmtest"]).args(how).arg("-k").arg(build.path().join(image)).unwrap();
    }
}
