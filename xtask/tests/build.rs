//! `cargo xtask build`: what comes out of it is what a guest can run.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use object::LittleEndian;
use object::elf::{self, FileHeader64};
use object::read::elf::{FileHeader as _, ProgramHeader as _};

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
    assert!(!asks_for_a_dynamic_linker(executable), "{} is not static", executable.display());
}

fn asks_for_a_dynamic_linker(executable: &Path) -> bool {
    let bytes = fs::read(executable).unwrap();
    let header = FileHeader64::<LittleEndian>::parse(&*bytes).unwrap();
    let segments = header.program_headers(LittleEndian, &*bytes).unwrap();
    segments.iter().any(|segment| segment.p_type(LittleEndian) == elf::PT_INTERP)
}
