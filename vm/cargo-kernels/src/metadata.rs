//! `[workspace.metadata.vmtest]` in Cargo.toml: all that the harness knows of the program.

use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::dirs::Dirs;
use crate::exit::Exit;
use crate::flags::LONGEST_S;

/// The program under test, as its author describes it; docs/your-own-program.md explains each key.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Metadata {
    /// The package that holds the program and its tests.
    pub package: String,
    /// Features to build it with for the guest.
    #[serde(default)]
    pub features: Vec<String>,
    /// The test targets that are run in the guest.
    pub tests: Vec<String>,
    /// What the program prints once its BPF programs are attached.
    pub ready_line: String,
    /// Files that list the kernel options needed, relative to the workspace.
    #[serde(default)]
    pub kconfig: Vec<PathBuf>,
    /// Further files for the guest, relative to the workspace; they keep their path below the payload.
    #[serde(default)]
    pub files: Vec<PathBuf>,
    /// The guest's memory in MiB.
    #[serde(default = "default_memory")]
    pub memory_mib: u32,
    /// Further kernel parameters, such as `lockdown=confidentiality`.
    #[serde(default)]
    pub kernel_args: Vec<String>,
    /// The longest one test may take, in seconds.
    #[serde(default = "default_test_timeout")]
    pub test_timeout_s: f64,
}

fn default_memory() -> u32 {
    512
}

fn default_test_timeout() -> f64 {
    60.0
}

/// How long all kernel parameters may be, in bytes: the kernel cuts its command line at 2048
/// (COMMAND_LINE_SIZE on x86) without a word, and virtme-ng's own part ends with what starts its init.
const KERNEL_ARGS_LIMIT: usize = 512;
/// What a kernel parameter may be made of, besides letters and digits: on its way to the kernel it passes
/// virtme-ng, a shell and QEMU, each of which gives further characters a meaning of its own.
const KERNEL_ARG_PUNCTUATION: &str = "_.,:=/@+-";

#[derive(Deserialize)]
struct Manifest {
    workspace: Workspace,
}

#[derive(Deserialize)]
struct Workspace {
    metadata: Tables,
}

#[derive(Deserialize)]
struct Tables {
    vmtest: Metadata,
}

impl Metadata {
    /// Reads the workspace's Cargo.toml, or the file that `$VMTEST_METADATA` names in its place (the
    /// harness's own tests run programs that misbehave).
    ///
    /// # Errors
    /// When the table is missing or holds a key that is unknown or of the wrong type.
    pub fn load(dirs: &Dirs) -> Result<Self> {
        let other = std::env::var_os("VMTEST_METADATA").map(PathBuf::from);
        let path = other.unwrap_or_else(|| dirs.project.join("Cargo.toml"));
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text, &path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self> {
        let manifest: Manifest = toml::from_str(text).map_err(|error| {
            Exit::usage(format!("{}: [workspace.metadata.vmtest]: {error}", path.display()))
        })?;
        let metadata = manifest.workspace.metadata.vmtest;
        metadata.check().map_err(|problem| {
            Exit::usage(format!("{}: [workspace.metadata.vmtest]: {problem}", path.display()))
        })?;
        Ok(metadata)
    }

    /// What no type can say.
    fn check(&self) -> Result<(), String> {
        if self.memory_mib == 0 {
            return Err("memory-mib is 0".into());
        }
        if !(self.test_timeout_s > 0.0 && self.test_timeout_s <= LONGEST_S) {
            let given = self.test_timeout_s;
            return Err(format!("test-timeout-s = {given}: not between 0 and {LONGEST_S}"));
        }
        let inside = |component| matches!(component, Component::Normal(_));
        if let Some(file) = self.files.iter().find(|file| !file.components().all(inside)) {
            let file = file.display();
            return Err(format!("files: `{file}` is not a path below the workspace"));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || KERNEL_ARG_PUNCTUATION.contains(c);
        if let Some(arg) = self.kernel_args.iter().find(|arg| !arg.chars().all(allowed)) {
            return Err(format!(
                "kernel-args: `{arg}` is not one word of letters, digits and {KERNEL_ARG_PUNCTUATION}"
            ));
        }
        if self.kernel_args.iter().map(|arg| arg.len() + 1).sum::<usize>() > KERNEL_ARGS_LIMIT {
            return Err(format!("kernel-args: more than {KERNEL_ARGS_LIMIT} bytes together"));
        }
        Ok(())
    }

    /// The kconfig fragments' absolute paths.
    pub fn kconfig_paths(&self, dirs: &Dirs) -> Vec<PathBuf> {
        self.kconfig.iter().map(|path| dirs.project.join(path)).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const BASE: &str =
        "[workspace.metadata.vmtest]\npackage = 'p'\ntests = ['t']\nready-line = 'r'\n";

    #[test]
    fn this_workspace_has_the_table() {
        let dirs = Dirs::find().unwrap();
        let metadata = Metadata::load(&dirs).unwrap();
        assert!(!metadata.tests.is_empty());
        for path in metadata.kconfig_paths(&dirs) {
            assert!(path.is_file(), "{} does not exist", path.display());
        }
    }

    #[test]
    fn optional_keys_have_defaults() {
        let metadata = Metadata::parse(BASE, Path::new("Cargo.toml")).unwrap();
        assert_eq!(metadata.memory_mib, 512);
        assert!(metadata.features.is_empty());
    }

    #[test]
    fn a_misspelt_key_is_named_with_its_line() {
        let text = format!("{BASE}redy-line = 'x'\n");
        let error = Metadata::parse(&text, Path::new("Cargo.toml")).unwrap_err().to_string();
        assert!(error.contains("redy-line") && error.contains("line 5"), "{error}");
    }

    #[test]
    fn values_that_cannot_work_are_refused_by_name() {
        for (line, words) in [
            ("memory-mib = 0", "memory-mib is 0"),
            ("test-timeout-s = -1.0", "test-timeout-s = -1"),
            ("test-timeout-s = nan", "test-timeout-s = NaN"),
            ("test-timeout-s = 1e300", "test-timeout-s = 1000"),
            ("files = ['/etc/passwd']", "`/etc/passwd` is not a path below the workspace"),
            ("files = ['a/../../b']", "`a/../../b` is not"),
            ("kernel-args = ['a=$(reboot)']", "`a=$(reboot)` is not one word"),
            ("kernel-args = ['quiet splash']", "`quiet splash` is not one word"),
        ] {
            let text = format!("{BASE}{line}\n");
            let error = Metadata::parse(&text, Path::new("Cargo.toml")).unwrap_err().to_string();
            assert!(error.contains(words), "{line}: {error}");
        }
        let long = format!("{BASE}kernel-args = ['a={}']\n", "x".repeat(KERNEL_ARGS_LIMIT));
        let error = Metadata::parse(&long, Path::new("Cargo.toml")).unwrap_err().to_string();
        assert!(error.contains("more than 512 bytes"), "{error}");
    }
}
