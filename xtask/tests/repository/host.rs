//! What the harness needs of the host, on machines of the tests' own making: every tool is a fake on a PATH of its own.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// Its programs, its target directory and its cache.
struct Machine(TempDir);

/// The last line of a setup that did what it could.
const ALL_HERE: &str = "Everything that is needed is here.\n";

/// Tools that only have to be there.
const THERE: &str = "busybox file modprobe depmod make pkg-config llvm-objdump llvm-readelf flex bison bc perl pahole";
/// What the other working tools do, as shell code.
const WORKING: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "echo 'QEMU emulator version 7.2.22 (Fake)'"),
    ("vng", "echo 'virtme-ng 1.42'"),
    ("python3", PYTHON),
    ("clang", "echo 'Fake clang version 14.0.6'"),
    ("cc", "echo \"$LIBRARIES/${1#-print-file-name=}\""),
    ("sudo", "exec \"$@\""),
    // `env NAME=VALUE… PROGRAM ARGS…`
    ("env", "while case $1 in *=*) ;; *) false ;; esac; do export \"$1\"; shift; done; exec \"$@\""),
];
/// Makes an environment, and in it a vng that works once pip is through; the tool `pip` is what its pip does.
const PYTHON: &str = r#"
case "$*" in
    "-c import venv, "*) echo 'Python 3.11.2' ;;
    "-m venv --clear "*)
        PATH=$REAL_PATH
        rm -rf "$4" && mkdir -p "$4/bin"
        ln -s "$(readlink "$0")" "$4/bin/python3"
        cp "${0%/*}/pip.sh" "$4/bin/python3.sh"
        ;;
esac
"#;
const PIP: &str = r#"
echo "$*" >> "$CALLS/pip.calls"
PATH=$REAL_PATH
ln -s "$(readlink "$0")" "${0%/*}/vng"
echo 'echo virtme-ng 1.42' > "${0%/*}/vng.sh"
"#;

