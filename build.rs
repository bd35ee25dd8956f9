//! Compiles `bpf/*.bpf.c` and makes the skeletons, `$OUT_DIR/*.skel.rs`.
//!
//! The objects stay beside the skeletons, where `cargo xtask inspect` finds them.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use libbpf_cargo::SkeletonBuilder;

const SOURCES: &str = "bpf";

/// Releases of clang that distributions install under a name of their own, newest first. Before 10 it cannot
/// describe a BPF program's types (BTF).
const CLANG_RELEASES: std::ops::RangeInclusive<u32> = 10..=30;

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<()> {
    println!("cargo::rerun-if-changed={SOURCES}");
    println!("cargo::rerun-if-env-changed=CLANG");
    let out = PathBuf::from(env::var_os("OUT_DIR").context("cargo sets OUT_DIR")?);
    let clang = find_clang()?;
    let mut arguments = vec![OsString::from("-Wall"), OsString::from("-Werror")];
    arguments.push(relative_paths()?);
    arguments.extend(system_includes(&clang)?);
    remove_objects(&out)?;
    for (name, source) in sources()? {
        SkeletonBuilder::new()
            .source(&source)
            .obj(out.join(format!("{name}.bpf.o")))
            .clang(&clang)
            .clang_args(&arguments)
            .build_and_generate(out.join(format!("{name}.skel.rs")))?;
    }
    Ok(())
}

/// Removes the objects of an earlier build, whose sources may be gone.
fn remove_objects(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "o") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Every `NAME.bpf.c`, with its name.
fn sources() -> Result<Vec<(String, PathBuf)>> {
    let mut sources = Vec::new();
    for entry in fs::read_dir(SOURCES).context("cannot read the directory `bpf`")? {
        let path = entry?.path();
        let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(name) = file.strip_suffix(".bpf.c") {
            sources.push((name.to_owned(), path.clone()));
        }
    }
    Ok(sources)
}

/// Makes clang write the sources' paths, which end up in the object's BTF, relative to this directory, so that the object
/// is the same wherever it is compiled.
fn relative_paths() -> Result<OsString> {
    let here = env::var_os("CARGO_MANIFEST_DIR").context("cargo sets CARGO_MANIFEST_DIR")?;
    let mut argument = OsString::from("-ffile-prefix-map=");
    argument.push(here);
    argument.push("=.");
    Ok(argument)
}

/// A clang that compiles for BPF: `$CLANG`, which must be one if it is set, else the first on `PATH`.
fn find_clang() -> Result<PathBuf> {
    if let Some(clang) = env::var_os("CLANG").filter(|clang| !clang.is_empty()) {
        if !compiles_for_bpf(Path::new(&clang)) {
            bail!("CLANG is set to {clang:?}, which does not run or cannot compile for BPF");
        }
        return Ok(clang.into());
    }
    let releases = CLANG_RELEASES.rev().map(|release| format!("clang-{release}"));
    std::iter::once("clang".to_owned())
        .chain(releases)
        .map(PathBuf::from)
        .find(|clang| compiles_for_bpf(clang))
        .context(
            "compiling BPF programs needs clang 10 or newer: install it (Debian, Ubuntu: apt install clang; \
             Fedora: dnf install clang), or set CLANG to its path",
        )
}

fn compiles_for_bpf(clang: &Path) -> bool {
    Command::new(clang)
        .args(["-target", "bpf", "-x", "c", "-fsyntax-only", "/dev/null"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Where this machine keeps `linux/bpf.h` and, on Debian in a directory of the architecture's, `asm/types.h`: the
/// directories that clang searches when it compiles for this machine, which it does not when it compiles for BPF. The
/// kernel's own BPF selftests do the same.
fn system_includes(clang: &Path) -> Result<Vec<OsString>> {
    let output = Command::new(clang)
        .args(["-v", "-E", "-x", "c", "/dev/null"])
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", clang.display()))?;
    let listing = String::from_utf8_lossy(&output.stderr);
    Ok(listing
        .lines()
        .skip_while(|line| *line != "#include <...> search starts here:")
        .skip(1)
        .take_while(|line| *line != "End of search list.")
        .flat_map(|directory| ["-idirafter".into(), directory.trim().into()])
        .collect())
}
