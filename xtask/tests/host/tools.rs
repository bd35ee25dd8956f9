//! A tool that is missing, too old or not what it seems is one message that says which and what to do.

use crate::machine::{Machine, diagnosis, text};

#[track_caller]
fn check_trouble(machine: &Machine, name: &str, problem: &[&str], remedy: &str) {
    let check = machine.doctor(name);
    assert_eq!(check["ok"], false, "{check}");
    assert_eq!(check["needed"], true, "{check}");
    let said = check["problem"].as_str().unwrap();
    assert!(problem.iter().all(|part| said.contains(part)), "{said}");
    assert!(check["remedy"].as_str().unwrap().contains(remedy), "{check}");
}

#[test]
fn a_missing_tool_is_named_with_the_way_to_get_it() {
    let machine = Machine::complete();
    let busybox = machine.doctor("busybox");
    assert_eq!(busybox["path"], machine.path("bin/busybox").to_str().unwrap());
    // Nothing is left to be installed with it.
    assert!(machine.doctor("python3").is_null());
    let tools = ["qemu-system-x86_64", "busybox", "file", "clang", "make", "pkg-config"];
    tools.iter().chain(&["vng", "llvm-objdump"]).for_each(|name| machine.remove(name));
    std::fs::remove_file(machine.path("lib/libelf.a")).unwrap();
    for name in tools {
        check_trouble(&machine, name, &[name, "was not found"], "install what Debian has");
    }
    check_trouble(&machine, "vng", &["vng was not found"], "cargo xtask setup");
    check_trouble(&machine, "libelf.a", &["libelf.a was not found"], "libelf-dev");
    // Only `inspect` is without it; a numbered one will do.
    let objdump = machine.doctor("llvm-objdump");
    assert_eq!((&objdump["ok"], &objdump["needed"]), (&false.into(), &false.into()), "{objdump}");
    machine.tool("llvm-objdump-14", "");
    assert_eq!(machine.doctor("llvm-objdump")["ok"], true);
    let debian = Machine::debian_without("busybox");
    debian.tool("apt-get", "");
    check_trouble(&debian, "busybox", &["not found"], "apt-get install busybox-static");
    // One with shared libraries is none.
    debian.dynamic_executable("busybox");
    check_trouble(&debian, "busybox", &["bin/busybox is not a static executable"], "busybox-static");
}

#[test]
fn vng_that_is_old_or_broken_or_another_program_is_refused_with_what_it_said() {
    let machine = Machine::complete();
    for (code, said) in [
        ("echo 'virtme-ng 1.9'", "version 1.9, and 1.42 or newer is needed"),
        ("echo 'Vulkan NG viewer'; echo 2.0", "printed \"Vulkan NG viewer\""),
        ("printf '\\033[31mred\\n'", "printed \"\\u{1b}[31mred\""),
        ("echo Traceback >&2; echo 'ImportError: no virtme' >&2; exit 1", "ImportError: no virtme"),
        ("echo 'virtme-ng 1.42'; exit 4", "virtme-ng 1.42"),
        ("kill -9 $$", "signal: 9"),
    ] {
        machine.tool("vng", code);
        let path = machine.path("bin/vng");
        check_trouble(&machine, "vng", &[path.to_str().unwrap(), said], "cargo xtask setup");
    }
    // Its Python is gone.
    machine.remove("vng");
    std::fs::write(machine.path("script"), "#!/nonexistent/python3\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(machine.path("script"), mode).unwrap();
    std::os::unix::fs::symlink(machine.path("script"), machine.path("bin/vng")).unwrap();
    check_trouble(&machine, "vng", &["does not work", "No such file"], "cargo xtask setup");
}

#[test]
fn an_environment_variable_comes_first_and_must_be_right() {
    let machine = Machine::complete();
    machine.tool_at(&machine.path("mine"), "echo 'virtme-ng 1.50'");
    let doctor = |value: &str| {
        let mut command = machine.xtask(&["doctor", "--json"]);
        diagnosis(&command.env("VMTEST_VNG", value).output().unwrap(), "vng")
    };
    assert_eq!(doctor(machine.path("mine").to_str().unwrap())["version"], "1.50");
    let wrong = doctor("/nonexistent/vng");
    assert!(wrong["problem"].as_str().unwrap().contains("VMTEST_VNG is set to /nonexistent/vng"));
    assert!(wrong["remedy"].as_str().unwrap().contains("VMTEST_VNG"));
    assert_eq!(doctor("")["version"], "1.42", "empty is unset");
}

#[test]
fn without_tools_vmtest_says_so_before_it_does_anything() {
    let machine = Machine::complete();
    machine.remove("clang");
    let vmtest = || {
        let output = machine.xtask(&["vmtest", "-k", "6.12"]).output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{}", text(&output));
        text(&output)
    };
    let said = vmtest();
    assert!(said.starts_with("error: clang was not found; it is needed to compile for BPF"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    machine.remove("file");
    machine.tool("vng", "echo 'virtme-ng 1.9'");
    let said = vmtest();
    for part in [
        "error: tools are missing, or do not work:\n",
        "bin/vng is version 1.9, and 1.42 or newer is needed",
        "\n  file was not found; it is needed to let",
        ": install what Debian has in file, or",
    ] {
        assert!(said.contains(part), "{said}");
    }
    let built = std::fs::read_dir(machine.path("target")).unwrap();
    let built = built.map(|entry| entry.unwrap().file_name()).filter(|name| name != "vmtest");
    assert_eq!(built.collect::<Vec<_>>(), [""; 0], "something was built");
}
