//! The test binaries of a cargo project, and how `cargo test` starts each: asked of cargo itself, by way of a runner that
//! writes down what it is to run. So nothing about packages, directories and variables has to be known here.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use cargo_metadata::{Artifact, Message, TargetKind};
use vm_guest::agent;
use vmtest_agent::{Program, RECORD, RECORD_DIR};

use crate::cargo;
use crate::dirs::Dirs;
use crate::error::Error;
use crate::static_build::StaticBuild;

/// What `cargo test` builds, and what it would start.
#[derive(Debug, Default)]
pub struct Built {
    /// Test binaries by id: `package` for a library's unit tests, `package::target` for a test target, `package::bin/name`
    /// and the like for all others, as cargo-nextest calls them.
    pub tests: BTreeMap<String, Program>,
    /// The programs of the packages by name.
    pub programs: BTreeMap<String, PathBuf>,
    /// Packages that may have documentation tests, which are not among these.
    pub doc_tests: BTreeSet<String>,
}

/// The arguments of `cargo test` that choose targets.
const TARGETS: &str = "--all-targets --bench --benches --bin --bins --example --examples --lib --test --tests";

/// Builds what `cargo test ARGS` tests in the directory `here`, and finds out how it would start it with the arguments
/// after `--`. What cargo says goes to stderr as usual.
pub fn build(
    dirs: &Dirs,
    here: &Path,
    args: &[OsString],
    test_args: &[String],
    linked: Option<&StaticBuild>,
) -> Result<Built> {
    if !dirs.project.join("Cargo.toml").exists() {
        return Err(Error::usage(format!("there is no cargo project in {} or above it", dirs.project.display())));
    }
    let chosen = |arg: &OsString| {
        let name = arg.to_str().and_then(|arg| arg.split('=').next());
        TARGETS.split(' ').any(|target| name == Some(target))
    };
    // Documentation tests have no executables.
    let all: &[&str] = if args.iter().any(chosen) { &[] } else { &["--tests"] };
    let test = || -> Result<Command> {
        let mut command = cargo::command(dirs, "test")?;
        command.current_dir(here).args(all).args(args);
        linked.map(|linked| linked.apply(&mut command));
        Ok(command)
    };
    let messages = cargo::messages(test()?.args(["--no-run"]))?;
    let artifacts = messages.iter().filter_map(|message| match message {
        Message::CompilerArtifact(artifact) => Some(artifact),
        _ => None,
    });
    let (mut built, ids) = sort(artifacts);
    if all.is_empty() {
        built.doc_tests.clear();
    }
    if ids.is_empty() {
        return Err(Error::usage("cargo has nothing to test here: no test target was built"));
    }
    // Not in /tmp, which may be full.
    let parent = dirs.target.join("vmtest");
    let directory = fs::create_dir_all(&parent)
        .and_then(|()| tempfile::Builder::new().prefix("recorded-").tempdir_in(&parent))
        .with_context(|| format!("cannot make a directory in {}", parent.display()))?;
    let mut recording = test()?;
    recording.arg("--quiet").arg("--").args(test_args).stdin(Stdio::null());
    record(&mut recording, ids.keys().next().map(PathBuf::as_path), directory.path())?;
    built.tests = read(directory.path(), &ids)?;
    Ok(built)
}

/// What was built: test binaries are kept by path, with their ids.
fn sort<'a>(artifacts: impl Iterator<Item = &'a Artifact>) -> (Built, BTreeMap<PathBuf, String>) {
    let (mut built, mut ids) = (Built::default(), BTreeMap::new());
    for artifact in artifacts {
        let target = &artifact.target;
        let is = |kind: TargetKind| target.kind.contains(&kind);
        let package = package(&artifact.package_id.repr, artifact.manifest_path.as_str());
        match &artifact.executable {
            Some(path) if artifact.profile.test => {
                let id = match target.kind.first() {
                    Some(TargetKind::Test) => format!("{package}::{}", target.name),
                    Some(kind @ (TargetKind::Bin | TargetKind::Example | TargetKind::Bench)) => {
                        format!("{package}::{kind}/{}", target.name)
                    }
                    _ => package.clone(),
                };
                if !is(TargetKind::Test) && target.doctest {
                    built.doc_tests.insert(package);
                }
                ids.insert(path.clone().into(), id);
            }
            Some(path) if is(TargetKind::Bin) => {
                built.programs.insert(target.name.clone(), path.clone().into());
            }
            _ => {}
        }
    }
    (built, ids)
}

