//! What cargo has to be told to make executables that need nothing of the machine they run on: the guest has no
//! shared libraries.
//!
//! The GNU target can link statically, given an archive of each C library. Distributions ship those of glibc,
//! libelf and zlib; libbpf is compiled by libbpf-sys.

mod libelf;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::paths;

/// Where to look for archives, instead of asking the C compiler; libbpf-sys reads the same variable.
const LIBRARY_PATH: &str = "LIBBPF_SYS_LIBRARY_PATH";

/// An archive that the static executables are linked with, and who ships it.
struct Archive {
    file: &'static str,
    debian: &'static str,
    fedora: &'static str,
}

const LIBELF: &str = "libelf.a";

const ARCHIVES: &[Archive] = &[
    Archive { file: "libc.a", debian: "libc6-dev", fedora: "glibc-static" },
    Archive { file: LIBELF, debian: "libelf-dev", fedora: "elfutils-libelf-devel-static" },
    Archive { file: "libz.a", debian: "zlib1g-dev", fedora: "zlib-ng-compat-static" },
];

/// For rustc. `cfg(vmtest)` is there so that a test can be `#[cfg_attr(not(vmtest), ignore)]`.
const RUSTFLAGS: &[&str] =
    &["-C", "target-feature=+crt-static", "-C", "relocation-model=static", "--cfg", "vmtest"];

/// How to build static executables on this machine.
#[derive(Debug)]
pub struct StaticBuild {
    /// Directories with the archives, `:` between them, as libbpf-sys wants them.
    library_path: OsString,
    /// What rustc has to be told.
    rustflags: Vec<String>,
}

impl StaticBuild {
    /// Finds the archives.
    ///
    /// # Errors
    ///
    /// When this machine is of an architecture that was never tried, or lacks an archive; the message says what to
    /// install.
    pub fn detect() -> Result<Self> {
        if target_triple().is_none() {
            bail!(
                "static executables can be built for x86_64 and aarch64 Linux, not for {}",
                std::env::consts::ARCH
            );
        }
        let found = find_all()?;
        let mut rustflags: Vec<String> = RUSTFLAGS.iter().map(|&flag| flag.to_owned()).collect();
        if let Some(libelf) = found.iter().find(|path| path.ends_with(LIBELF)) {
            let script = paths::target().join("vmtest/libelf.ld");
            if libelf::write_linker_script(libelf, &script)? {
                let script = script.to_str().context("the target directory's name is not UTF-8")?;
                rustflags.extend(["-C".into(), format!("link-arg={script}")]);
            }
        }
        let library_path = std::env::join_paths(search_path(&found))
            .context("a library directory's name has a colon in it")?;
        Ok(Self { library_path, rustflags })
    }

    /// Makes `cargo build` or `cargo test` produce static executables: adds `--target` and the environment. The
    /// features of the packages are the caller's.
    pub fn apply<'a>(&self, cargo: &'a mut Command) -> &'a mut Command {
        let flags = encoded_rustflags(&self.rustflags, |name| std::env::var(name).ok());
        cargo
            .args(["--target", target_triple().unwrap_or_default()])
            .env("CARGO_ENCODED_RUSTFLAGS", flags)
            .env(LIBRARY_PATH, &self.library_path)
    }
}

/// The target triple of static executables; none on an architecture that was never tried.
pub fn target_triple() -> Option<&'static str> {
    match (std::env::consts::ARCH, cfg!(target_env = "musl")) {
        ("x86_64", false) => Some("x86_64-unknown-linux-gnu"),
        ("x86_64", true) => Some("x86_64-unknown-linux-musl"),
        ("aarch64", false) => Some("aarch64-unknown-linux-gnu"),
        ("aarch64", true) => Some("aarch64-unknown-linux-musl"),
        _ => None,
    }
}

fn find_all() -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for archive in ARCHIVES {
        match find(archive.file)? {
            Some(path) => found.push(path),
            None => missing.push(archive),
        }
    }
    if missing.is_empty() { Ok(found) } else { bail!(missing_message(&missing)) }
}

