//! The flake, checked without a network: against the mock nixpkgs in `tests/nix`, with a store of its own.
//!
//! What these tests cannot show, a build against the real nixpkgs, docs/nix.md lists.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use predicates::str::contains;
use serde_json::Value;
use tempfile::TempDir;

const SYSTEMS: [&str; 2] = ["aarch64-linux", "x86_64-linux"];

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// A copy of the workspace and of the mock, to be changed at will, and a Nix that reaches nothing else.
struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bench = Self { dir };
        copy(workspace(), &bench.flake());
        copy(&workspace().join("tests/nix/mock-nixpkgs"), &bench.mock());
        bench.mocks("dropped", "");
        bench.mocks("status", "0");
        fs::write(
            bench.path("nix.conf"),
            "experimental-features = nix-command flakes\nsubstituters =\nbuilders =\nflake-registry =\n\
             build-users-group =\nsandbox = false\n",
        )
        .unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn flake(&self) -> PathBuf {
        self.path("flake")
    }

    fn mock(&self) -> PathBuf {
        self.path("mock-nixpkgs")
    }

    /// `nix`, in the workspace.
    fn nix(&self, arguments: &[&str]) -> Command {
        let mut nix = Command::new("nix");
        nix.current_dir(workspace())
            .args(arguments)
            .env("NIX_CONF_DIR", self.dir.path())
            .env("NIX_USER_CONF_FILES", "/dev/null")
            .env("NIX_STORE_DIR", self.path("store"))
            .env("NIX_STATE_DIR", self.path("state"))
            .env("NIX_LOG_DIR", self.path("log"))
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env_remove("NIX_REMOTE")
            .env_remove("NIX_CONFIG")
            .env_remove("VMTEST_NIX_KERNELS");
        nix
    }

    /// `nix` with the flake's nixpkgs replaced by the mock. `subcommand` may end in an output: `build .#kernels`.
    fn mocked(&self, subcommand: &[&str], arguments: &[&str]) -> Command {
        let flake = format!("path:{}", self.flake().display());
        let nixpkgs = format!("path:{}", self.mock().display());
        let mut nix = self.nix(&[]);
        nix.args(subcommand.iter().map(|word| word.replacen('.', &flake, word.starts_with('.').into())))
            .args(["--no-write-lock-file", "--override-input", "nixpkgs", &nixpkgs])
            .args(arguments);
        nix
    }

    fn check(&self) -> Command {
        self.mocked(&["flake", "check", "."], &["--no-build"])
    }

    /// Writes a file that the mock's builds read.
    fn mocks(&self, file: &str, text: &str) {
        fs::write(self.mock().join(file), text).unwrap();
    }

    /// `nix build .#output`, with `--out-link` if there is a `link`.
    fn build(&self, output: &str, link: Option<&Path>) -> Command {
        let mut nix = self.mocked(&["build", &format!(".#{output}")], &["--print-build-logs"]);
        match link {
            Some(link) => nix.arg("--out-link").arg(link),
            None => nix.arg("--no-link"),
        };
        nix
    }

    /// Replaces `from`, which must be there, all over a file of the copy.
    fn change(&self, file: &str, from: &str, to: &str) {
        let path = self.flake().join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file} has no {from:?}: this test has to change with it");
        fs::write(path, text.replace(from, to)).unwrap();
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // Nix leaves its store read-only, and only root could remove that.
        let _ = std::process::Command::new("chmod").args(["-R", "u+w"]).arg(self.dir.path()).status();
    }
}

/// Copies a directory, without what is built in it and without git's.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        match entry.file_type().unwrap() {
            kind if kind.is_dir() && name != "target" && name != ".git" => {
                copy(&entry.path(), &to.join(name));
            }
            kind if kind.is_file() => {
                fs::copy(entry.path(), to.join(name)).unwrap();
            }
            _ => {}
        }
    }
}

/// The names of the pins, with or without those that are used only when they are asked for.
fn pins(extra: bool) -> Vec<String> {
    let text = fs::read_to_string(workspace().join("vm/kernels/kernels.toml")).unwrap();
    let pins: toml::Table = toml::from_str(&text).unwrap();
    let wanted = |pin: &&toml::Value| extra || pin.get("extra").is_none();
    let name = |pin: &toml::Value| pin["name"].as_str().unwrap().to_owned();
    pins["kernel"].as_array().unwrap().iter().filter(wanted).map(name).collect()
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().unwrap().keys().cloned().collect()
}

