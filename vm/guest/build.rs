//! Builds the static programs for guests, the agent and `load`'s loader, which this library carries inside itself.

#[path = "../guest_programs.rs"]
mod guest_programs;

use std::path::{Path, PathBuf};

use guest_programs::{LIBRARY_PATH, STATIC, find, linker_script};

fn main() {
    let out = PathBuf::from(variable("OUT_DIR"));
    let vm = Path::new(&variable("CARGO_MANIFEST_DIR")).join("..");
    for input in ["agent/Cargo.toml", "agent/src", "loader/Cargo.toml", "loader/src"] {
        println!("cargo::rerun-if-changed={}", vm.join(input).display());
    }
    println!("cargo::rerun-if-env-changed={LIBRARY_PATH}");
    let target = format!("{}-unknown-linux-gnu", variable("CARGO_CFG_TARGET_ARCH"));
    let manifest = vm.join("agent/Cargo.toml");
    // Both at once, with the same flags: what they have in common is compiled once.
    let (mut cargo, agent) = guest_programs::command(variable("CARGO").as_ref(), "agent", &manifest, &target, &out);
    let archives: Option<Vec<PathBuf>> = ["libc.a", "libelf.a", "libz.a"].map(find).into_iter().collect();
    let loader = match &archives {
        Some(archives) => {
            let script = out.join("libelf.ld");
            let libelf = std::fs::read(&archives[1]).unwrap_or_default();
            write(&script, linker_script(&libelf).as_bytes());
            cargo.env("CARGO_ENCODED_RUSTFLAGS", format!("{STATIC}\x1f-Clink-arg={}", script.display()));
            let directories = archives.iter().filter_map(|archive| archive.parent());
            cargo.env(LIBRARY_PATH, std::env::join_paths(directories).unwrap_or_default());
            cargo.args(["--package", "vmtest-agent", "--package", "vmtest-loader", "--bin", "vmtest-loader"]);
            cargo.args(["--features", "vmtest-loader/guest"]);
            agent.with_file_name("vmtest-loader")
        }
        None => {
            println!("cargo::warning=`cargo kernels load` will not work: libc.a, libelf.a or libz.a is missing");
            // What is not there has changed: the next build looks again.
            println!("cargo::rerun-if-changed={}", out.join("never").display());
            let none = out.join("no-loader");
            write(&none, b"");
            none
        }
    };
    let status = cargo.status().unwrap_or_else(|error| panic!("cannot run cargo: {error}"));
    assert!(status.success(), "the programs for guests were not built: see above");
    println!("cargo::rustc-env=AGENT={}", agent.display());
    println!("cargo::rustc-env=LOADER={}", loader.display());
}

/// What cargo tells a build script.
fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
