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
        let bench = Self { dir: tempfile::tempdir().unwrap() };
        let copy = "mkdir $0/flake; tar -C $1 --exclude ./target --exclude ./.git -c . | tar -C $0/flake -x
            cp -r $1/tests/nix/mock-nixpkgs $0";
        let mut sh = Command::new("bash");
        sh.args(["-euo", "pipefail", "-c", copy]).args([bench.dir.path(), workspace()]).assert().success();
        bench.write("mock-nixpkgs/dropped", "");
        bench.write("mock-nixpkgs/status", "0");
        bench.write(
            "nix.conf",
            "experimental-features = nix-command flakes\nsubstituters =\nbuilders =\nflake-registry =\n\
             build-users-group =\nsandbox = false\n",
        );
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn url(&self, name: &str) -> String {
        format!("path:{}", self.path(name).display())
    }

    fn nix(&self, arguments: &[&str]) -> Command {
        let mut nix = Command::new("nix");
        nix.args(arguments)
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

    /// `nix` with the flake's nixpkgs replaced by the mock.
    fn mocked(&self, arguments: &[&str]) -> Command {
        let nixpkgs = self.url("mock-nixpkgs");
        self.nix(&[arguments, &["--no-write-lock-file", "--override-input", "nixpkgs", &nixpkgs]].concat())
    }

    /// Builds an output of the flake, and makes this link to it.
    fn build(&self, output: &str, link: &str) -> Command {
        let output = format!("{}#{output}", self.url("flake"));
        let link = self.path(link);
        self.mocked(&["build", &output, "--print-build-logs", "--out-link", link.to_str().unwrap()])
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // Nix leaves its store read-only, and only root could remove that.
        let _ = std::process::Command::new("chmod").args(["-R", "u+w"]).arg(self.dir.path()).status();
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
    let flake = bench.url("flake");
    let metadata = ["flake", "metadata", "--json", "--no-update-lock-file", &flake];
    bench.nix(&metadata).assert().success();

    let text = fs::read_to_string(bench.path("flake/flake.nix")).unwrap();
    bench.write("flake/flake.nix", &text.replace("github:NixOS/nixpkgs/nixos-26.05", &bench.url("mock-nixpkgs")));
    bench.nix(&metadata).assert().failure().stderr(contains("requires lock file changes"));
}

#[test]
#[ignore = "needs nix: cargo xtask test runs it"]
fn every_output_evaluates_on_every_system() {
    let bench = Bench::new();
    let flake = bench.url("flake");
    bench.mocked(&["flake", "check", &flake, "--no-build"]).assert().success();

    let outputs = json(&bench.mocked(&["flake", "show", &flake, "--json"]).output().unwrap());
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
    bench.build("kernels", "kernels").assert().success();

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
    bench.write("mock-nixpkgs/dropped", "CONFIG_BPF_JIT=y\n");
    bench.build("kernel-5_4", "link").assert().failure().stderr(contains("has not: CONFIG_BPF_JIT=y"));
}

#[test]
#[ignore = "needs nix: cargo xtask test runs it"]
fn failed_vm_check_leaves_its_report() {
    let bench = Bench::new();
    let check = "checks.x86_64-linux.vm-5_4";
    bench.build(check, "link").assert().success();

    bench.write("mock-nixpkgs/status", "1");
    let report = bench.path("report");
    bench.build("report-5_4", "report").assert().success();
    assert_eq!(fs::read_to_string(report.join("report.html")).unwrap(), "5.4 on 5.4\n");
    let store = fs::read_link(&report).unwrap();
    let named = format!("exit code 1, the report is in {}", store.display());
    bench.build(check, "link").assert().failure().stderr(contains(named));
}
