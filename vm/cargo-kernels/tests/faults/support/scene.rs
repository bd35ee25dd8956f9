//! A place for one fault: what the harness is run on, and the files that belong to it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::process::MARK;

/// The kernel that faults are shown on; one that boots quickly.
const KERNEL: &str = "6.1";
/// Seconds until a guest is given up, where nothing should wait for that.
const LONG: &str = "2000";

/// One fault's surroundings. Dropping it removes its files.
pub struct Scene {
    dir: TempDir,
    /// Lines of the metadata table.
    metadata: Vec<String>,
    kernels: &'static str,
    timeout: String,
}

impl Scene {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("fault-").tempdir_in(env!("CARGO_TARGET_TMPDIR"));
        let metadata = [
            "[workspace.metadata.kernels]",
            "cargo-args = ['--release', '--package', 'misbehave']",
            "program = 'misbehave'",
            "ready-line = 'ready to misbehave'",
            "static = true",
            "root = 'minimal'",
            "memory-mib = 256",
        ];
        Self { dir: dir.unwrap(), metadata: metadata.map(str::to_owned).into(), kernels: KERNEL, timeout: LONG.into() }
    }

    /// A further line of the metadata table, or one in place of another with the same key.
    pub fn metadata(mut self, line: &str) -> Self {
        let key = line.split(' ').next();
        self.metadata.retain(|other| other.split(' ').next() != key);
        self.metadata.push(line.to_owned());
        self
    }

    /// Gives guests up after so many seconds.
    pub fn timeout(mut self, seconds: u32) -> Self {
        self.timeout = seconds.to_string();
        self
    }

    /// Runs on these kernels instead of one.
    pub fn kernels(mut self, kernels: &'static str) -> Self {
        self.kernels = kernels;
        self
    }

    /// A path in a directory of this scene's own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where the reports go.
    pub fn reports(&self) -> PathBuf {
        self.path("report")
    }

    /// What distinguishes the processes of this scene from all others on the machine.
    pub fn mark(&self) -> String {
        self.dir.path().file_name().unwrap().to_str().unwrap().to_owned()
    }

    /// `cargo kernels test` on the tests that misbehave of which the name contains `tests`.
    pub fn vmtest(&self, tests: &str) -> Command {
        let mut command = self.xtask();
        self.vmtest_args(&mut command, &[], tests);
        command
    }

    /// The arguments of [`vmtest`](Self::vmtest), and further options.
    pub fn vmtest_args(&self, xtask: &mut Command, options: &[&str], tests: &str) {
        xtask.arg("test").args(["--kernel", self.kernels, "--timeout", &self.timeout]);
        xtask.args(options).arg("--report").arg(self.reports()).args(["--", "--ignored", tests]);
    }

    /// `xtask`, on the package that misbehaves.
    pub fn xtask(&self) -> Command {
        self.prepared(Command::new(env!("CARGO_BIN_EXE_cargo-kernels")))
    }

    /// `xtask` as the last arguments of another program; its own arguments follow.
    pub fn xtask_under(&self, program: &str, args: &[&str]) -> Command {
        let mut command = self.prepared(Command::new(program));
        command.args(args).arg(env!("CARGO_BIN_EXE_cargo-kernels"));
        command
    }

    fn prepared(&self, mut command: Command) -> Command {
        let metadata = self.path("metadata.toml");
        fs::write(&metadata, self.metadata.join("\n")).unwrap();
        command.env("VMTEST_METADATA", metadata).env(MARK, self.mark()).stdin(Stdio::null());
        // Not the summary of the job that runs these tests.
        command.env_remove("GITHUB_STEP_SUMMARY");
        command
    }

    /// Makes an executable shell script.
    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        // By another process: as long as any thread of this one may have it open for writing in a child that it has just
        // forked, it cannot be executed (ETXTBSY).
        let mut install =
            Command::new("install").args(["-m", "755", "/dev/stdin"]).arg(&path).stdin(Stdio::piped()).spawn().unwrap();
        write!(install.stdin.take().unwrap(), "#!/bin/sh\n{text}\n").unwrap();
        assert!(install.wait().unwrap().success());
        path
    }

    /// A cache with the kernels that are at hand and what setup has installed, and nothing else.
    pub fn cache(&self) -> PathBuf {
        let usual = match std::env::var_os("VMTEST_CACHE_DIR") {
            Some(dir) => PathBuf::from(dir),
            None => {
                let home = || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache");
                std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("vmtest")
            }
        };
        let cache = self.path("cache");
        fs::create_dir(&cache).unwrap();
        for entry in fs::read_dir(usual).unwrap().map(Result::unwrap) {
            let name = entry.file_name();
            if name == "kernels" || name.to_string_lossy().starts_with("venv-") {
                symlink(entry.path(), cache.join(name)).unwrap();
            }
        }
        cache
    }

    /// A QEMU that is started with further arguments.
    pub fn qemu_with(&self, args: &str) -> PathBuf {
        let qemu = tool("VMTEST_QEMU", "qemu-system-x86_64");
        self.script(
            "qemu",
            &format!("case $1 in --version) exec '{0}' \"$1\" ;; *) exec '{0}' \"$@\" {args} ;; esac", qemu.display()),
        )
    }
}

/// A program that the harness uses: what an environment variable names, else the first on PATH.
pub fn tool(variable: &str, name: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let path = std::env::var_os("PATH").unwrap();
    let mut candidates = std::env::split_paths(&path).map(|dir| dir.join(name));
    candidates.find(|path| path.is_file()).unwrap_or_else(|| panic!("{name} is not on PATH"))
}

/// Where cargo has put what it built.
pub fn target() -> &'static Path {
    // The directory for the files of tests is one in it.
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap()
}