/// A package's name: the last part of its id, `path+file:///dir#name@1.0.0` or `path+file:///dir/name#1.0.0`
/// (`cargo help pkgid`).
fn package(id: &str, manifest: &str) -> String {
    let fragment = id.rsplit_once('#').map_or(id, |(_, fragment)| fragment);
    let directory = Path::new(manifest).parent().and_then(Path::file_name);
    let directory = directory.unwrap_or(OsStr::new("package")).to_string_lossy();
    fragment.split_once('@').map_or(&*directory, |(name, _)| name).to_owned()
}

/// Runs cargo with the agent as its runner. `example` is one of the test binaries: where it lies tells what it was built for.
fn record(cargo: &mut Command, example: Option<&Path>, directory: &Path) -> Result<()> {
    // Cargo's child executes it: as this process's.
    let agent = agent::on_this_machine()?;
    let own = format!("/proc/{}", std::process::id());
    let agent = agent.to_string_lossy().replace("/proc/self", &own);
    let host = ["gnu", "musl"].map(|libc| format!("{}-unknown-linux-{libc}", std::env::consts::ARCH));
    for target in host.into_iter().chain(example.and_then(target_of)) {
        let variable = target.to_uppercase().replace(['-', '.'], "_");
        cargo.env(format!("CARGO_TARGET_{variable}_RUNNER"), format!("{agent} {RECORD}"));
    }
    let output = cargo.env(RECORD_DIR, directory).output().context("cannot run cargo")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cargo does not tell how it starts the tests: {}", said.trim());
    Ok(())
}

/// The target that a test binary was built for, if it is not cargo's default: `<target>/<triple>/<profile>/deps/<file>`.
fn target_of(binary: &Path) -> Option<String> {
    let triple = binary.ancestors().nth(3)?.file_name()?.to_str()?;
    (triple.matches('-').count() >= 2).then(|| triple.to_owned())
}

fn read(directory: &Path, ids: &BTreeMap<PathBuf, String>) -> Result<BTreeMap<String, Program>> {
    let mut programs = BTreeMap::new();
    for entry in fs_err::read_dir(directory)? {
        let program: Program = serde_json::from_slice(&fs_err::read(entry?.path())?)?;
        let path = program.argv.first().map(PathBuf::from).unwrap_or_default();
        let Some(id) = ids.get(&path) else {
            bail!("cargo starts {}, and did not say that it built it", path.display());
        };
        programs.insert(id.clone(), program);
    }
    // What is missing was run here, as root perhaps, by a cargo that did not take the runner.
    let (started, all) = (programs.len(), ids.len());
    ensure!(
        started == all,
        "cargo ran {} of {all} test binaries on this machine, and not with the runner it was given \
         (CARGO_TARGET_…_RUNNER): is `cargo` a script, or `runner` set in .cargo/config.toml?",
        all - started
    );
    Ok(programs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_id_of_either_form_has_its_name() {
        assert_eq!(package("path+file:///a/b#name@1.0.0", "/a/b/Cargo.toml"), "name");
        assert_eq!(package("path+file:///a/b#1.0.0", "/a/b/Cargo.toml"), "b");
    }

    #[test]
    fn the_target_of_a_binary_is_where_it_lies() {
        let target = |path| target_of(Path::new(path));
        assert_eq!(target("/my-own-dir/debug/deps/trace-0"), Some("my-own-dir".into()));
        assert_eq!(target("/target/debug/deps/trace-0"), None);
        let musl = "x86_64-unknown-linux-musl";
        assert_eq!(target_of(&Path::new("/target").join(musl).join("debug/deps/t-0")), Some(musl.into()));
    }
}
