//! Compiles `bpf/helloworld.bpf.c` with clang and makes its skeleton, `$OUT_DIR/helloworld.skel.rs`. The object stays
//! beside it, where `cargo xtask inspect` finds it.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use libbpf_cargo::SkeletonBuilder;

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed=bpf");
    println!("cargo::rerun-if-env-changed=CLANG");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let (clang, headers) =
        find_clang().context("compiling BPF programs needs clang 10 or newer: install it, or set CLANG to its path")?;
    // Paths end up in the object's BTF: relative, the object is the same wherever it is compiled.
    let relative = format!("-ffile-prefix-map={}=.", env::var("CARGO_MANIFEST_DIR")?);
    SkeletonBuilder::new()
        .source("bpf/helloworld.bpf.c")
        .obj(out.join("helloworld.bpf.o"))
        .clang(clang)
        .clang_args(["-Wall".into(), "-Werror".into(), relative].into_iter().chain(headers))
        .build_and_generate(out.join("helloworld.skel.rs"))
}

/// `$CLANG`, else `clang`, else the newest under a distribution's name such as `clang-19`, and arguments with the
/// directories that it searches for headers when it compiles for this machine: for BPF it does not, but there are
/// `linux/bpf.h` and `asm/types.h`. The kernel's own BPF selftests do the same.
fn find_clang() -> Option<(String, Vec<String>)> {
    let set = env::var("CLANG").ok().filter(|clang| !clang.is_empty());
    let names = ["clang".to_owned()].into_iter().chain((10..=30).rev().map(|version| format!("clang-{version}")));
    set.map_or_else(|| names.collect(), |clang| vec![clang]).into_iter().find_map(|clang| {
        let said = Command::new(&clang).args(["-v", "-E", "-x", "c", "/dev/null"]).output().ok()?.stderr;
        let said = String::from_utf8_lossy(&said);
        let (_, list) = said.split_once("#include <...> search starts here:\n")?;
        let (directories, _) = list.split_once("End of search list.")?;
        Some((clang, directories.lines().map(|directory| format!("-idirafter{}", directory.trim())).collect()))
    })
}