#[test]
#[ignore = "needs nix: cargo xtask test runs it"]
fn lock_that_disagrees_with_flake_is_refused() {
    let bench = Bench::new();
    let flake = format!("path:{}", bench.flake().display());
    let metadata = ["flake", "metadata", "--json", "--no-update-lock-file", &flake];
    let locked = &json(&bench.nix(&metadata).output().unwrap())["locks"]["nodes"]["nixpkgs"]["locked"];
    assert_eq!(locked["rev"], "f5c082a40f7571c266e74e80ae2e68aadd8a9fc7");

    let elsewhere = format!("path:{}", bench.mock().display());
    bench.change("flake.nix", "github:NixOS/nixpkgs/nixos-26.05", &elsewhere);
    bench.nix(&metadata).assert().failure().stderr(contains("requires lock file changes"));
}

#[test]
#[ignore = "needs nix: cargo xtask test runs it"]
fn every_output_evaluates_on_every_system() {
    let bench = Bench::new();
    bench.check().assert().success();

    let outputs = json(&bench.mocked(&["flake", "show", "."], &["--json"]).output().unwrap());
    let per_pin = |prefix: &str, extra| -> BTreeSet<String> {
        pins(extra).iter().map(|pin| format!("{prefix}-{}", pin.replace('.', "_"))).collect()
    };
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<BTreeSet<_>>();
    let everywhere = names(&["clippy", "formatting", "unit-tests"]);
    let packages = names(&["cargo-kernels", "default", "kernels", "virtme-ng"]);
    let per_kernel = &per_pin("kernel", true) | &per_pin("report", false);
    let [arm, intel] = SYSTEMS;
    assert_eq!(keys(&outputs["checks"][arm]), everywhere);
    assert_eq!(keys(&outputs["checks"][intel]), &everywhere | &per_pin("vm", false));
    assert_eq!(keys(&outputs["packages"][arm]), names(&["default"]));
    assert_eq!(keys(&outputs["packages"][intel]), &packages | &per_kernel);
    for system in SYSTEMS {
        assert_eq!(outputs["devShells"][system]["default"]["type"], "derivation");
        assert_eq!(outputs["formatter"][system]["type"], "derivation");
    }
}

#[test]
#[ignore = "needs nix: cargo xtask test runs it"]
fn harness_finds_every_kernel_in_the_directory() {
    let bench = Bench::new();
    let link = bench.path("kernels");
    bench.build("kernels", Some(&link)).assert().success();

    let mut list = Command::new(env!("CARGO_BIN_EXE_xtask"));
    list.args(["kernels", "list", "--json"])
        .env("VMTEST_CACHE_DIR", bench.path("empty"))
        .env("VMTEST_NIX_KERNELS", &link);
    let listed = json(&list.output().unwrap());
    for pin in pins(false) {
        let row = listed.as_array().unwrap().iter().find(|row| row["name"] == *pin).unwrap();
        assert_eq!(row["source"], "nix", "{row}");
        assert!(row["release"].as_str().unwrap().starts_with(&format!("{pin}.")), "{row}");
    }
}

#[test]
#[ignore = "needs nix: cargo xtask test runs it"]
fn option_that_a_kernel_drops_fails_its_build() {
    let bench = Bench::new();
    bench.mocks("dropped", "CONFIG_BPF_JIT=y\n");
    bench.build("kernel-5_4", None).assert().failure().stderr(contains("has not: CONFIG_BPF_JIT=y"));
}

#[test]
#[ignore = "needs nix: cargo xtask test runs it"]
fn failed_vm_check_leaves_its_report() {
    let bench = Bench::new();
    let check = "checks.x86_64-linux.vm-5_4";
    bench.build(check, None).assert().success();

    bench.mocks("status", "1");
    let report = bench.path("report");
    bench.build("report-5_4", Some(&report)).assert().success();
    assert_eq!(fs::read_to_string(report.join("report.html")).unwrap(), "5.4 on 5.4\n");
    let store = fs::read_link(&report).unwrap();
    let named = format!("exit code 1, the report is in {}", store.display());
    bench.build(check, None).assert().failure().stderr(contains(named));
}

#[test]
#[ignore = "needs nix: cargo xtask test runs it"]
fn shell_has_every_tool_and_every_kernel() {
    let bench = Bench::new();
    let link = bench.path("shell");
    bench.build("devShells.x86_64-linux.default", Some(&link)).assert().success();
    let shell = fs::read_to_string(link).unwrap();
    let (tools, kernels) = shell.split_once('\n').unwrap();
    for tool in ["busybox-static", "cargo", "clang", "qemu_kvm", "virtme-ng"] {
        assert!(tools.split(' ').any(|path| path.ends_with(&format!("-{tool}"))), "no {tool}: {tools}");
    }
    let kernels: BTreeSet<_> = kernels.lines().map(str::to_owned).collect();
    assert_eq!(kernels, BTreeSet::from_iter(pins(false)));
}
