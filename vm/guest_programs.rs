//! How programs for guests are built, which have no shared libraries, and where a distribution's static libraries are.
//! Included by the build script of vm/guest, and by what builds static programs later.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use memchr::memmem;

/// Where to look for archives, instead of asking the C compiler; libbpf-sys reads the same variable.
pub const LIBRARY_PATH: &str = "LIBBPF_SYS_LIBRARY_PATH";

/// The path of a static library: in `LIBRARY_PATH`, else where the C compiler looks.
pub fn find(file: &str) -> Option<PathBuf> {
    let mut listed = listed_directories().into_iter().map(|directory| directory.join(file));
    listed.find(|path| path.is_file()).or_else(|| {
        let output = Command::new("cc").arg(format!("-print-file-name={file}")).output().ok()?;
        // What it does not find, the compiler prints as it was given.
        let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        path.is_absolute().then_some(path)
    })
}

/// The directories in `LIBRARY_PATH`.
pub fn listed_directories() -> Vec<PathBuf> {
    let listed = std::env::var_os(LIBRARY_PATH).unwrap_or_default();
    std::env::split_paths(&listed).filter(|path| !path.as_os_str().is_empty()).collect()
}

/// What an archive of libelf may refer to and not have, and none that links it calls. `PROVIDE` yields to a definition.
///
/// - Since 0.189 it decompresses sections with zstd, where it was built so. The objects that a program embeds have no
///   compressed sections: instead of 600 kB of zstd these functions become `abort`.
/// - 0.192, which is Debian 13's, forgot two functions of its own
///   (<https://sourceware.org/bugzilla/show_bug.cgi?id=32293>). They make and free the empty tree of an object's raw
///   chunks, which is all zeroes; `pthread_self` does nothing, and every program has it.
pub fn linker_script(archive: &[u8]) -> String {
    let name = |start: usize| -> String {
        let name = archive[start..].iter().map(|byte| char::from(*byte));
        name.take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
    };
    let zstd: BTreeSet<String> = memmem::find_iter(archive, "ZSTD_").map(name).collect();
    let zstd = zstd.iter().map(|name| format!("PROVIDE({name} = abort);\n"));
    let forgotten =
        ["eu_search_tree_init", "eu_search_tree_fini"].map(|name| format!("PROVIDE({name} = pthread_self);\n"));
    forgotten.into_iter().chain(zstd).collect()
}

/// Variables that tell of this build and must not reach the program's: flags, and what stands in for rustc under clippy.
const NOT_FOR_THE_PROGRAM: &[&str] = &[
    "CARGO_BUILD_TARGET",
    "CARGO_TARGET_DIR",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "CARGO_PROFILE_RELEASE_LTO",
];

/// What rustc is told to link statically, as cargo's `CARGO_ENCODED_RUSTFLAGS`.
pub const STATIC: &str = "-Ctarget-feature=+crt-static\x1f-Crelocation-model=static";

/// What builds the program `vmtest-NAME` for a target below the directory `built`, and where the program is then.
pub fn command(cargo: &OsStr, name: &str, manifest: &Path, target: &str, built: &Path) -> (Command, PathBuf) {
    let program = format!("vmtest-{name}");
    let mut command = Command::new(cargo);
    command
        .args(["build", "--quiet", "--release", "--bin", &program, "--target", target, "--manifest-path"])
        .arg(manifest)
        .arg("--target-dir")
        .arg(built);
    for name in NOT_FOR_THE_PROGRAM {
        command.env_remove(name);
    }
    command.env("CARGO_ENCODED_RUSTFLAGS", STATIC);
    (command, built.join(target).join("release").join(program))
}
