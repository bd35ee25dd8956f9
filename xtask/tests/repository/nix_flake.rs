//! The flake, checked without a network: against the mock nixpkgs in `tests/nix`, with a store of its own.
//!
//! What these tests cannot show, a build against the real nixpkgs, docs/nix.md lists.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Output;

use assert_cmd::Command;
use predicates::str::contains;
use serde_json::Value;
use tempfile::TempDir;

use crate::workspace;

/// A copy of the workspace, to be changed at will, and a Nix that reaches nothing else.
struct Bench(TempDir);

impl Bench {
    fn new() -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        let copy = "mkdir $0/flake; tar -C $1 --exclude ./target --exclude ./.git -c . | tar -C $0/flake -x";
        let mut sh = Command::new("bash");
        sh.args(["-euo", "pipefail", "-c", copy]).args([bench.0.path(), workspace()]).assert().success();
        let conf = "experimental-features = nix-command flakes\nsubstituters =\nbuilders =\nflake-registry =\n\
             build-users-group =\nsandbox = false\n";
        fs::write(bench.path("nix.conf"), conf).unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn url(&self, name: &str) -> String {
        format!("path:{}", self.path(name).display())
    }

    fn nix(&self, arguments: &[&str]) -> Command {
        let mut nix = Command::new("nix");
        let own = ["STORE", "STATE", "LOG"].map(|name| (format!("NIX_{name}_DIR"), self.path(name)));
        nix.args(arguments).envs(own).env("NIX_CONF_DIR", self.0.path()).env("NIX_USER_CONF_FILES", "/dev/null");
        nix.env("XDG_CACHE_HOME", self.path("cache")).env_remove("NIX_REMOTE").env_remove("NIX_CONFIG");
        nix
    }

    /// `nix` with the flake's nixpkgs replaced by the mock.
    fn mocked(&self, arguments: &[&str]) -> Command {
        let nixpkgs = self.url("flake/tests/nix/mock-nixpkgs");
        self.nix(&[arguments, &["--no-write-lock-file", "--override-input", "nixpkgs", &nixpkgs]].concat())
    }

    fn eval(&self, output: &str) -> Value {
        let output = format!("{}#{output}", self.url("flake"));
        json(&self.mocked(&["eval", "--json", &output]).output().unwrap())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // Nix leaves its store read-only, and only root could remove that.
        let _ = std::process::Command::new("chmod").args(["-R", "u+w"]).arg(self.0.path()).status();
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

#[test]
#[ignore = "needs nix: cargo xtask test runs it"]
fn lock_that_disagrees_with_flake_is_refused() {
    let bench = Bench::new();
    let flake = bench.url("flake");
    let metadata = ["flake", "metadata", "--json", "--no-update-lock-file", &flake];
    bench.nix(&metadata).assert().success();

    let file = bench.path("flake/flake.nix");
    let text = fs::read_to_string(&file).unwrap();
    let mock = bench.url("flake/tests/nix/mock-nixpkgs");
    fs::write(file, text.replace("github:NixOS/nixpkgs/nixos-26.05", &mock)).unwrap();
    bench.nix(&metadata).assert().failure().stderr(contains("requires lock file changes"));
}

#[test]
#[ignore = "needs nix: cargo xtask test runs it"]
fn flake_outputs_evaluate_and_shell_has_tools_and_pins() {
    let bench = Bench::new();
    let flake = bench.url("flake");
    bench.mocked(&["flake", "check", &flake, "--no-build"]).assert().success();

    let outputs = json(&bench.mocked(&["flake", "show", &flake, "--json"]).output().unwrap());
    let per_pin = |prefix: &str, extra| -> BTreeSet<String> {
        pins(extra).iter().map(|pin| format!("{prefix}-{}", pin.replace('.', "_"))).collect()
    };
    let set = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<BTreeSet<_>>();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let everywhere = set(&["clippy", "formatting", "unit-tests"]);
    let packages = set(&["cargo-kernels", "default", "kernels", "virtme-ng"]);
    let per_kernel = &per_pin("kernel", true) | &per_pin("report", false);
    let [arm, intel] = ["aarch64-linux", "x86_64-linux"];
    assert_eq!(keys(&outputs["checks"][arm]), everywhere);
    assert_eq!(keys(&outputs["checks"][intel]), &everywhere | &per_pin("vm", false));
    assert_eq!(keys(&outputs["packages"][arm]), set(&["default"]));
    assert_eq!(keys(&outputs["packages"][intel]), &packages | &per_kernel);
    for system in [arm, intel] {
        assert_eq!(outputs["devShells"][system]["default"]["type"], "derivation");
        assert_eq!(outputs["formatter"][system]["type"], "derivation");
    }

    let strings = |value: Value| serde_json::from_value::<BTreeSet<String>>(value).unwrap();
    let tools = strings(bench.eval("devShells.x86_64-linux.default.nativeBuildInputs"));
    for tool in ["cargo", "clang", "nixfmt", "deadnix", "qemu_kvm", "virtme-ng", "busybox-static", "kmod"] {
        assert!(tools.iter().any(|path| path.ends_with(&format!("-{tool}"))), "{tool} is not in {tools:?}");
    }
    let kernels = bench.eval("packages.x86_64-linux.kernels");
    assert_eq!(bench.eval("devShells.x86_64-linux.default.VMTEST_NIX_KERNELS"), kernels);
    let names = strings(bench.eval("packages.x86_64-linux.kernels.names"));
    assert_eq!(names, pins(false).into_iter().collect());
}
