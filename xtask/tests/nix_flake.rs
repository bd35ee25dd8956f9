//! The flake, checked without a network: against the mock nixpkgs in `tests/nix`, with a store of its own.
//!
//! What these tests cannot show, a build against the real nixpkgs, docs/nix.md lists.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use predicates::prelude::*;
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
        fs::write(bench.mock().join("config"), needed_options().join("\n") + "\n").unwrap();
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
        nix.args(
            subcommand.iter().map(|word| word.replacen('.', &flake, word.starts_with('.').into())),
        )
        .args(["--no-write-lock-file", "--override-input", "nixpkgs", &nixpkgs])
        .args(arguments);
        nix
    }

    fn check(&self) -> Command {
        self.mocked(&["flake", "check", "."], &["--no-build"])
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
        let _ =
            std::process::Command::new("chmod").args(["-R", "u+w"]).arg(self.dir.path()).status();
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

/// The kernel options that booting and the program need, each as a configuration has it.
fn needed_options() -> Vec<String> {
    let manifest = fs::read_to_string(workspace().join("Cargo.toml")).unwrap();
    let manifest: toml::Table = toml::from_str(&manifest).unwrap();
    let lists = manifest["workspace"]["metadata"]["vmtest"]["kconfig"].as_array().unwrap();
    let lists = lists.iter().map(|list| list.as_str().unwrap()).chain(["vm/kconfig.cold"]);
    let text = |list: &str| fs::read_to_string(workspace().join(list)).unwrap();
    let option = |line: &str| {
        let wanted = line.split(['#', '|']).next()?.trim_end();
        (wanted.starts_with("CONFIG_") && !wanted.ends_with("=n")).then(|| wanted.to_owned())
    };
    lists.map(text).collect::<String>().lines().filter_map(option).collect()
}

/// The pins that are run unasked.
fn pins() -> Vec<String> {
    let text = fs::read_to_string(workspace().join("vm/kernels/kernels.toml")).unwrap();
    let pins: toml::Table = toml::from_str(&text).unwrap();
    let name = |pin: &toml::Value| pin["name"].as_str().unwrap().to_owned();
    let usual = |pin: &&toml::Value| pin.get("extra").is_none();
    pins["kernel"].as_array().unwrap().iter().filter(usual).map(name).collect()
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
fn the_lock_agrees_with_the_flake() {
    let bench = Bench::new();
    let flake = format!("path:{}", bench.flake().display());
    let metadata = ["flake", "metadata", "--json", "--no-update-lock-file", &flake];
    let locked =
        &json(&bench.nix(&metadata).output().unwrap())["locks"]["nodes"]["nixpkgs"]["locked"];
    assert_eq!(locked["rev"], "c58bc7f5459328e4afac201c5c4feb7c818d604b");

    let elsewhere = format!("path:{}", bench.mock().display());
    bench.change("flake.nix", "github:NixOS/nixpkgs/nixos-25.05", &elsewhere);
    bench.nix(&metadata).assert().failure().stderr(contains("requires lock file changes"));
}

#[test]
#[ignore = "needs nix: cargo xtask test runs it"]
fn every_output_evaluates_on_every_system() {
    let bench = Bench::new();
    bench.check().assert().success();

    let outputs = json(&bench.mocked(&["flake", "show", "."], &["--json"]).output().unwrap());
    let per_pin = |prefix: &str| -> BTreeSet<String> {
        pins().iter().map(|pin| format!("{prefix}-{}", pin.replace('.', "_"))).collect()
    };
    let everywhere = BTreeSet::from(["clippy", "formatting", "unit-tests"].map(str::to_owned));
    let packages = BTreeSet::from(["default", "kernels", "virtme-ng"].map(str::to_owned));
    let [arm, intel] = SYSTEMS;
    assert_eq!(keys(&outputs["checks"][arm]), everywhere);
    assert_eq!(
        keys(&outputs["checks"][intel]),
        &(&everywhere | &per_pin("kconfig")) | &per_pin("vm")
    );
    assert_eq!(keys(&outputs["packages"][arm]), BTreeSet::from(["default".to_owned()]));
    assert_eq!(keys(&outputs["packages"][intel]), &packages | &per_pin("kernel"));
    assert_eq!(keys(&outputs["apps"][intel]), BTreeSet::from(["vmtest".to_owned()]));
    for system in SYSTEMS {
        assert_eq!(outputs["devShells"][system]["default"]["type"], "derivation");
        assert_eq!(outputs["formatter"][system]["type"], "derivation");
    }
}

/// The mock stands for nixpkgs only as long as it has nothing that nixpkgs has not.
#[test]
#[ignore = "needs nix: cargo xtask test runs it"]
fn what_nixpkgs_does_not_have_is_refused() {
    let mistakes = [
        // A package, where it is asked for as an argument; and as an attribute of a set.
        ("nix/vm-host.nix", "qemu_kvm", "qemu_kvn", "required argument 'qemu_kvn'"),
        (
            "nix/busybox-static.nix",
            "pkgsStatic.busybox",
            "pkgsStatic.bussybox",
            "'bussybox' missing",
        ),
        // An output of a package.
        ("nix/toolchain.nix", "${zlib.static}", "${zlib.archive}", "'archive' missing"),
        // A function of `lib`, in the flake itself.
        ("flake.nix", "lib.mapAttrs'", "lib.mapAttributes'", "'mapAttributes'' missing"),
        // An argument of a function.
        (
            "nix/kernels.nix",
            "inherit urls;",
            "inherit urls; mirror = 1;",
            "unexpected argument 'mirror'",
        ),
        // A kind of source.
        ("vm/kernels/kernels.toml", "kind = \"debian\"", "kind = \"debain\"", "'debain' missing"),
        // A file of the workspace.
        ("nix/cargo-job.nix", "../flake.lock", "../flake.lok", "flake.lok"),
    ];
    for (file, right, wrong, message) in mistakes {
        let bench = Bench::new();
        bench.change(file, right, wrong);
        bench.check().assert().failure().stderr(contains(message));
    }
}

#[test]
#[ignore = "needs nix: cargo xtask test runs it"]
fn xtask_reads_the_kernels_directory() {
    let bench = Bench::new();
    let link = bench.path("kernels");
    bench
        .mocked(&["build", ".#kernels"], &["--out-link", link.to_str().unwrap()])
        .assert()
        .success();

    let mut list = Command::new(env!("CARGO_BIN_EXE_xtask"));
    list.args(["kernels", "list", "--json"])
        .env("VMTEST_CACHE_DIR", bench.path("empty"))
        .env("VMTEST_NIX_KERNELS", &link);
    let listed = usual(&json(&list.output().unwrap()));
    for (pin, row) in pins().iter().zip(&listed) {
        assert_eq!(row["name"], pin.as_str());
        assert_eq!(row["at_hand"], true, "{row}");
        assert_eq!(row["source"], "nix", "{row}");
        let release = row["release"].as_str().unwrap();
        assert!(release.starts_with(&format!("{pin}.")), "{row}");
        let modules = link.join(pin).join("lib/modules").join(release);
        // What is built from source has none.
        assert_eq!(
            modules.is_dir(),
            row["sources"][0]["kind"] != "source",
            "{}",
            modules.display()
        );
    }
    assert_eq!(listed.len(), pins().len());
}

/// The rows of `kernels list` that are not extra.
fn usual(listed: &Value) -> Vec<Value> {
    listed.as_array().unwrap().iter().filter(|row| row["extra"] == false).cloned().collect()
}

#[test]
#[ignore = "needs nix: cargo xtask test runs it"]
fn a_kernel_without_a_needed_option_fails_its_check() {
    let bench = Bench::new();
    let check = |pin: &str| {
        let check = format!(".#checks.x86_64-linux.kconfig-{pin}");
        bench.mocked(&["build", &check], &["--no-link", "--print-build-logs"])
    };
    check("5_4").assert().success();

    let mut options = needed_options();
    let missing = options.pop().unwrap();
    fs::write(bench.mock().join("config"), options.join("\n")).unwrap();
    let (option, _) = missing.split_once('=').unwrap();
    // The second comes out of Debian's packages.
    for pin in ["5_4", "7_3"] {
        let named = contains(format!("{option}=")).and(contains("is needed, it is n"));
        check(pin).assert().failure().stderr(named);
    }
}

#[test]
#[ignore = "needs nix: cargo xtask test runs it"]
fn the_shell_has_every_tool_and_every_kernel() {
    let bench = Bench::new();
    let tools = ["busybox", "clang", "depmod", "qemu-system-x86_64", "vng"];
    let script = format!("command -v {} && ls $VMTEST_NIX_KERNELS", tools.join(" "));
    let shell =
        bench.mocked(&["develop", "."], &["--command", "bash", "-euc", &script]).output().unwrap();
    let said = String::from_utf8_lossy(&shell.stdout);
    assert!(shell.status.success(), "{}", String::from_utf8_lossy(&shell.stderr));
    let store = bench.path("store");
    for tool in tools {
        let found = said.lines().find(|line| line.ends_with(&format!("/{tool}"))).unwrap();
        assert!(Path::new(found).starts_with(&store), "{tool} is {found}, not the shell's");
    }
    for pin in pins() {
        assert!(said.lines().any(|line| line == pin), "no {pin} in {said}");
    }

    // Cargo is no part of the mock: it is the one that runs this test.
    let cargo = std::env::var("CARGO").unwrap();
    let list = bench
        .mocked(&["develop", "."], &["--command", &cargo, "xtask", "kernels", "list", "--json"])
        .env("VMTEST_CACHE_DIR", bench.path("empty"))
        .output()
        .unwrap();
    let listed = json(&list);
    assert!(usual(&listed).iter().all(|row| row["source"] == "nix"), "{listed}");
}

#[test]
#[ignore = "needs nix: cargo xtask test runs it"]
fn the_app_says_where_it_has_to_be_run() {
    let bench = Bench::new();
    bench
        .mocked(&["run", ".#vmtest"], &["--", "-k", "5.4"])
        .current_dir(bench.dir.path())
        .assert()
        .code(2)
        .stderr(contains("in the root of a checkout"));
}

#[test]
#[ignore = "needs crates.io: cargo xtask test runs it"]
fn nix_files_are_formatted_and_have_nothing_unused() {
    let bench = Bench::new();
    let mut files = Vec::new();
    for dir in
        [workspace().into(), workspace().join("nix"), workspace().join("tests/nix/mock-nixpkgs")]
    {
        let paths = fs::read_dir::<PathBuf>(dir).unwrap().map(|entry| entry.unwrap().path());
        files.extend(
            paths.filter(|path| path.extension().is_some_and(|extension| extension == "nix")),
        );
    }
    assert!(files.len() > 10, "{files:?}");
    let nixfmt = tool("nixfmt_rs", "0.5.3", "nixfmt");
    let deadnix = tool("deadnix", "1.3.1", "deadnix");
    Command::new(&nixfmt).arg("--check").args(&files).assert().success();
    Command::new(&deadnix).arg("--fail").args(&files).assert().success();

    let ugly = bench.path("ugly.nix");
    fs::write(&ugly, "{unused}:{}").unwrap();
    Command::new(nixfmt).arg("--check").arg(&ugly).assert().failure();
    Command::new(deadnix).arg("--fail").arg(&ugly).assert().code(1);
}

/// A program out of a crate, installed below the target directory when it is not there yet.
fn tool(package: &str, version: &str, program: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{package}-{version}"));
    let path = root.join("bin").join(program);
    if !path.is_file() {
        Command::new(std::env::var("CARGO").unwrap())
            .args(["install", "--quiet", "--locked", "--version", version, package, "--root"])
            .arg(&root)
            .assert()
            .success();
    }
    path
}
