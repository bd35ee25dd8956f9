//! Builds the loader, a static program for the guest, which `cargo kernels load` carries inside itself.

#[path = "src/static_build/archives.rs"]
mod archives;
#[path = "../guest_program.rs"]
mod guest_program;

use std::path::{Path, PathBuf};

use archives::{LIBRARY_PATH, find, linker_script};

fn main() {
    let out = PathBuf::from(guest_program::variable("OUT_DIR"));
    guest_program::package("loader");
    println!("cargo::rerun-if-changed=src/static_build");
    println!("cargo::rerun-if-env-changed={LIBRARY_PATH}");
    let archives: Option<Vec<PathBuf>> = ["libc.a", "libelf.a", "libz.a"].map(find).into_iter().collect();
    let built = match archives {
        Some(archives) => build(&out, &archives),
        None => {
            println!("cargo::warning=`cargo kernels load` will not work: libc.a, libelf.a or libz.a is missing");
            // What is not there has changed: the next build looks again.
            println!("cargo::rerun-if-changed={}", out.join("never").display());
            let none = out.join("no-loader");
            std::fs::write(&none, b"").unwrap_or_else(|error| panic!("{}: {error}", none.display()));
            none
        }
    };
    println!("cargo::rustc-env=LOADER={}", built.display());
}

fn build(out: &Path, archives: &[PathBuf]) -> PathBuf {
    let script = out.join("libelf.ld");
    let libelf = std::fs::read(&archives[1]).unwrap_or_default();
    std::fs::write(&script, linker_script(&libelf)).unwrap_or_else(|error| panic!("{}: {error}", script.display()));
    let directories = archives.iter().filter_map(|archive| archive.parent());
    let directories = std::env::join_paths(directories).unwrap_or_default();
    let flags = format!("-Ctarget-feature=+crt-static\x1f-Crelocation-model=static\x1f-Clink-arg={}", script.display());
    guest_program::build("loader", |cargo| {
        cargo.args(["--features", "guest"]).env("CARGO_ENCODED_RUSTFLAGS", flags).env(LIBRARY_PATH, directories);
    })
}
