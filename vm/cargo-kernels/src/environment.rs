//! Which variables get into a guest because the user asks for them.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::exit::Exit;
use crate::flags::EnvVar;

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
    fn what_is_asked_for_has_its_own_value_or_the_given_one() {
        let (name, own) = ("CARGO_PKG_NAME", env!("CARGO_PKG_NAME"));
        let variables = [name, "A=b=c", "EMPTY="].map(|text| text.parse().unwrap());
        let pairs = [("A", "b=c"), (name, own), ("EMPTY", "")];
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(asked(&variables).unwrap(), pairs.into());
        let error = asked(&["NOT_SET_ANYWHERE".parse().unwrap()]).unwrap_err();
        assert_eq!(crate::exit::code_of(&error), crate::exit::USAGE);
        assert!(["=x", "", "A B=c"].iter().all(|text| text.parse::<EnvVar>().is_err()));
    }
}
