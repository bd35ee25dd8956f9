//! The tests of a project as they are handed to guests: how each binary is started there, and what it needs.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow};
use vm_guest::environment;
use vm_guest::payload::Files;
use vm_kernels::Arch;
use vmtest_agent::{FactsRequest, Program, TestId};

use crate::dirs::Dirs;
use crate::metadata::Metadata;
use crate::recorded::{self, Built};
use crate::static_build::StaticBuild;
use crate::tools::{self, Need};
use crate::{closure, launch};

/// What the user wants to be tested, beside what the project's metadata says.
#[derive(Debug, Default)]
pub struct Chosen {
    /// Arguments of `cargo test` that choose packages, targets, features and a profile.
    pub cargo_args: Vec<OsString>,
    /// Those of the test binaries.
    pub test_args: Vec<String>,
    /// Variables of the tests' environment.
    pub env: Vec<(String, String)>,
}

/// Built once, used for every kernel.
#[derive(Debug, Default)]
pub struct Payload {
    /// The test binaries by id.
    pub binaries: BTreeMap<String, Program>,
    /// The tests to be run, if not all that the binaries list.
    pub only: Option<Vec<TestId>>,
    /// How to run the program for its facts.
    pub facts: Option<FactsRequest>,
    /// Packages whose documentation tests are not among these.
    pub doc_tests: BTreeSet<String>,
    /// Directories that must be found in a guest where they are here.
    pub keep: Vec<String>,
    /// The programs of the packages, which the tests may start.
    programs: BTreeMap<String, PathBuf>,
    /// Further files that have to be brought along where the host's are not there.
    files: Vec<PathBuf>,
    /// Whether the programs need nothing of the machine they run on.
    is_static: bool,
    target: PathBuf,
    brought_along: OnceLock<Result<Files, String>>,
}

impl Payload {
    /// Builds what is out of date, for guests of an architecture. For those of another than this machine's all is linked
    /// statically, unless a `--target` is chosen.
    pub fn build(dirs: &Dirs, arch: &'static Arch, metadata: &Metadata, chosen: &Chosen) -> Result<Self> {
        let is_static = metadata.is_static;
        if is_static {
            tools::require(dirs, Need::Build)?;
        }
        let mut args = chosen.cargo_args.clone();
        // Where nothing else says what is tested, the user's directory does, as with cargo.
        let mut here = dirs.here();
        let linked = is_static || !arch.is_host() && !args.iter().any(|arg| arg == "--target");
        let static_build = linked.then(|| StaticBuild::detect(dirs, arch)).transpose()?;
        if args.is_empty() {
            args.extend(metadata.cargo_args.iter().map(OsString::from));
            // Another package need not have them.
            for feature in &metadata.features {
                args.extend(["--features".into(), feature.into()]);
            }
            if !args.is_empty() || metadata.program.is_some() {
                here.clone_from(&dirs.project);
            }
        }
        let Built { tests, programs, doc_tests } =
            recorded::build(dirs, &here, &args, &chosen.test_args, static_build.as_ref())?;
        let mut env = metadata.env.clone();
        env.extend(chosen.env.iter().cloned());
        for (name, path) in &programs {
            env.insert(format!("CARGO_BIN_EXE_{name}"), path.to_string_lossy().into_owned());
        }
        let in_guest = |(id, program): (String, Program)| (id, Program { env: in_guest(program.env, &env), ..program });
        let binaries: BTreeMap<String, Program> = tests.into_iter().map(in_guest).collect();
        for program in binaries.values() {
            closure::check_architecture(Path::new(program.argv.first().map_or("", String::as_str)), arch)?;
        }
        let facts = metadata.facts().map(|(name, ready_line)| {
            let none = || format!("cargo built no program `{name}`, which metadata.kernels names");
            let path = programs.get(name).with_context(none)?;
            let first = binaries.values().next().cloned().unwrap_or_default();
            let argv = vec![path.to_string_lossy().into_owned()];
            anyhow::Ok(FactsRequest { program: Program { argv, ..first }, ready_line: ready_line.into() })
        });
        Ok(Self {
            facts: facts.transpose()?,
            doc_tests,
            keep: keep(dirs, &binaries),
            programs,
            files: metadata.files.iter().map(|file| dirs.project.join(file)).collect(),
            is_static,
            target: dirs.target.clone(),
            binaries,
            ..Self::default()
        })
    }

