//! Builds the loader, a static program for the guest, which `cargo kernels load` carries inside itself.

#[path = "src/static_build/libelf.rs"]
mod libelf;

use std::path::{Path, PathBuf};
use std::process::Command;

/// Where to look for archives, instead of asking the C compiler; libbpf-sys reads the same variable.
const LIBRARY_PATH: &str = "LIBBPF_SYS_LIBRARY_PATH";

/// Variables that tell of this build and must not reach the loader's: flags, and what stands in for rustc under clippy.
const NOT_FOR_THE_LOADER: &[&str] = &[
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_TARGET_DIR",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "CARGO_PROFILE_RELEASE_LTO",
];

fn main() {
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"));
    let out = PathBuf::from(variable("OUT_DIR"));
    let loader = Path::new(&variable("CARGO_MANIFEST_DIR")).join("../loader");
    for input in [loader.join("Cargo.toml"), loader.join("src"), "src/static_build".into()] {
        println!("cargo::rerun-if-changed={}", input.display());
    }
    println!("cargo::rerun-if-env-changed={LIBRARY_PATH}");
    let archives: Option<Vec<PathBuf>> = ["libc.a", "libelf.a", "libz.a"].map(find).into_iter().collect();
    let built = match archives {
        Some(archives) => build(&loader, &out, &archives, &variable("CARGO_CFG_TARGET_ARCH")),
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

fn find(file: &str) -> Option<PathBuf> {
    let listed = std::env::var_os(LIBRARY_PATH).unwrap_or_default();
    let mut listed = std::env::split_paths(&listed).map(|directory| directory.join(file));
    listed.find(|path| path.is_file()).or_else(|| {
        let output = Command::new("cc").arg(format!("-print-file-name={file}")).output().ok()?;
        // What it does not find, the compiler prints as it was given.
        let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        path.is_absolute().then_some(path)
    })
}

fn build(loader: &Path, out: &Path, archives: &[PathBuf], arch: &str) -> PathBuf {
    let target = format!("{arch}-unknown-linux-gnu");
    let built = out.join("loader");
    let script = out.join("libelf.ld");
    let libelf = std::fs::read(&archives[1]).unwrap_or_default();
    std::fs::write(&script, libelf::linker_script(&libelf))
        .unwrap_or_else(|error| panic!("{}: {error}", script.display()));
    let directories = archives.iter().filter_map(|archive| archive.parent());
    let flags = format!("-Ctarget-feature=+crt-static\x1f-Crelocation-model=static\x1f-Clink-arg={}", script.display());
    let mut cargo = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    cargo
        .args(["build", "--quiet", "--release", "--bin", "vmtest-loader", "--features", "guest"])
        .args(["--target", &target, "--manifest-path"])
        .arg(loader.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&built);
    for name in NOT_FOR_THE_LOADER {
        cargo.env_remove(name);
    }
    let directories = std::env::join_paths(directories).unwrap_or_default();
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags).env(LIBRARY_PATH, directories);
    let status = cargo.status().unwrap_or_else(|error| panic!("cannot run cargo: {error}"));
    assert!(status.success(), "the guest's loader was not built: see above");
    built.join(&target).join("release/vmtest-loader")
}
