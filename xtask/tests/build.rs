//! `cargo xtask build`: what comes out of it is what a guest can run.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use cargo_kernels::closure;

/// What the README promises.
const MOST_BYTES: u64 = 2_000_000;

#[test]
fn the_executable_is_static_and_small() {
    let output = Command::cargo_bin("xtask").unwrap().arg("build").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let stdout = String::from_utf8(output.stdout).unwrap();
    let executable = Path::new(stdout.strip_suffix('\n').unwrap());

    let bytes = fs::metadata(executable).unwrap().len();
    assert!(bytes <= MOST_BYTES, "{} has {bytes} bytes", executable.display());
    assert_eq!(closure::loader(executable).unwrap(), None, "{} is not static", executable.display());
}