/// The path of a static library: in [`LIBRARY_PATH`], else where the C compiler looks.
pub fn find(file: &str) -> Result<Option<PathBuf>> {
    let mut listed = listed_directories().into_iter().map(|directory| directory.join(file));
    if let Some(path) = listed.find(|path| path.is_file()) {
        return Ok(Some(path));
    }
    let output = Command::new("cc")
        .arg(format!("-print-file-name={file}"))
        .output()
        .context("cannot run `cc`: a C compiler is needed (Debian: apt install build-essential)")?;
    // What it does not find, the compiler prints as it was given.
    let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    Ok(path.is_absolute().then_some(path))
}

/// The directories in [`LIBRARY_PATH`].
fn listed_directories() -> Vec<PathBuf> {
    let listed = std::env::var_os(LIBRARY_PATH).unwrap_or_default();
    std::env::split_paths(&listed).filter(|path| !path.as_os_str().is_empty()).collect()
}

/// The directories in which the linker has to look. What the user listed stays in front.
fn search_path(found: &[PathBuf]) -> Vec<PathBuf> {
    let mut directories = listed_directories();
    for directory in found.iter().filter_map(|path| path.parent()).map(Path::to_owned) {
        if !directories.contains(&directory) {
            directories.push(directory);
        }
    }
    directories
}

fn missing_message(missing: &[&Archive]) -> String {
    let list = |name: fn(&Archive) -> &str| {
        missing.iter().map(|archive| name(archive)).collect::<Vec<_>>().join(" ")
    };
    format!(
        "a static executable needs {}, which the C compiler does not find; \
         Debian and Ubuntu: apt install {}; Fedora: dnf install {}; \
         elsewhere name the directories that have them in {LIBRARY_PATH}",
        list(|archive| archive.file),
        list(|archive| archive.debian),
        list(|archive| archive.fedora),
    )
}

/// The value of CARGO_ENCODED_RUSTFLAGS: of the places where cargo takes flags from the first, and the one whose flags
/// may have spaces in them. The user's flags from the environment are kept.
/// <https://doc.rust-lang.org/cargo/reference/config.html#buildrustflags>
fn encoded_rustflags(ours: &[String], var: impl Fn(&str) -> Option<String>) -> String {
    const SEPARATOR: &str = "\x1f";
    let encoded = var("CARGO_ENCODED_RUSTFLAGS").filter(|flags| !flags.is_empty());
    let theirs = encoded.or_else(|| {
        let words = var("RUSTFLAGS")?;
        let words: Vec<&str> = words.split_whitespace().collect();
        (!words.is_empty()).then(|| words.join(SEPARATOR))
    });
    theirs.into_iter().chain(ours.iter().cloned()).collect::<Vec<_>>().join(SEPARATOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(set: &[(&str, &str)], expected: &str) {
        let var = |name: &str| {
            set.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned())
        };
        assert_eq!(encoded_rustflags(&["-C".into(), "x y".into()], var), expected);
    }

    #[test]
    fn our_flags_join_the_users() {
        check(&[], "-C\x1fx y");
        check(&[("RUSTFLAGS", "")], "-C\x1fx y");
        check(&[("RUSTFLAGS", " -D  warnings")], "-D\x1fwarnings\x1f-C\x1fx y");
        check(
            &[("RUSTFLAGS", "-g"), ("CARGO_ENCODED_RUSTFLAGS", "-D\x1fwarnings")],
            "-D\x1fwarnings\x1f-C\x1fx y",
        );
    }

    #[test]
    fn a_missing_archive_is_named_with_its_package() {
        let message = missing_message(&[&ARCHIVES[1], &ARCHIVES[2]]);
        for part in ["libelf.a libz.a", "apt install libelf-dev zlib1g-dev", LIBRARY_PATH] {
            assert!(message.contains(part), "{message}");
        }
    }
}
