//! How cargo is told to build a program for guests. Included by the build script of vm/guest, and by what builds one later.

use std::ffi::OsStr;
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

/// What builds the program `vmtest-NAME` for a target below the directory `built`, and where the program is then.
pub fn command(cargo: &OsStr, name: &str, manifest: &Path, target: &str, built: &Path) -> (Command, PathBuf) {
    let program = format!("vmtest-{name}");
    let mut command = Command::new(cargo);
    command
        .args(["build", "--quiet", "--release", "--bin", &program, "--target", target, "--manifest-path"])
        .arg(manifest)
        .arg("--target-dir")
        .arg(built);
    for name in NOT_FOR_THE_PROGRAM {
        command.env_remove(name);
    }
    (command, built.join(target).join("release").join(program))
}
