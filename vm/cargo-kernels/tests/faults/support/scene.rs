//! A place for one fault: what the harness is run on, and the files that belong to it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::process::MARK;
use super::run::{Ended, Run};

/// One that boots quickly.
const KERNEL: &str = "6.1";
/// Seconds until a guest is given up, where nothing should wait for that.
const LONG: u32 = 2000;

/// One fault's surroundings. Dropping it removes its files.
pub struct Scene {
    dir: TempDir,
    /// Lines of the metadata table.
    metadata: Vec<String>,
    kernel: &'static str,
    timeout: u32,
    /// The program and arguments that start the harness, if it is not started by itself.
    under: Vec<String>,
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
        Self {
            dir: dir.unwrap(),
            metadata: metadata.map(str::to_owned).into(),
            kernel: KERNEL,
            timeout: LONG,
            under: Vec::new(),
        }
    }

    /// A further line of the metadata table, or one in place of another with the same key.
    pub fn metadata(mut self, line: &str) -> Self {
        let key = line.split(' ').next();
        self.metadata.retain(|other| other.split(' ').next() != key);
        self.metadata.push(line.to_owned());
        self
    }

    /// Gives guests up after so many seconds.
    pub fn timeout(self, seconds: u32) -> Self {
        Self { timeout: seconds, ..self }
    }

    /// Runs on this kernel instead of the usual one.
    pub fn kernel(self, kernel: &'static str) -> Self {
        Self { kernel, ..self }
    }

    /// Has the harness started by another program, whose last arguments it and its own become.
    pub fn under(self, words: &[&str]) -> Self {
        Self { under: words.iter().map(|&word| word.to_owned()).collect(), ..self }
    }

    /// A path in a directory of this scene's own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where the reports go.
    pub fn reports(&self) -> PathBuf {
        self.path("report")
    }

    /// What report.json says of the kernel.
    pub fn reported(&self) -> Value {
        let report = fs::read(self.reports().join("report.json")).unwrap();
        serde_json::from_slice::<Value>(&report).unwrap()["kernels"][0].clone()
    }

    /// What distinguishes the processes of this scene from all others on the machine.
    pub fn mark(&self) -> String {
        self.dir.path().file_name().unwrap().to_str().unwrap().to_owned()
    }

    /// `cargo kernels` on the package that misbehaves.
    pub fn harness(&self) -> Command {
        let mut words = self.under.iter().map(String::as_str).chain([env!("CARGO_BIN_EXE_cargo-kernels")]);
        let metadata = self.path("metadata.toml");
        fs::write(&metadata, self.metadata.join("\n")).unwrap();
        let mut command = Command::new(words.next().unwrap());
        command.args(words).env("VMTEST_METADATA", metadata).env(MARK, self.mark()).stdin(Stdio::null());
        // Not the summary of the job that runs these tests.
        command.env_remove("GITHUB_STEP_SUMMARY");
        if self.cache().exists() {
            command.env("VMTEST_CACHE_DIR", self.cache());
        }
        command
    }

    /// `cargo kernels test` on the tests of which the name contains `tests`.
    pub fn vmtest(&self, options: &[&str], tests: &str) -> Command {
        let mut command = self.harness();
        command.args(["test", "--kernel", self.kernel, "--timeout", &self.timeout.to_string()]);
        command.args(options).arg("--report").arg(self.reports()).args(["--", "--ignored", tests]);
        command
    }

    /// The same, from its start to its end.
    pub fn run(&self, options: &[&str], tests: &str) -> Ended<'_> {
        Run::start(self, self.vmtest(options, tests)).end()
    }

    /// The same, begun: a test runs that does not end.
    pub fn endless(&self, options: &[&str]) -> Run<'_> {
        Run::start(self, self.vmtest(options, "failing::hangs")).wait_for(": testing")
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

    /// Has a cache of its own, with all that is in the usual one but saved guests. What takes long is not done again.
    pub fn own_cache(self) -> Self {
        let home = || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache");
        let caches = || std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from);
        let usual = std::env::var_os("VMTEST_CACHE_DIR").map_or_else(|| caches().join("vmtest"), PathBuf::from);
        fs::create_dir(self.cache()).unwrap();
        fs::create_dir_all(usual.join("modules")).unwrap();
        for entry in fs::read_dir(usual).unwrap().map(Result::unwrap) {
            let (name, from) = (entry.file_name(), entry.path());
            let to = self.cache().join(&name);
            if name == "kernels" || name == "modules" || name.to_string_lossy().starts_with("venv-") {
                symlink(from, to).unwrap();
            } else if name == "kvm.json" {
                fs::copy(from, to).unwrap();
            }
        }
        self
    }

    pub fn cache(&self) -> PathBuf {
        self.path("cache")
    }

    /// The directories of guests that were saved in its own cache, and of those that were begun.
    pub fn saved(&self) -> Vec<PathBuf> {
        // A run that is killed early has not even made the directory.
        let entries = fs::read_dir(self.cache().join("snapshots")).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).filter(|dir| !dir.ends_with("locks")).collect()
    }
}

/// A program that the harness uses: what an environment variable names, else the first on PATH.
pub fn tool(variable: &str, name: &str) -> PathBuf {
    std::env::var_os(variable).map_or_else(|| which::which(name).unwrap(), PathBuf::from)
}
