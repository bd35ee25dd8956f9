//! What is brought into the guest: the program, its tests, its files, and the agent.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use cargo_metadata::{Artifact, Message, TargetKind};
use vmtest_agent::{FactsRequest, PAYLOAD_DIR, TestId};

use crate::cargo;
use crate::dirs::Dirs;
use crate::exit::Exit;
use crate::listing;
use crate::metadata::Metadata;
use crate::static_build::StaticBuild;
use crate::tools::{self, Need};

/// Built once, used for every kernel.
#[derive(Debug, Clone)]
pub struct Payload {
    /// The tests to run, in order.
    pub tests: Vec<TestId>,
    /// Environment of the tests and the program in the guest.
    pub env: BTreeMap<String, String>,
    /// How to run the program for its facts.
    pub facts: FactsRequest,
    /// What is brought into the guest.
    pub files: vm_guest::payload::Payload,
}

impl Payload {
    /// Builds what is out of date and lists the tests that `test_args` select.
    ///
    /// # Errors
    /// When a tool is missing, when something does not compile (the compiler's own words go to stderr), or when no
    /// test is selected.
    pub fn build(dirs: &Dirs, metadata: &Metadata, test_args: &[String]) -> Result<Self> {
        tools::require(dirs, &[Need::Build])?;
        let built = Artifacts::build(dirs, metadata)?;
        let mut files = BTreeMap::new();
        let mut env = guest_env();
        for (name, path) in &built.programs {
            let guest_path = format!("bin/{name}");
            env.insert(format!("CARGO_BIN_EXE_{name}"), format!("{PAYLOAD_DIR}/{guest_path}"));
            files.insert(guest_path, path.clone());
        }
        let lists = dirs.target.join("vmtest/lists");
        let mut tests = Vec::new();
        for (name, path) in &built.tests {
            let guest_path = format!("tests/{name}");
            for test in listing::tests(path, test_args, &lists)? {
                tests.push(TestId { binary: guest_path.clone(), name: test });
            }
            files.insert(guest_path, path.clone());
        }
        for file in &metadata.files {
            let name = file.to_str().context("a file in metadata.vmtest is not UTF-8")?;
            files.insert(name.to_owned(), dirs.project.join(file));
        }
        if tests.is_empty() {
            return Err(Exit::usage(format!(
                "no test matches `{}`; `--list` shows them all",
                test_args.join(" ")
            )));
        }
        let facts = FactsRequest {
            program: format!("bin/{}", built.main_program(metadata)?),
            ready_line: metadata.ready_line.clone(),
        };
        Ok(Self { tests, env, facts, files: vm_guest::payload::Payload { files } })
    }

    /// Nothing.
    #[cfg(test)]
    pub fn empty() -> Self {
        Self {
            tests: vec![],
            env: BTreeMap::new(),
            facts: FactsRequest { program: String::new(), ready_line: String::new() },
            files: vm_guest::payload::Payload::default(),
        }
    }

    /// The environment in which tests find the programs where cargo put them, on this machine.
    pub fn env_here(&self) -> BTreeMap<String, OsString> {
        let programs = self.files.files.iter().filter_map(|(name, path)| {
            let program = name.strip_prefix("bin/")?;
            Some((format!("CARGO_BIN_EXE_{program}"), path.clone().into_os_string()))
        });
        programs.chain([("VMTEST".to_owned(), "1".into())]).collect()
    }

    /// The test binaries, where cargo put them.
    pub fn test_binaries(&self) -> impl Iterator<Item = &Path> {
        self.files
            .files
            .iter()
            .filter(|(name, _)| name.starts_with("tests/"))
            .map(|(_, path)| &**path)
    }
}

/// The environment of tests in the guest, which is the same on every machine and in every backend.
fn guest_env() -> BTreeMap<String, String> {
    [
        ("HOME", "/root"),
        ("LANG", "C.UTF-8"),
        ("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"),
        ("RUST_BACKTRACE", "1"),
        ("TMPDIR", "/tmp"),
        ("VMTEST", "1"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect()
}

/// What cargo built, by name.
struct Artifacts {
    programs: BTreeMap<String, PathBuf>,
    tests: BTreeMap<String, PathBuf>,
}

impl Artifacts {
    fn build(dirs: &Dirs, metadata: &Metadata) -> Result<Self> {
        let messages = cargo::messages(&mut cargo_build(dirs, metadata)?)?;
        let artifacts = messages.into_iter().filter_map(|message| match message {
            Message::CompilerArtifact(artifact) => Some(artifact),
            _ => None,
        });
        Self::sort(artifacts, metadata)
    }

    fn sort(artifacts: impl Iterator<Item = Artifact>, metadata: &Metadata) -> Result<Self> {
        let mut programs = BTreeMap::new();
        let mut tests = BTreeMap::new();
        for artifact in artifacts {
            let Some(path) = artifact.executable else { continue };
            let name = artifact.target.name;
            let is = |kind: TargetKind| artifact.target.kind.contains(&kind);
            if is(TargetKind::Test) {
                tests.insert(name, path.into());
            } else if is(TargetKind::Bin) {
                programs.insert(name, path.into());
            }
        }
        for test in &metadata.tests {
            if !tests.contains_key(test) {
                bail!("cargo built no test target `{test}`, which metadata.vmtest names");
            }
        }
        Ok(Self { programs, tests })
    }

    fn main_program(&self, metadata: &Metadata) -> Result<String> {
        let named = self.programs.keys().find(|name| **name == metadata.package);
        named.or(self.programs.keys().next()).cloned().with_context(|| {
            format!("package `{}`, which metadata.vmtest names, has no program", metadata.package)
        })
    }
}

fn cargo_build(dirs: &Dirs, metadata: &Metadata) -> Result<Command> {
    let mut command = cargo::command(dirs, "build")?;
    command
        .args(["--quiet", "--release"])
        .args(["--package", &metadata.package, "--bins"])
        .stdin(Stdio::null());
    for test in &metadata.tests {
        command.args(["--test", test]);
    }
    for feature in &metadata.features {
        command.args(["--features", &format!("{}/{feature}", metadata.package)]);
    }
    StaticBuild::detect(dirs)?.apply(&mut command);
    Ok(command)
}
