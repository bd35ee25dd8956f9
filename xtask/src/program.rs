//! The program that the harness proves, as `[workspace.metadata.vmtest]` in Cargo.toml describes it; nothing else in
//! the harness names it.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::exit::Exit;
use crate::paths;

/// `[workspace.metadata.vmtest]`; docs/your-own-program.md explains each key.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Program {
    /// The package; its executable has the same name.
    pub package: String,
    /// Features with which the package is built for a guest.
    #[serde(default)]
    pub features: Vec<String>,
    /// Test targets of the package that run in a guest.
    pub tests: Vec<String>,
    /// What the program prints, as part of a line, once its BPF programs are attached.
    pub ready_line: String,
    /// Kernel options that are needed: configuration fragments, relative to the workspace.
    #[serde(default)]
    pub kconfig: Vec<PathBuf>,
    /// More files for the guest, relative to the workspace.
    #[serde(default)]
    pub files: Vec<PathBuf>,
}

impl Program {
    /// Reads it from the workspace's Cargo.toml.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or the table is missing, lacks a key or has one too many.
    pub fn read() -> Result<Self> {
        let path = paths::workspace().join("Cargo.toml");
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).map_err(|error| Exit::usage(format!("{}: {error:#}", path.display())))
    }

    fn parse(text: &str) -> Result<Self> {
        let manifest: toml::Table = toml::from_str(text)?;
        let table = ["workspace", "metadata", "vmtest"]
            .iter()
            .try_fold(&toml::Value::Table(manifest), |value, key| value.get(key))
            .cloned()
            .context("there is no [workspace.metadata.vmtest]")?;
        table.try_into().context("[workspace.metadata.vmtest]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_describes_its_program() -> Result<()> {
        let program = Program::read()?;
        assert_eq!(program.package, "helloworld");
        assert_eq!(program.tests, ["trace"]);
        Ok(())
    }

    #[test]
    fn a_missing_table_and_a_misspelt_key_are_named() {
        let error = |text| format!("{:#}", Program::parse(text).expect_err("refused"));
        assert!(error("[workspace]").contains("no [workspace.metadata.vmtest]"));
        let misspelt = "[workspace.metadata.vmtest]\npackage = 'x'\ntest = []\nready-line = 'x'";
        assert!(error(misspelt).contains("`test`"), "{}", error(misspelt));
    }
}