impl Machine {
    /// With everything that is needed, but for these tools.
    fn without(names: &[&str]) -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        ["bin", "lib", "target", "cache"].iter().for_each(|name| fs::create_dir(machine.path(name)).unwrap());
        ["lib/libc.a", "lib/libelf.a", "lib/libz.a"].iter().for_each(|name| fs::write(machine.path(name), "").unwrap());
        let there = THERE.split(' ').map(|name| (name, ""));
        there.chain(WORKING.iter().copied()).for_each(|(name, code)| machine.tool(name, code));
        names.iter().for_each(|name| machine.remove(name));
        machine
    }

    /// A Debian, whose apt-get notes how it was called, as root would see it, does this, and brings `file`.
    fn debian(apt_get: &str, without: &[&str]) -> Self {
        let machine = Self::without(without);
        machine.tool("dpkg", "");
        let brings = "case \"$*\" in *install*) PATH=$REAL_PATH; ln -sf \"$(readlink \"${0%/*}/make\")\" \"${0%/*}/file\";; esac";
        let notes = "echo \"$DEBIAN_FRONTEND $*\" >> \"$CALLS/apt-get.calls\"";
        machine.tool("apt-get", &format!("{notes}\n{apt_get}\n{brings}"));
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A program on its PATH, as shell code.
    fn tool(&self, name: &str, code: &str) {
        let path = self.path("bin").join(name);
        fs::write(self.path(&format!("bin/{name}.sh")), code).unwrap();
        let _ = fs::remove_file(&path);
        symlink(Path::new(env!("CARGO_MANIFEST_DIR")).join("../vm/guest/tests/fake-tool"), path).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.path("bin").join(name)).unwrap();
    }

    fn xtask(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        let directories = [("PATH", "bin"), ("LIBRARIES", "lib"), ("CALLS", ""), ("CARGO_TARGET_DIR", "target")];
        command.args(args).stdin(Stdio::null()).envs(directories.map(|(name, path)| (name, self.path(path))));
        command.env("VMTEST_CACHE_DIR", self.path("cache"));
        // What the fakes themselves need.
        command.env("REAL_PATH", std::env::var_os("PATH").unwrap_or_default());
        for name in ["VMTEST_QEMU", "VMTEST_VNG", "VMTEST_BUSYBOX", "PKG_CONFIG", "CLANG", "LIBBPF_SYS_LIBRARY_PATH"] {
            command.env_remove(name);
        }
        command
    }

    /// What it prints, after checking its exit code.
    #[track_caller]
    fn says(&self, args: &[&str], code: i32) -> String {
        let Output { status, stdout, stderr } = self.xtask(args).output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert_eq!(status.code(), Some(code), "{said}");
        said
    }

    /// What `doctor --json` says of a thing.
    fn doctor(&self, name: &str) -> Value {
        diagnosis(&mut self.xtask(&["doctor", "--json"]), name)
    }

    /// How a tool was called.
    fn calls(&self, name: &str) -> Vec<String> {
        let calls = fs::read_to_string(self.path(&format!("{name}.calls"))).unwrap_or_default();
        calls.lines().map(str::to_owned).collect()
    }

    /// The environments of virtme-ng in the cache.
    fn environments(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path("cache")).unwrap();
        entries.map(|entry| entry.unwrap().path()).filter(|path| path.join("bin").exists()).collect()
    }

    /// A setup that has come to a line that begins so, and what more it prints.
    fn begin(&self, beginning: &str) -> (Child, BufReader<ChildStdout>) {
        let mut child = self.xtask(&["setup"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.by_ref().lines().map(Result::unwrap).find(|line| line.starts_with(beginning)).unwrap();
        (child, output)
    }
}

/// What a doctor says of a thing, after checking that its exit code agrees.
fn diagnosis(doctor: &mut Command, name: &str) -> Value {
    let output = doctor.output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let fine = checks.iter().all(|check| check["ok"] == true || check["needed"] == false);
    assert_eq!(report["ok"], fine, "{report}");
    assert_eq!(output.status.code(), Some(if fine { 0 } else { 3 }), "{report}");
    checks.iter().find(|check| check["name"] == name).unwrap_or(&Value::Null).clone()
}

#[track_caller]
fn is_reported(check: &Value, words: &[&str], remedy: &str) {
    assert_eq!((&check["ok"], &check["needed"]), (&false.into(), &true.into()), "{check}");
    let said = check["error"].as_str().unwrap();
    assert!(words.iter().all(|part| said.contains(part)), "{said}");
    assert!(check["remedy"].as_str().unwrap().contains(remedy), "{check}");
}

#[test]
fn setup_installs_packages_or_says_what_it_would_or_cannot_do() {
    let stale = "case \"$*\" in
        *update*) echo > \"$0.updated\" ;;
        *install*) [ -e \"$0.updated\" ] || exit 100 ;;
    esac";
    let by_hand = "missing, or do not work:\n  file was not found; it is needed to let virtme-ng read a kernel's version: \
                   install it (Debian: file), or work inside `nix develop`\n  clang was not found";
    let dry = "packages: file python3 python3-venv\nwould install virtme-ng into ";
    for (machine, command, code, part, calls) in [
        (Machine::debian("", &[]), "setup", 0, ALL_HERE, 0),
        (Machine::debian("", &[]), "setup --dry-run", 0, "Nothing to do", 0),
        // Refuses to install until it has updated.
        (Machine::debian(stale, &["file"]), "setup", 0, "install --yes --no-install-recommends file\nEverything", 3),
        (Machine::debian("", &["file", "vng", "python3"]), "setup --dry-run", 0, dry, 0),
        (Machine::debian("exit 100", &["file"]), "setup", 3, "`apt-get update` failed", 2),
        (Machine::without(&["file", "clang"]), "setup", 3, by_hand, 0),
    ] {
        let said = machine.says(&command.split(' ').collect::<Vec<_>>(), code);
        assert!(said.contains(part), "{said}");
        let called = machine.calls("apt-get");
        assert!(called.iter().all(|call| call.starts_with("noninteractive ")), "{called:?}");
        assert_eq!((called.len(), machine.environments().len()), (calls, 0), "{said}");
    }
}

