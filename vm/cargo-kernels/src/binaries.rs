//! A project's test binaries, as `cargo test` builds them, and what it would start them with.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use cargo_metadata::{Artifact, BuildScript, Message, Metadata, Package, PackageId, TargetKind};

use crate::cargo;

/// One executable with tests in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestBinary {
    /// As nextest writes it: `PACKAGE` for the library's unit tests, `PACKAGE::TARGET` for an integration test,
    /// `PACKAGE::KIND/TARGET` for the rest.
    pub id: String,
    /// The executable.
    pub path: PathBuf,
    /// The package's directory, in which tests run.
    pub directory: PathBuf,
    /// What cargo sets for it.
    pub env: BTreeMap<String, String>,
}

/// Builds the test binaries that `selection` names, cargo's own arguments, in the order in which `cargo test` runs them.
///
/// # Errors
/// When it does not compile, or cargo cannot be run.
pub fn build(project: &Metadata, selection: &[OsString]) -> Result<Vec<TestBinary>> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["test", "--no-run"]).args(selection);
    let built = Built::sort(cargo::messages(&mut command)?);
    built.tests.iter().map(|artifact| built.describe(project, artifact)).collect()
}

/// What cargo reported.
#[derive(Default)]
struct Built {
    tests: Vec<Artifact>,
    programs: Vec<Artifact>,
    scripts: BTreeMap<PackageId, BuildScript>,
}

impl Built {
    fn sort(messages: Vec<Message>) -> Self {
        let mut built = Self::default();
        for message in messages {
            match message {
                Message::CompilerArtifact(artifact) if artifact.executable.is_none() => {}
                Message::CompilerArtifact(artifact) if artifact.profile.test => {
                    built.tests.push(artifact)
                }
                Message::CompilerArtifact(artifact) if artifact.target.is_bin() => {
                    built.programs.push(artifact);
                }
                Message::BuildScriptExecuted(script) => {
                    built.scripts.insert(script.package_id.clone(), script);
                }
                _ => {}
            }
        }
        built
    }

    fn describe(&self, project: &Metadata, artifact: &Artifact) -> Result<TestBinary> {
        let path =
            artifact.executable.clone().context("cargo built a test without an executable")?;
        let package = project.packages.iter().find(|package| package.id == artifact.package_id);
        let package =
            package.with_context(|| format!("{path} is of no package of this workspace"))?;
        let directory = package.manifest_path.parent().context("a manifest in no directory")?;
        let mut env = package_variables(package);
        for program in self.programs.iter().filter(|it| it.package_id == artifact.package_id) {
            if let Some(path) = &program.executable {
                env.insert(format!("CARGO_BIN_EXE_{}", program.target.name), path.to_string());
            }
        }
        if let Some(script) = self.scripts.get(&artifact.package_id) {
            env.extend(script.env.iter().cloned());
            env.insert("OUT_DIR".into(), script.out_dir.to_string());
        }
        let temporary = project.target_directory.join("tmp");
        env.insert("CARGO_TARGET_TMPDIR".into(), temporary.into());
        env.insert("LD_LIBRARY_PATH".into(), self.library_path(project, path.as_std_path()));
        Ok(TestBinary {
            id: id(package, artifact),
            path: path.into(),
            directory: directory.into(),
            env,
        })
    }

    /// Where cargo lets the loader look: what build scripts linked to below the target directory, and beside the
    /// binary (cargo's reference, "Dynamic library paths").
    fn library_path(&self, project: &Metadata, binary: &Path) -> String {
        let linked = self.scripts.values().flat_map(|script| &script.linked_paths);
        let linked = linked
            .map(|path| path.as_str().split_once('=').map_or(path.as_str(), |(_, path)| path));
        let own = linked.filter(|path| Path::new(path).starts_with(&project.target_directory));
        let beside = binary.ancestors().skip(1).take(2).filter_map(Path::to_str);
        own.chain(beside).collect::<Vec<_>>().join(":")
    }
}

/// <https://docs.rs/nextest-metadata>, `RustBinaryId`.
fn id(package: &Package, artifact: &Artifact) -> String {
    let (package, target) = (&package.name, &artifact.target);
    match target.kind.first() {
        Some(TargetKind::Test) => format!("{package}::{}", target.name),
        Some(kind @ (TargetKind::Bin | TargetKind::Example | TargetKind::Bench)) => {
            format!("{package}::{kind}/{}", target.name)
        }
        _ => package.to_string(),
    }
}

/// The variables that cargo sets for what it runs (cargo's reference, "Environment variables Cargo sets for crates").
fn package_variables(package: &Package) -> BTreeMap<String, String> {
    let version = &package.version;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let path = |path: &Option<cargo_metadata::camino::Utf8PathBuf>| {
        path.as_ref().map(ToString::to_string).unwrap_or_default()
    };
    let directory = package.manifest_path.parent().map(ToString::to_string).unwrap_or_default();
    [
        ("CARGO_MANIFEST_DIR", directory),
        ("CARGO_MANIFEST_PATH", package.manifest_path.to_string()),
        ("CARGO_PKG_NAME", package.name.to_string()),
        ("CARGO_PKG_VERSION", version.to_string()),
        ("CARGO_PKG_VERSION_MAJOR", version.major.to_string()),
        ("CARGO_PKG_VERSION_MINOR", version.minor.to_string()),
        ("CARGO_PKG_VERSION_PATCH", version.patch.to_string()),
        ("CARGO_PKG_VERSION_PRE", version.pre.to_string()),
        ("CARGO_PKG_AUTHORS", package.authors.join(":")),
        ("CARGO_PKG_DESCRIPTION", text(&package.description)),
        ("CARGO_PKG_HOMEPAGE", text(&package.homepage)),
        ("CARGO_PKG_REPOSITORY", text(&package.repository)),
        ("CARGO_PKG_LICENSE", text(&package.license)),
        ("CARGO_PKG_LICENSE_FILE", path(&package.license_file)),
        ("CARGO_PKG_README", path(&package.readme)),
        (
            "CARGO_PKG_RUST_VERSION",
            package.rust_version.as_ref().map(ToString::to_string).unwrap_or_default(),
        ),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}
