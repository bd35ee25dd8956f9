//! `cargo xtask build`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use cargo_metadata::Message;

use crate::metadata::Metadata;
use crate::static_build::StaticBuild;
use crate::{cargo, exit};

/// Runs the command.
pub fn run() -> Result<u8> {
    println!("{}", executable()?.display());
    Ok(exit::OK)
}

/// Builds the program as one static executable and returns its path.
pub fn executable() -> Result<PathBuf> {
    let Metadata { package, features, .. } = Metadata::load()?;
    let mut build = cargo::command("build");
    build.args(["--release", "--package", &package, "--bin", &package]);
    build.arg("--features").arg(features.join(","));
    let messages = cargo::messages(StaticBuild::detect()?.apply(&mut build))?;
    let executable = messages.into_iter().find_map(|message| match message {
        Message::CompilerArtifact(artifact) if artifact.target.name == package => {
            artifact.executable
        }
        _ => None,
    });
    Ok(executable.context("cargo built no executable")?.into())
}
