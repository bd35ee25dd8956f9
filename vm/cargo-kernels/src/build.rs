//! `cargo xtask build`.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use cargo_metadata::{Artifact, Message};

use crate::dirs::Dirs;
use crate::metadata::Metadata;
use crate::static_build::StaticBuild;
use crate::{cargo, exit};
use vm_kernels::Arch;

/// Runs the command.
pub fn run(dirs: &Dirs) -> Result<u8> {
    println!("{}", executable(dirs)?.display());
    Ok(exit::OK)
}

/// Builds the program as one static executable and returns its path.
pub fn executable(dirs: &Dirs) -> Result<PathBuf> {
    let (package, messages) = build(dirs)?;
    let executable = own_artifacts(&package, &messages).find_map(|artifact| artifact.executable.clone());
    Ok(executable.with_context(|| format!("{package} has no executable of that name"))?.into())
}

/// Builds the program and returns the BPF objects that its build script made: whatever is called `*.bpf.o` where the
/// script puts its output.
pub fn bpf_objects(dirs: &Dirs) -> Result<Vec<PathBuf>> {
    let (package, messages) = build(dirs)?;
    let id = own_artifacts(&package, &messages).map(|artifact| &artifact.package_id).next();
    let directory = messages.iter().find_map(|message| match message {
        Message::BuildScriptExecuted(script) if Some(&script.package_id) == id => Some(script.out_dir.as_std_path()),
        _ => None,
    });
    let directory = directory.with_context(|| format!("{package} has no build script"))?;
    let entries = std::fs::read_dir(directory).and_then(|entries| entries.collect::<std::io::Result<Vec<_>>>());
    let entries = entries.with_context(|| format!("cannot read {}", directory.display()))?;
    let mut objects: Vec<PathBuf> = entries.iter().map(|entry| entry.path()).collect();
    objects.retain(|path| path.to_string_lossy().ends_with(".bpf.o"));
    ensure!(!objects.is_empty(), "the build script of {package} made no *.bpf.o in {}", directory.display());
    objects.sort();
    Ok(objects)
}

/// Builds the program for a guest; returns the package's name and what cargo reports.
fn build(dirs: &Dirs) -> Result<(String, Vec<Message>)> {
    let Metadata { program, features, .. } = Metadata::load(dirs)?;
    let package = program.context("metadata.kernels in Cargo.toml names no program")?;
    let mut build = cargo::command(dirs, "build")?;
    build.args(["--release", "--package", &package, "--bin", &package]);
    build.arg("--features").arg(features.join(","));
    let messages = cargo::messages(StaticBuild::detect(dirs, Arch::host())?.apply(&mut build))?;
    Ok((package, messages))
}

/// What was made of the package's targets of its own name: its library, its executable.
fn own_artifacts<'a>(package: &'a str, messages: &'a [Message]) -> impl Iterator<Item = &'a Artifact> {
    messages.iter().filter_map(move |message| match message {
        Message::CompilerArtifact(artifact) if artifact.target.name == package => Some(artifact),
        _ => None,
    })
}
