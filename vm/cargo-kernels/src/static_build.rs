//! What cargo has to be told to make executables that need nothing of the machine they run on: the guest has no
//! shared libraries.
//!
//! The GNU target can link statically, given an archive of each C library. Distributions ship those of glibc,
//! libelf and zlib; libbpf is compiled by libbpf-sys.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::dirs::Dirs;
use crate::{cross, tools};
use vm_kernels::{Arch, whole_file};

use crate::guest_programs::{LIBRARY_PATH, STATIC, linker_script, listed_directories};

#[derive(Debug)]
pub struct StaticBuild {
    target: &'static str,
    /// What the linker has to be told of libelf.
    script: PathBuf,
    /// Where the archives are; for another architecture, its compiler, too.
    env: Vec<(String, OsString)>,
}

impl StaticBuild {
    /// Finds the archives: this machine's, or those for another architecture.
    pub fn detect(dirs: &Dirs, arch: &'static Arch) -> Result<Self> {
        let (libelf, env) = if arch.is_host() {
            let archives = ["libelf.a", "libc.a", "libz.a"].map(|archive| tools::find(dirs, archive));
            let archives = archives.into_iter().collect::<Result<Vec<_>>>()?;
            let directories = archives.iter().filter_map(|archive| archive.parent()).map(Path::to_owned);
            // What the user listed stays in front.
            let libraries = std::env::join_paths(listed_directories().into_iter().chain(directories))?;
            (archives[0].clone(), vec![(LIBRARY_PATH.to_owned(), libraries)])
        } else {
            cross::require(dirs, arch)?;
            let sysroot = cross::sysroot(dirs, arch)?;
            (sysroot.libraries().join("libelf.a"), cross::environment(arch, &sysroot).to_vec())
        };
        let text = std::fs::read(&libelf).map(|archive| linker_script(&archive));
        let text = text.with_context(|| format!("cannot read {}", libelf.display()))?;
        let script = dirs.target.join(format!("vmtest/{}libelf.ld", arch.tool_prefix()));
        // One that was not touched is nothing to link again for.
        if !std::fs::read(&script).is_ok_and(|there| there == text.as_bytes()) {
            whole_file::write(&script, text.as_bytes())?;
        }
        Ok(Self { target: arch.target, script, env })
    }

    /// Makes `cargo build` or `cargo test` produce static executables: adds `--target` and the environment. The
    /// features of the packages are the caller's.
    pub fn apply<'a>(&self, cargo: &'a mut Command) -> &'a mut Command {
        // Cargo takes flags from the first of these that is set; the user's stay in front.
        // <https://doc.rust-lang.org/cargo/reference/config.html#buildrustflags>
        let set = |name| std::env::var(name).ok().filter(|flags: &String| !flags.is_empty());
        let theirs = set("CARGO_ENCODED_RUSTFLAGS").or_else(|| {
            let words = set("RUSTFLAGS")?;
            Some(words.split_whitespace().collect::<Vec<_>>().join("\x1f"))
        });
        self.link(cargo.args(["--target", self.target]), theirs)
    }

    /// Only the environment, with these flags for rustc in front.
    pub fn link<'a>(&self, cargo: &'a mut Command, flags: Option<String>) -> &'a mut Command {
        // `cfg(vmtest)` is there so that a test can be `#[cfg_attr(not(vmtest), ignore)]`.
        let own = format!("{STATIC}\x1f--cfg=vmtest\x1f-Clink-arg={}", self.script.display());
        let flags: Vec<&str> = flags.as_deref().into_iter().chain([&*own]).collect();
        cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f")).envs(self.env.iter().cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Linked as the tracer is, against an object that refers to what Debian 13's and Ubuntu's libelf refer to.
    #[test]
    fn a_program_links_with_an_archive_that_lacks_functions() {
        let directory = tempfile::tempdir().unwrap();
        let source = "#include <stdio.h>\nvoid ZSTD_decompress(void), eu_search_tree_init(void), eu_search_tree_fini(void);\n\
                      void eu_search_tree_fini(void) { puts(\"its own\"); }\n\
                      int main(int argc, char **argv) { if (argc > 1) ZSTD_decompress();\n\
                      eu_search_tree_init(); eu_search_tree_fini(); return 0; }\n";
        let file = |name: &str| directory.path().join(name);
        std::fs::write(file("main.c"), source).unwrap();
        std::fs::write(file("libelf.ld"), linker_script(b"\0ZSTD_decompress\0ZSTD_isError\0")).unwrap();
        let link = |script: &[PathBuf]| {
            let mut cc = Command::new("cc");
            cc.args(["-static", "-o"]).args([file("main"), file("main.c")]).args(script).output().unwrap()
        };
        assert!(!link(&[]).status.success(), "links without the script");
        let linked = link(&[file("libelf.ld")]);
        assert!(linked.status.success(), "{linked:?}");
        assert_eq!(Command::new(file("main")).output().unwrap().stdout, b"its own\n");
        assert!(!Command::new(file("main")).arg("x").output().unwrap().status.success());
    }
}