    /// What is brought along into a guest that has not the host's root directory, at the same paths as here.
    pub fn brought_along(&self) -> Result<&Files> {
        let files = self.brought_along.get_or_init(|| self.gather().map_err(|error| format!("{error:#}")));
        files.as_ref().map_err(|error| anyhow!("{error}"))
    }

    fn gather(&self) -> Result<Files> {
        let mut files: BTreeSet<PathBuf> = self.files.iter().cloned().collect();
        let first = self.binaries.values().next().cloned().unwrap_or_default();
        let tests = self.binaries.values().filter_map(|program| Some((Path::new(program.argv.first()?), program)));
        for (path, started) in tests.chain(self.programs.values().map(|path| (path.as_path(), &first))) {
            files.extend(closure::of_program(path, started)?);
        }
        if !self.is_static {
            for directory in self.binaries.values().map(|program| &program.cwd).collect::<BTreeSet<_>>() {
                files.extend(closure::of_package(Path::new(directory), &self.target)?);
            }
        }
        Ok(closure::in_place(files))
    }
}

/// Of the variables that a program would have here: those that cargo has set, and those that are allowed, or asked for.
fn in_guest(recorded: BTreeMap<String, String>, asked: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    const CARGO: [&str; 4] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_EXE_", "CARGO_TARGET_TMPDIR"];
    let of_cargo = |name: &str, value: &str| {
        let runner = name.ends_with("_RUNNER");
        let own = CARGO.iter().any(|prefix| name.starts_with(prefix));
        own || (std::env::var(name).ok().as_deref() != Some(value) && !runner)
    };
    let kept = |(name, value): &(String, String)| environment::is_allowed(name) || of_cargo(name, value);
    let defaults = [("VMTEST", "1"), ("TMPDIR", "/tmp"), ("LANG", "C.UTF-8")];
    let defaults = defaults.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let own = recorded.into_iter().filter(kept);
    defaults.into_iter().chain(own).chain(asked.clone()).collect()
}

/// The directories that tests work in, and where what they start was built.
fn keep(dirs: &Dirs, binaries: &BTreeMap<String, Program>) -> Vec<String> {
    let built = binaries.values().filter_map(|it| Path::new(it.argv.first()?).parent());
    let own = [dirs.project.as_path(), dirs.target.as_path()].into_iter().chain(built);
    let work = binaries.values().map(|program| Path::new(&program.cwd));
    let mut kept = launch::kept(own.chain(work));
    // Where cargo lets tests write (CARGO_TARGET_TMPDIR): it is there even where nothing else of the target is.
    let written = Some(dirs.target.join("tmp")).filter(|dir| dir.is_dir());
    kept.extend(written.and_then(|dir| dir.to_str().map(str::to_owned)));
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caller_secrets_stay_cargo_variables_go_along() {
        // Cargo sets the first for this test; no other process is to be asked for a secret.
        let (own, value) = ("CARGO_PKG_NAME", env!("CARGO_PKG_NAME"));
        let (name, secret) =
            std::env::vars().find(|(name, _)| name == "CARGO_MANIFEST_LINKS" || name == "CARGO").unwrap_or_default();
        let recorded = [(own, value), ("OUT_DIR", "/out"), (&*name, &*secret)];
        let recorded = recorded.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let asked = [("A".to_owned(), "b".to_owned())].into();
        let env = in_guest(recorded, &asked);
        assert_eq!(env.get(own).map(String::as_str), Some(value));
        assert_eq!(env.get("OUT_DIR").map(String::as_str), Some("/out"));
        assert_eq!(env.get("A").map(String::as_str), Some("b"));
        assert!(name != "CARGO" || !env.contains_key("CARGO"), "{env:?}");
    }
}
