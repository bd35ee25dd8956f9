//! What cargo has to be told to make executables that need nothing of the machine they run on: the guest has no
//! shared libraries.
//!
//! The GNU target can link statically, given an archive of each C library. Distributions ship those of glibc,
//! libelf and zlib; libbpf is compiled by libbpf-sys.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Where to look for archives, instead of asking the C compiler; libbpf-sys reads the same variable.
const LIBRARY_PATH: &str = "LIBBPF_SYS_LIBRARY_PATH";

/// An archive that the static executables are linked with, and who ships it.
struct Archive {
    file: &'static str,
    debian: &'static str,
    fedora: &'static str,
}

const ARCHIVES: &[Archive] = &[
    Archive { file: "libc.a", debian: "libc6-dev", fedora: "glibc-static" },
    Archive { file: "libelf.a", debian: "libelf-dev", fedora: "elfutils-libelf-devel-static" },
    Archive { file: "libz.a", debian: "zlib1g-dev", fedora: "zlib-ng-compat-static" },
];

/// libelf decompresses sections with zstd since 0.189 where it was built so; its archive then needs this one.
const ZSTD: Archive =
    Archive { file: "libzstd.a", debian: "libzstd-dev", fedora: "libzstd-static" };

/// How to build static executables on this machine.
#[derive(Debug)]
pub struct StaticBuild {
    /// Directories with the archives, `:` between them, as libbpf-sys wants them.
    library_path: OsString,
    /// What rustc has to be told.
    rustflags: Vec<&'static str>,
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
        let mut found = Vec::new();
        let mut missing = Vec::new();
        for archive in ARCHIVES {
            match find(archive.file)? {
                Some(path) => found.push(path),
                None => missing.push(archive),
            }
        }
        let mut rustflags =
            vec!["-C", "target-feature=+crt-static", "-C", "relocation-model=static"];
        // So that a test can be `#[cfg_attr(not(vmtest), ignore)]`.
        rustflags.extend(["--cfg", "vmtest"]);
        if found.iter().any(|path| path.ends_with("libelf.a") && needs_zstd(path)) {
            match find(ZSTD.file)? {
                Some(path) => found.push(path),
                None => missing.push(&ZSTD),
            }
            // As an argument of the linker it comes after libelf, which is where it has to be.
            rustflags.extend(["-C", "link-arg=-lzstd"]);
        }
        if !missing.is_empty() {
            bail!(missing_message(&missing));
        }
        // What the user named stays in front.
        let mut directories = listed_directories();
        for directory in found.iter().filter_map(|path| path.parent()) {
            if !directories.iter().any(|known| known == directory) {
                directories.push(directory.to_owned());
            }
        }
        let library_path = std::env::join_paths(directories)
            .context("a library directory's name has a colon in it")?;
        Ok(Self { library_path, rustflags })
    }

    /// Makes `cargo build` or `cargo test` produce static executables: adds `--target` and the environment. The
    /// features of the packages are the caller's.
    pub fn apply<'a>(&self, cargo: &'a mut Command) -> &'a mut Command {
        let (name, flags) = rustflags(&self.rustflags, |name| std::env::var(name).ok());
        cargo
            .args(["--target", target_triple().unwrap_or_default()])
            .env(name, flags)
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

/// The directories in [`LIBRARY_PATH`].
fn listed_directories() -> Vec<PathBuf> {
    let listed = std::env::var_os(LIBRARY_PATH).unwrap_or_default();
    std::env::split_paths(&listed).filter(|path| !path.as_os_str().is_empty()).collect()
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

/// Whether an archive of libelf refers to zstd.
fn needs_zstd(libelf: &Path) -> bool {
    const SYMBOL: &[u8] = b"ZSTD_";
    std::fs::read(libelf)
        .is_ok_and(|bytes| bytes.windows(SYMBOL.len()).any(|window| window == SYMBOL))
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

/// The environment variable that takes rustc's flags, and its value with ours added. Of the variables that cargo
/// knows only the first that is set counts, so ours join it.
/// <https://doc.rust-lang.org/cargo/reference/config.html#buildrustflags>
fn rustflags(ours: &[&str], var: impl Fn(&str) -> Option<String>) -> (String, String) {
    let triple = target_triple().unwrap_or_default().to_uppercase().replace('-', "_");
    let of_target = format!("CARGO_TARGET_{triple}_RUSTFLAGS");
    let (name, separator) = if var("CARGO_ENCODED_RUSTFLAGS").is_some() {
        ("CARGO_ENCODED_RUSTFLAGS", "\x1f")
    } else if var("RUSTFLAGS").is_some() {
        ("RUSTFLAGS", " ")
    } else {
        (of_target.as_str(), " ")
    };
    let theirs = var(name).filter(|flags| !flags.is_empty());
    let flags: Vec<&str> = theirs.as_deref().into_iter().chain(ours.iter().copied()).collect();
    (name.to_owned(), flags.join(separator))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(set: &[(&str, &str)], name: &str, value: &str) {
        let var = |name: &str| {
            set.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned())
        };
        assert_eq!(rustflags(&["-C", "x"], var), (name.into(), value.into()));
    }

    #[test]
    fn our_flags_join_the_variable_that_cargo_would_obey() {
        let of_target = format!(
            "CARGO_TARGET_{}_RUSTFLAGS",
            target_triple().unwrap_or_default().to_uppercase().replace('-', "_")
        );
        check(&[], &of_target, "-C x");
        check(&[("RUSTFLAGS", "-D warnings")], "RUSTFLAGS", "-D warnings -C x");
        check(&[("RUSTFLAGS", "")], "RUSTFLAGS", "-C x");
        check(
            &[("RUSTFLAGS", "-g"), ("CARGO_ENCODED_RUSTFLAGS", "-D\x1fwarnings")],
            "CARGO_ENCODED_RUSTFLAGS",
            "-D\x1fwarnings\x1f-C\x1fx",
        );
    }

    #[test]
    fn a_missing_archive_is_named_with_its_package() {
        let message = missing_message(&[&ARCHIVES[1], &ZSTD]);
        for part in ["libelf.a libzstd.a", "apt install libelf-dev libzstd-dev", LIBRARY_PATH] {
            assert!(message.contains(part), "{message}");
        }
    }
}
