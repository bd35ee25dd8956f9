//! A machine whose programs are fakes on a PATH of its own, with a target directory and a cache of its own.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// See the module.
pub struct Machine {
    dir: TempDir,
}

/// Tools that only have to be there.
const THERE: &str = "file modprobe depmod make pkg-config llvm-objdump llvm-readelf flex bison bc perl pahole";
/// What the other working tools do, as shell code.
const WORKING: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "echo 'QEMU emulator version 7.2.22 (Fake)'"),
    ("vng", "echo 'virtme-ng 1.42'"),
    ("python3", "echo 'Python 3.11.2'"),
    ("clang", "echo 'Fake clang version 14.0.6'"),
    ("cc", "echo \"$LIBRARIES/${1#-print-file-name=}\""),
    ("sudo", "exec \"$@\""),
    // `env NAME=VALUE… PROGRAM ARGS…`
    ("env", "while case $1 in *=*) ;; *) false ;; esac; do export \"$1\"; shift; done; exec \"$@\""),
];

impl Machine {
    /// With everything that is needed.
    pub fn complete() -> Self {
        let machine = Self { dir: tempfile::tempdir().unwrap() };
        for name in ["bin", "lib", "target", "cache"] {
            std::fs::create_dir(machine.path(name)).unwrap();
        }
        for name in ["libc.a", "libelf.a", "libz.a"] {
            std::fs::write(machine.path("lib").join(name), "").unwrap();
        }
        let there = THERE.split(' ').map(|name| (name, ""));
        there.chain(WORKING.iter().copied()).for_each(|(name, code)| machine.tool(name, code));
        machine.static_executable("busybox");
        machine
    }

    /// A Debian without a certain tool.
    pub fn debian_without(name: &str) -> Self {
        let machine = Self::complete();
        machine.tool("dpkg", "");
        machine.remove(name);
        machine
    }

    /// A path on this machine.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A program on its PATH, as shell code.
    pub fn tool(&self, name: &str, code: &str) {
        self.tool_at(&self.path("bin").join(name), code);
    }

    /// A program anywhere, as shell code.
    pub fn tool_at(&self, path: &Path, code: &str) {
        let mut script = path.as_os_str().to_owned();
        script.push(".sh");
        std::fs::write(script, code).unwrap();
        let fake = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vm/guest/tests/fake-tool");
        let _ = std::fs::remove_file(path);
        symlink(fake, path).unwrap();
    }

    /// Takes a program off its PATH.
    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.path("bin").join(name)).unwrap();
    }

    /// An ELF executable without a program header, and so without an interpreter.
    pub fn static_executable(&self, name: &str) {
        let mut header = vec![0; 64];
        // Magic, 64 bits, little-endian, version 1 (elf(5)).
        header[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1]);
        let path = self.path("bin").join(name);
        std::fs::write(&path, header).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// An executable that needs shared libraries: this one.
    pub fn dynamic_executable(&self, name: &str) {
        symlink(std::env::current_exe().unwrap(), self.path("bin").join(name)).unwrap();
    }

    /// `cargo xtask` on this machine.
    pub fn xtask(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command
            .args(args)
            .stdin(Stdio::null())
            .env("PATH", self.path("bin"))
            // For what the fakes themselves need.
            .env("REAL_PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("LIBRARIES", self.path("lib"))
            .env("CARGO_TARGET_DIR", self.path("target"))
            .env("VMTEST_CACHE_DIR", self.path("cache"));
        for variable in
            ["VMTEST_QEMU", "VMTEST_VNG", "VMTEST_BUSYBOX", "PKG_CONFIG", "CLANG", "LIBBPF_SYS_LIBRARY_PATH"]
        {
            command.env_remove(variable);
        }
        command
    }

    /// What `doctor --json` says of a thing, after checking that its exit code agrees.
    pub fn doctor(&self, name: &str) -> Value {
        diagnosis(&self.xtask(&["doctor", "--json"]).output().unwrap(), name)
    }

    /// How often a tool was called that appends a line to `$0.calls`.
    pub fn calls(&self, name: &str) -> Vec<String> {
        let calls = self.path("bin").join(format!("{name}.calls"));
        let calls = std::fs::read_to_string(calls).unwrap_or_default();
        calls.lines().map(str::to_owned).collect()
    }
}

/// What a doctor's output says of a thing.
pub fn diagnosis(output: &Output, name: &str) -> Value {
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let fine = checks.iter().all(|check| check["ok"] == true || check["needed"] == false);
    assert_eq!(report["ok"], fine, "{report}");
    assert_eq!(output.status.code(), Some(if fine { 0 } else { 3 }), "{report}");
    checks.iter().find(|check| check["name"] == name).unwrap_or(&Value::Null).clone()
}

/// Output as text, standard output first.
pub fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}
