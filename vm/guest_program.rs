//! Builds a static program for guests. Included by the build scripts of the crates that carry one.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Variables that tell of this build and must not reach the program's: flags, and what stands in for rustc under clippy.
const NOT_FOR_THE_PROGRAM: &[&str] = &[
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_TARGET_DIR",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "CARGO_PROFILE_RELEASE_LTO",
];

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
    let program = format!("vmtest-{name}");
    let mut cargo = Command::new(variable("CARGO"));
    cargo
        .args(["build", "--quiet", "--release", "--bin", &program, "--target", &target, "--manifest-path"])
        .arg(package(name).join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&built);
    for name in NOT_FOR_THE_PROGRAM {
        cargo.env_remove(name);
    }
    configure(&mut cargo);
    let status = cargo.status().unwrap_or_else(|error| panic!("cannot run cargo: {error}"));
    assert!(status.success(), "the guest's {name} was not built: see above");
    built.join(&target).join("release").join(program)
}
