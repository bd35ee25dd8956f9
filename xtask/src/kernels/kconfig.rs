//! Kernel configurations: reading them, and checking that what is needed is there.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

/// Option (`CONFIG_BPF`) to value (`y`, `m`, a number, a quoted string); an option that is not set is not there.
pub type Config = BTreeMap<String, String>;

/// Reads a configuration file.
pub fn read(path: &Path) -> Result<Config> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the kernel's configuration {}", path.display()))?;
    Ok(parse(&text))
}

/// Reads a configuration as the kernel's build writes it.
pub fn parse(text: &str) -> Config {
    let option = |line: &str| {
        let (name, value) = line.split_once('=')?;
        name.starts_with("CONFIG_").then(|| (name.to_owned(), value.to_owned()))
    };
    text.lines().filter_map(option).collect()
}
