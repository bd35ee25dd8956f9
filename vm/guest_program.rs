//! Builds a static program for guests. Included by the build scripts of the crates that carry one.

#[path = "guest_cargo.rs"]
mod guest_cargo;

use std::path::{Path, PathBuf};
use std::process::Command;

/// What cargo tells a build script.
pub fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}

/// The package beside the one that is built; the build script is run again when it changes.
pub fn package(name: &str) -> PathBuf {
    let package = Path::new(&variable("CARGO_MANIFEST_DIR")).join("..").join(name);
    for input in ["Cargo.toml", "src"] {
        println!("cargo::rerun-if-changed={}", package.join(input).display());
    }
    package
}

/// Builds the program `vmtest-NAME` of the package `../NAME`, with the flags that `configure` gives; its path.
pub fn build(name: &str, configure: impl FnOnce(&mut Command)) -> PathBuf {
    let target = format!("{}-unknown-linux-gnu", variable("CARGO_CFG_TARGET_ARCH"));
    let built = PathBuf::from(variable("OUT_DIR")).join(name);
    let manifest = package(name).join("Cargo.toml");
    let (mut cargo, program) = guest_cargo::command(variable("CARGO").as_ref(), name, &manifest, &target, &built);
    configure(&mut cargo);
    let status = cargo.status().unwrap_or_else(|error| panic!("cannot run cargo: {error}"));
    assert!(status.success(), "the guest's {name} was not built: see above");
    program
}