#[test]
fn virtme_ng_is_installed_as_pinned_whatever_came_before() {
    // Its vng is there already, and then something goes wrong.
    let machine = Machine::without(&["vng"]);
    machine.tool("pip", &format!("{PIP} exit 1"));
    let said = machine.says(&["setup"], 3);
    assert!(said.contains("installing virtme-ng failed"), "{said}");
    let environment = machine.environments().pop().unwrap();
    assert!(environment.join("bin/vng").exists());
    assert_eq!(machine.doctor("vng")["error"], "vng was not found");
    machine.tool("pip", PIP);
    // The second time there is nothing to do.
    for _ in 0..2 {
        assert!(machine.says(&["setup"], 0).ends_with(ALL_HERE));
        assert_eq!(machine.calls("pip").len(), 2);
        assert_eq!(machine.environments(), std::slice::from_ref(&environment));
        assert_eq!(machine.doctor("vng")["path"], environment.join("bin/vng").to_str().unwrap());
    }
    // Other pins than these: made again.
    fs::write(environment.join("vmtest-complete"), "1.41").unwrap();
    assert_eq!(machine.doctor("vng")["ok"], false);
    machine.says(&["setup"], 0);
    let pip = machine.calls("pip");
    assert_eq!(pip.len(), 3);
    for part in ["-m pip install", "--require-hashes", "--only-binary :all:"] {
        assert!(pip.iter().all(|call| call.contains(part)), "{pip:?}");
    }
}

#[test]
fn concurrent_setup_runs_once_and_killed_leaves_no_process() {
    let machine = Machine::without(&["vng"]);
    let gate = machine.path("gate");
    nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).unwrap();
    machine.tool("pip", &format!("echo pip is here; read go < '{}'", gate.display()));
    let (mut killed, mut output) = machine.begin("pip is here");
    let others = [(); 2].map(|()| machine.begin("Waiting for another setup"));
    machine.tool("pip", PIP);
    killed.kill().unwrap();
    killed.wait().unwrap();
    // The pipe ends when the last process that holds it has ended.
    output.read_to_string(&mut String::new()).unwrap();
    for (mut child, mut output) in others {
        let mut said = String::new();
        output.read_to_string(&mut said).unwrap();
        assert!(child.wait().unwrap().success() && said.ends_with(ALL_HERE), "{said}");
    }
    assert_eq!(machine.calls("pip").len(), 1);
}

#[test]
fn a_missing_tool_is_named_with_the_way_to_get_it() {
    let machine = Machine::without(&[]);
    assert_eq!(machine.doctor("busybox")["path"], machine.path("bin/busybox").to_str().unwrap());
    // Nothing is left to be installed with it.
    assert!(machine.doctor("python3").is_null());
    let tools = ["qemu-system-x86_64", "busybox", "file", "clang", "make", "pkg-config"];
    tools.iter().chain(&["vng", "llvm-objdump"]).for_each(|name| machine.remove(name));
    fs::remove_file(machine.path("lib/libelf.a")).unwrap();
    for name in tools {
        is_reported(&machine.doctor(name), &[name, "was not found"], "install it (Debian: ");
    }
    is_reported(&machine.doctor("vng"), &["vng was not found"], "cargo xtask setup");
    machine.tool("python3", "echo 'No module named ensurepip' >&2; exit 1");
    is_reported(&machine.doctor("python3"), &["bin/python3 does not work", "ensurepip"], "python3-venv");
    is_reported(&machine.doctor("libelf.a"), &["libelf.a was not found"], "libelf-dev");
    // Only `inspect` is without it; a numbered one will do.
    let objdump = machine.doctor("llvm-objdump");
    assert_eq!((&objdump["ok"], &objdump["needed"]), (&false.into(), &false.into()), "{objdump}");
    machine.tool("llvm-objdump-14", "");
    assert_eq!(machine.doctor("llvm-objdump")["ok"], true);
    let debian = Machine::debian("", &["busybox"]);
    is_reported(&debian.doctor("busybox"), &["not found"], "apt-get install busybox-static");
    // One with shared libraries is none.
    symlink(std::env::current_exe().unwrap(), debian.path("bin/busybox")).unwrap();
    is_reported(&debian.doctor("busybox"), &["bin/busybox is not a static executable"], "busybox-static");
}

