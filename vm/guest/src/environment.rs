//! Which of the caller's variables get into a guest: few, since among the others there are tokens. And where the programs
//! are that work for it here.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Where things are, how they look and in which language: what programs need to work as they do here.
const ALLOWED: &str = "CARGO_HOME COLORTERM HOME LANG LANGUAGE LOGNAME NO_COLOR PATH RUSTUP_HOME RUSTUP_TOOLCHAIN \
    RUST_BACKTRACE RUST_LOG SHELL TERM TMPDIR TZ USER";
/// The parts of the locale, and the variables of this program.
const ALLOWED_PREFIXES: &[&str] = &["LC_", "VMTEST_"];

/// What a program may see of the environment without being asked for it.
pub fn allowed() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_allowed))
}

/// Whether a variable of this name is among them.
pub fn is_allowed(name: &str) -> bool {
    ALLOWED.split(' ').any(|allowed| allowed == name) || ALLOWED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// `PATH` with a program's own directory first: vng runs its `virtme-run` from there. The directories
/// of root's programs come last, since modprobe and depmod are there on Debian.
pub(crate) fn path_with(program: &Path) -> Result<OsString> {
    let own = program.parent().map(Path::to_owned);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::join_paths(own.into_iter().chain(std::env::split_paths(&path)).chain(sbin))
        .with_context(|| format!("the directory of {} has a colon in its name", program.display()))
}
