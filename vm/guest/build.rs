//! Builds the agent, a static program for the guest, which this library carries inside itself.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Variables that tell of this build and must not reach the agent's: flags, and what stands in for rustc under clippy.
const NOT_FOR_THE_AGENT: &[&str] = &[
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_TARGET_DIR",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "CARGO_PROFILE_RELEASE_LTO",
];

fn main() {
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"));
    let agent = Path::new(&variable("CARGO_MANIFEST_DIR")).join("../agent");
    for input in ["Cargo.toml", "src"] {
        println!("cargo::rerun-if-changed={}", agent.join(input).display());
    }
    let target = format!("{}-unknown-linux-gnu", variable("CARGO_CFG_TARGET_ARCH"));
    let built = PathBuf::from(variable("OUT_DIR")).join("agent");

    let mut cargo = Command::new(variable("CARGO"));
    cargo
        .args(["build", "--quiet", "--release", "--bin", "vmtest-agent", "--target", &target])
        .arg("--manifest-path")
        .arg(agent.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&built)
        .env("RUSTFLAGS", "-C target-feature=+crt-static");
    for name in NOT_FOR_THE_AGENT {
        cargo.env_remove(name);
    }
    let status = cargo.status().unwrap_or_else(|error| panic!("cannot run cargo: {error}"));
    assert!(status.success(), "the guest's agent was not built: see above");
    println!("cargo::rustc-env=AGENT={}", built.join(&target).join("release/vmtest-agent").display());
}
