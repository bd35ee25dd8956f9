//! The mutants, as vm/mutants.toml describes them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::dirs::Dirs;
use crate::exit::Exit;

/// One change to the program, and who has to notice.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Mutant {
    /// What is wrong with it.
    pub name: String,
    /// The file that is changed, relative to the workspace.
    pub file: PathBuf,
    /// A text that stands exactly once in the file.
    pub find: String,
    /// What takes its place.
    pub replace: String,
    /// The tests that must fail.
    pub caught_by: Vec<String>,
}

#[derive(Deserialize)]
struct File {
    mutant: Vec<Mutant>,
}

/// Reads vm/mutants.toml.
///
/// # Errors
/// When it cannot be read, or is not as it must be.
pub fn load(dirs: &Dirs) -> Result<Vec<Mutant>> {
    let path = dirs.project.join("vm/mutants.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let file: File = toml::from_str(&text).map_err(|error| Exit::usage(format!("{}: {error}", path.display())))?;
    Ok(file.mutant)
}

impl Mutant {
    /// Changes the file in a copy of the workspace.
    ///
    /// # Errors
    /// When the text is not there, or not only once: the program has changed, and the mutant must.
    pub fn apply(&self, workspace: &Path) -> Result<()> {
        let path = workspace.join(&self.file);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", self.file.display()))?;
        let mutated = self.mutate(&text)?;
        fs::write(&path, mutated).with_context(|| format!("cannot write {}", path.display()))
    }

    fn mutate(&self, text: &str) -> Result<String> {
        match text.matches(&self.find).count() {
            1 => Ok(text.replacen(&self.find, &self.replace, 1)),
            count => bail!(
                "what vm/mutants.toml wants to replace stands {count} times in {}, and must stand once:\n{}",
                self.file.display(),
                self.find
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_mutant_can_be_made_of_the_program_as_it_is() {
        let dirs = Dirs::find().unwrap();
        for mutant in load(&dirs).unwrap() {
            let text = fs::read_to_string(dirs.project.join(&mutant.file)).unwrap();
            assert_ne!(mutant.mutate(&text).unwrap(), text, "{}", mutant.name);
            assert!(!mutant.caught_by.is_empty(), "{}", mutant.name);
        }
    }

    #[test]
    fn a_text_that_stands_twice_is_refused() {
        let mutant =
            Mutant { name: "m".into(), file: "f".into(), find: "a".into(), replace: "b".into(), caught_by: vec![] };
        assert_eq!(mutant.mutate("xax").unwrap(), "xbx");
        assert!(mutant.mutate("aa").unwrap_err().to_string().contains("stands 2 times"));
    }
}
