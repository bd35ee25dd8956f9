//! A place of its own for a test: a cache, a list of pins, and an apt that says what the test wants.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use assert_cmd::assert::OutputAssertExt;
use tempfile::TempDir;
use vm_kernels::digest::sha256;

use crate::server::{Answer, Server};

/// Directories, and the environment in which `cargo kernels` is run in them.
pub struct Sandbox {
    dir: TempDir,
    variables: HashMap<&'static str, OsString>,
}

impl Sandbox {
    pub fn new() -> Self {
        let dir = TempDir::new().unwrap();
        std::fs::create_dir(dir.path().join("bin")).unwrap();
        let sandbox = Self { dir, variables: HashMap::new() };
        sandbox.pins("");
        let [bin, home, cache] = ["bin", "", "cache"].map(|name| sandbox.path(name));
        let pins = sandbox.pins_file();
        let sandbox = sandbox.with("PATH", bin).with("HOME", home);
        sandbox.with("VMTEST_CACHE_DIR", cache).with("VMTEST_KERNELS_TOML", pins)
    }

    /// A server that has this file at this path, and a sandbox whose only pin is that.
    pub fn serving(path: &str, content: &[u8]) -> (Arc<Server>, Self) {
        let server = Server::https();
        server.at(path, Answer::File(content.to_vec()));
        let sandbox = Self::new().trusting(&server);
        sandbox.pins(&pin(&url_source(&server.url(path), content)));
        (server, sandbox)
    }

    pub fn with(mut self, variable: &'static str, value: impl Into<OsString>) -> Self {
        self.variables.insert(variable, value.into());
        self
    }

    pub fn trusting(self, server: &Server) -> Self {
        let path = self.path("ca.pem");
        std::fs::write(&path, server.certificate.as_ref().unwrap()).unwrap();
        self.with("SSL_CERT_FILE", path)
    }

    /// Puts an apt in the way that knows these mirrors; without, there is none.
    pub fn mirrors(&self, roots: &[String]) {
        let lines: String = roots.iter().map(|root| format!("echo '{root}'\n")).collect();
        self.program("apt-get", &lines);
        self.program("apt-config", "");
    }

    pub fn program(&self, name: &str, script: &str) {
        let path = self.path("bin").join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn pins(&self, text: &str) {
        std::fs::write(self.pins_file(), text).unwrap();
    }

    pub fn pins_file(&self) -> PathBuf {
        self.path("kernels.toml")
    }

    /// `cargo kernels …`, in this sandbox.
    pub fn kernels(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("cargo-kernels"));
        command.args(arguments).env_clear().envs(&self.variables);
        command
    }

    /// The same under way, with its outputs to be read.
    pub fn start(&self, arguments: &[&str]) -> Child {
        self.kernels(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    pub fn cache(&self) -> PathBuf {
        self.path("cache")
    }

    /// The finished kernels in the cache.
    pub fn entries(&self) -> Vec<PathBuf> {
        children(&self.cache().join("kernels"))
    }

    /// The only finished kernel's directory.
    pub fn entry(&self) -> PathBuf {
        let entries = self.entries();
        assert_eq!(entries.len(), 1, "expected one kernel in the cache: {entries:?}");
        entries[0].clone()
    }

    /// Everything below `incoming/`.
    pub fn incoming(&self) -> Vec<PathBuf> {
        children(&self.cache().join("incoming")).iter().flat_map(|dir| children(dir)).collect()
    }

    /// Runs `kernels …` and returns what it printed on both outputs, once the exit code is as expected.
    pub fn run(&self, arguments: &[&str], code: i32) -> String {
        said(self.kernels(arguments), code)
    }

    /// The same, of which this is a part.
    #[track_caller]
    pub fn says(&self, arguments: &[&str], code: i32, finding: &str) -> String {
        let said = self.run(arguments, code);
        assert!(said.contains(finding), "expected {finding:?} in: {said}");
        said
    }

    /// What a command prints that prints JSON.
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        serde_json::from_slice(&self.kernels(arguments).output().unwrap().stdout).unwrap()
    }

    /// The same of a shell script that may mount, in which `$KERNELS` is the program. `None`, whatever hides the output
    /// that says so, where this machine lets nobody mount.
    pub fn run_mounting(&self, script: &str, code: i32) -> Option<String> {
        let unshare = |script: &str| {
            let mut command = Command::new("unshare");
            command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]);
            command
        };
        let probe = unshare("mount -t tmpfs none /mnt").output().unwrap();
        if !probe.status.success() {
            let (test, why) = (std::thread::current(), String::from_utf8_lossy(&probe.stderr));
            let told = format!("NOT RUN: {:?}: this machine gives no mount namespace: {why}\n", test.name());
            std::io::stderr().write_all(told.as_bytes()).unwrap();
            return None;
        }
        let mut command = unshare(script);
        command.env_clear().envs(&self.variables);
        command.env("KERNELS", assert_cmd::cargo::cargo_bin!("cargo-kernels"));
        // Out of this project, which the cargo of a home without rustup's settings cannot read.
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).current_dir("/");
        Some(said(command, code))
    }
}

fn said(mut command: Command, code: i32) -> String {
    let assert = command.assert().code(code);
    let output = assert.get_output();
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// A pin `6.1` whose source has these lines.
pub fn pin(source: &str) -> String {
    format!("[[kernel]]\nname = \"6.1\"\nseries = \"6.1.\"\nwhy = \"a test\"\n\n[[kernel.source]]\n{source}\n")
}

/// The lines of a source of kind `url`.
pub fn url_source(url: &str, content: &[u8]) -> String {
    format!("kind = \"url\"\nurl = \"{url}\"\nsha256 = \"{}\"", sha256(content))
}
