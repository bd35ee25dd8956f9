//! Which of the caller's variables get into a guest: few, since among the others there are tokens.

use std::collections::BTreeMap;
use std::ffi::OsString;

use anyhow::Result;

use crate::exit::Exit;
use crate::flags::EnvVar;

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

fn is_allowed(name: &str) -> bool {
    ALLOWED.contains(&name) || ALLOWED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The variables that `--env` names, with their values.
///
/// # Errors
/// When one has no value here, or one that is not UTF-8.
pub fn asked(variables: &[EnvVar]) -> Result<BTreeMap<String, String>> {
    let mut asked = BTreeMap::new();
    for EnvVar { name, value } in variables {
        let value = value.clone().map_or_else(|| std::env::var(name), Ok);
        let value = value.map_err(|error| Exit::usage(format!("--env {name}: {error}")))?;
        asked.insert(name.clone(), value);
    }
    Ok(asked)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn only_what_is_allowed_or_asked_for_is_passed_on() {
        // Cargo sets this in the environment of tests, and it is not on the list.
        let name = "CARGO_PKG_NAME";
        let own = env!("CARGO_PKG_NAME");
        assert_eq!(std::env::var(name).as_deref(), Ok(own));
        let passed: Vec<OsString> = allowed().map(|(name, _)| name).collect();
        assert!(passed.contains(&"PATH".into()) && !passed.contains(&name.into()), "{passed:?}");
        assert!(!is_allowed("CARGO_REGISTRY_TOKEN") && !is_allowed("GITHUB_TOKEN"));
        let variables = [name, "A=b=c", "EMPTY="].map(|text| text.parse().unwrap());
        let pairs = [("A", "b=c"), (name, own), ("EMPTY", "")];
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(asked(&variables).unwrap(), pairs.into());
        let error = asked(&["NOT_SET_ANYWHERE".parse().unwrap()]).unwrap_err();
        assert_eq!(crate::exit::code_of(&error), crate::exit::USAGE);
        assert!(["=x", "", "A B=c"].iter().all(|text| text.parse::<EnvVar>().is_err()));
    }
}