#[test]
fn old_broken_or_wrong_vng_is_refused_with_its_output() {
    let machine = Machine::without(&[]);
    for (code, said) in [
        ("echo 'virtme-ng 1.9'", "version 1.9, and 1.42 or newer is needed"),
        ("echo 'virtme-ng 1'", "version 1, and 1.42 or newer is needed"),
        ("echo 'Vulkan NG viewer'; echo 2.0", "printed \"Vulkan NG viewer\""),
        ("printf '\\033[31mred\\n'", "printed \"\\u{1b}[31mred\""),
        ("echo Traceback >&2; echo 'ImportError: no virtme' >&2; exit 1", "ImportError: no virtme"),
        ("echo 'virtme-ng 1.42'; exit 4", "virtme-ng 1.42"),
        ("kill -9 $$", "signal: 9"),
    ] {
        machine.tool("vng", code);
        let path = machine.path("bin/vng");
        is_reported(&machine.doctor("vng"), &[path.to_str().unwrap(), said], "cargo xtask setup");
    }
    // Its Python is gone.
    machine.remove("vng");
    fs::write(machine.path("script"), "#!/nonexistent/python3\n").unwrap();
    fs::set_permissions(machine.path("script"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink(machine.path("script"), machine.path("bin/vng")).unwrap();
    is_reported(&machine.doctor("vng"), &["does not work", "No such file"], "cargo xtask setup");
}

#[test]
fn an_environment_variable_comes_first_and_must_be_right() {
    let machine = Machine::without(&[]);
    let doctor =
        |variable: &str, value: &str, name| diagnosis(machine.xtask(&["doctor", "--json"]).env(variable, value), name);
    for version in ["1.100", "2"] {
        machine.tool("mine", &format!("echo 'virtme-ng {version}'"));
        assert_eq!(doctor("VMTEST_VNG", machine.path("bin/mine").to_str().unwrap(), "vng")["version"], version);
    }
    assert_eq!(doctor("VMTEST_VNG", "", "vng")["version"], "1.42", "empty is unset");
    for (variable, name) in
        [("VMTEST_VNG", "vng"), ("VMTEST_QEMU", "qemu-system-x86_64"), ("VMTEST_BUSYBOX", "busybox")]
    {
        let error = format!("{variable} is set to /nonexistent/tool");
        is_reported(&doctor(variable, "/nonexistent/tool", name), &[&error], variable);
    }
}

#[test]
fn without_tools_vmtest_says_so_before_it_does_anything() {
    let machine = Machine::without(&["clang"]);
    let said = machine.says(&["vmtest", "-k", "6.12"], 3);
    assert!(said.starts_with("error: clang was not found; it is needed to compile for BPF"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    machine.remove("file");
    machine.tool("vng", "echo 'virtme-ng 1.9'");
    let said = machine.says(&["vmtest", "-k", "6.12"], 3);
    for part in [
        "error: tools are missing, or do not work:\n",
        "bin/vng is version 1.9, and 1.42 or newer is needed",
        "\n  file was not found; it is needed to let",
        ": install it (Debian: file), or",
    ] {
        assert!(said.contains(part), "{said}");
    }
    let built = fs::read_dir(machine.path("target")).unwrap();
    let built = built.map(|entry| entry.unwrap().file_name()).filter(|name| name != "vmtest");
    assert_eq!(built.collect::<Vec<_>>(), [""; 0], "something was built");
}
