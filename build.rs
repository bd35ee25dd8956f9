//! Compiles every `bpf/*.bpf.c` with clang and makes its skeleton, `$OUT_DIR/*.skel.rs`. The object stays beside it,
//! where `cargo xtask inspect` finds it.

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs, iter};

use anyhow::{Context, Result};
use libbpf_cargo::SkeletonBuilder;

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed=bpf");
    println!("cargo::rerun-if-env-changed=CLANG");
    let (clang, searched) =
        find_clang().context("compiling BPF programs needs clang 10 or newer: install it, or set CLANG to its path")?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // Paths end up in the object's BTF: relative, the object is the same wherever it is compiled.
    let relative = format!("-ffile-prefix-map={}=.", env::var("CARGO_MANIFEST_DIR")?);
    let arguments = ["-Wall".into(), "-Werror".into(), relative].into_iter().chain(searched);
    let arguments: Vec<String> = arguments.collect();
    for entry in fs::read_dir("bpf")? {
        let source = entry?.path();
        let file = source.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(name) = file.strip_suffix(".bpf.c") {
            SkeletonBuilder::new()
                .source(&source)
                .obj(out.join(format!("{name}.bpf.o")))
                .clang(&clang)
                .clang_args(&arguments)
                .build_and_generate(out.join(format!("{name}.skel.rs")))?;
        }
    }
    Ok(())
}

/// `$CLANG`, else `clang`, else the newest under a distribution's name such as `clang-19`, and arguments with the
/// directories that it searches for headers when it compiles for this machine. For BPF it does not, but there are
/// `linux/bpf.h` and `asm/types.h`. The kernel's own BPF selftests do the same.
fn find_clang() -> Option<(String, Vec<String>)> {
    let set = env::var("CLANG").ok().filter(|clang| !clang.is_empty());
    let names = iter::once("clang".into()).chain((10..=30).rev().map(|n| format!("clang-{n}")));
    let candidates: Vec<String> = set.map_or_else(|| names.collect(), |clang| vec![clang]);
    candidates.into_iter().find_map(|clang| {
        let said = Command::new(&clang).args(["-v", "-E", "-x", "c", "/dev/null"]).output().ok()?;
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        let (_, list) = said.split_once("#include <...> search starts here:\n")?;
        let (list, _) = list.split_once("End of search list.")?;
        let arguments = list.lines().flat_map(|dir| ["-idirafter".into(), dir.trim().into()]);
        Some((clang, arguments.collect()))
    })
}
