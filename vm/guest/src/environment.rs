//! Which of the caller's variables get into a guest: few, since among the others there are tokens.

use std::ffi::OsString;

/// Where things are, how they look and in which language: what programs need to work as they do here.
const ALLOWED: &[&str] = &[
    "CARGO_HOME",
    "COLORTERM",
    "HOME",
    "LANG",
    "LANGUAGE",
    "LOGNAME",
    "NO_COLOR",
    "PATH",
    "RUSTUP_HOME",
    "RUSTUP_TOOLCHAIN",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "SHELL",
    "TERM",
    "TMPDIR",
    "TZ",
    "USER",
];
/// The parts of the locale, and the variables of this program.
const ALLOWED_PREFIXES: &[&str] = &["LC_", "VMTEST_"];

/// What a program may see of the environment without being asked for it.
pub fn allowed() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_allowed))
}

/// Whether a variable of this name is among them.
pub fn is_allowed(name: &str) -> bool {
    ALLOWED.contains(&name) || ALLOWED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn only_what_is_allowed_is_passed_on() {
        // Cargo sets this in the environment of tests, and it is not on the list.
        let name = "CARGO_PKG_NAME";
        assert_eq!(std::env::var(name).as_deref(), Ok(env!("CARGO_PKG_NAME")));
        let passed: Vec<OsString> = allowed().map(|(name, _)| name).collect();
        assert!(passed.contains(&"PATH".into()) && !passed.contains(&name.into()), "{passed:?}");
        assert!(!is_allowed("CARGO_REGISTRY_TOKEN") && !is_allowed("GITHUB_TOKEN"));
    }
}
