//! `metadata.kernels` in Cargo.toml: what the harness may be told of a project.

use std::collections::BTreeMap;
use std::path::{Component, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::dirs::Dirs;
use crate::error::Error;

/// What the harness may be told of a project; docs/your-own-program.md explains each key. All are optional.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Metadata {
    /// The kernels, when the command line names none.
    pub kernels: Vec<String>,
    /// Arguments of `cargo test`, when the command line has none for it.
    pub cargo_args: Vec<String>,
    /// Features that are on in what is built for guests.
    pub features: Vec<String>,
    /// Whether everything is built as static executables.
    #[serde(rename = "static")]
    pub is_static: bool,
    /// What programs find as their root directory.
    pub root: RootChoice,
    /// The program whose facts are of interest.
    pub program: Option<String>,
    /// What it prints once its BPF programs are attached.
    pub ready_line: Option<String>,
    /// Files that list the kernel options needed, relative to the workspace.
    pub kconfig: Vec<PathBuf>,
    /// Further files for guests that have not the host's, relative to the workspace.
    pub files: Vec<PathBuf>,
    /// Further variables for the tests.
    pub env: BTreeMap<String, String>,
    /// The guest's memory in MiB.
    pub memory_mib: u32,
    /// How many processors it has.
    pub cpus: u32,
    /// Further kernel parameters, such as `lockdown=confidentiality`.
    pub kernel_args: Vec<String>,
    /// The longest one test may take, in seconds.
    pub test_timeout_s: f64,
}

/// `--root`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum RootChoice {
    /// The host's root directory where the kernel can have it, else the minimal one
    #[default]
    Auto,
    /// The host's root directory, read-only, below a layer in memory
    Host,
    /// A busybox, the programs with their libraries, and the package's files
    Minimal,
}

impl Default for Metadata {
    fn default() -> Self {
        Self {
            kernels: Vec::new(),
            cargo_args: Vec::new(),
            features: Vec::new(),
            is_static: false,
            root: RootChoice::Auto,
            program: None,
            ready_line: None,
            kconfig: Vec::new(),
            files: Vec::new(),
            env: BTreeMap::new(),
            memory_mib: 512,
            cpus: 1,
            kernel_args: Vec::new(),
            test_timeout_s: 60.0,
        }
    }
}

/// The longest time limit that can be asked for, in seconds: a day.
pub const LONGEST_S: f64 = 86_400.0;

/// How long all kernel parameters may be, in bytes: the kernel cuts its command line at 2048
/// (COMMAND_LINE_SIZE on x86) without a word, and virtme-ng's own part ends with what starts its init.
const KERNEL_ARGS_LIMIT: usize = 512;
/// What a kernel parameter may be made of, besides letters and digits: on its way to the kernel it passes
/// virtme-ng, a shell and QEMU, each of which gives further characters a meaning of its own.
const KERNEL_ARG_PUNCTUATION: &str = "_.,:=/@+-";

/// The part of a Cargo.toml that is of interest.
#[derive(Deserialize)]
struct Manifest<T> {
    workspace: Option<Section<T>>,
    package: Option<Section<T>>,
}

#[derive(Deserialize)]
struct Section<T> {
    metadata: Option<Tables<T>>,
}

#[derive(Deserialize)]
struct Tables<T> {
    kernels: Option<T>,
}

impl<T> Manifest<T> {
    /// The workspace's, then the package's.
    fn sections(self) -> impl Iterator<Item = T> {
        let sections = [self.workspace, self.package].into_iter().flatten();
        sections.filter_map(|section| section.metadata?.kernels)
    }
}

impl Metadata {
    /// Reads `[workspace.metadata.kernels]` and `[package.metadata.kernels]`, whose keys come before those of the other,
    /// of the project's Cargo.toml and of the one nearest to the current directory; or the file that `$VMTEST_METADATA`
    /// names in their place (the harness's own tests run programs that misbehave).
    pub fn load(dirs: &Dirs) -> Result<Self> {
        if let Some(other) = std::env::var_os("VMTEST_METADATA") {
            return Self::read(&[other.into()]);
        }
        let mut manifests = vec![dirs.project.join("Cargo.toml")];
        let here = dirs.here();
        let nearest = here.ancestors().take_while(|dir| dir.starts_with(&dirs.project));
        manifests.extend(nearest.map(|dir| dir.join("Cargo.toml")).find(|path| path.is_file()));
        manifests.dedup();
        Self::read(&manifests)
    }

    fn read(manifests: &[PathBuf]) -> Result<Self> {
        let mut whole = toml::Table::new();
        for path in manifests.iter().filter(|path| path.is_file()) {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            let wrong = |why: String| Error::usage(format!("{}: metadata.kernels: {why}", path.display()));
            // Each by itself first, so that what is wrong is named with its line.
            let manifest: Manifest<Self> = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
            manifest.sections().try_for_each(|metadata| metadata.check()).map_err(|error| wrong(error.to_string()))?;
            whole.extend(toml::from_str::<Manifest<toml::Table>>(&text)?.sections().flatten());
        }
        whole.try_into().map_err(|error: toml::de::Error| {
            let manifests: Vec<_> = manifests.iter().map(|path| path.display().to_string()).collect();
            Error::usage(format!("metadata.kernels of {} together: {}", manifests.join(" and "), error.message()))
        })
    }

    /// The program to be asked about, and the line that it prints when it is ready.
    pub fn facts(&self) -> Option<(&str, &str)> {
        self.program.as_deref().zip(self.ready_line.as_deref())
    }

    /// What no type can say.
    fn check(&self) -> Result<()> {
        ensure!(self.memory_mib > 0, "memory-mib is 0");
        ensure!((1..=64).contains(&self.cpus), "cpus = {}: not between 1 and 64", self.cpus);
        if let Some(name) = &self.program {
            ensure!(self.ready_line.is_some(), "program = `{name}` needs a ready-line");
        }
        let limit = self.test_timeout_s;
        ensure!(limit > 0.0 && limit <= LONGEST_S, "test-timeout-s = {limit}: not between 0 and {LONGEST_S}");
        for file in &self.files {
            let is_below = file.components().all(|part| matches!(part, Component::Normal(_)));
            ensure!(is_below, "files: `{}` is not a path below the workspace", file.display());
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || KERNEL_ARG_PUNCTUATION.contains(c);
        for arg in &self.kernel_args {
            let what = format!("one word of letters, digits and {KERNEL_ARG_PUNCTUATION}");
            ensure!(arg.chars().all(allowed), "kernel-args: `{arg}` is not {what}");
        }
        let length: usize = self.kernel_args.iter().map(|arg| arg.len() + 1).sum();
        ensure!(length <= KERNEL_ARGS_LIMIT, "kernel-args: more than {KERNEL_ARGS_LIMIT} bytes together");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "[workspace.metadata.kernels]\nkernels = ['6.12']\n";

    fn parse(text: &str) -> Result<Metadata> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("Cargo.toml");
        std::fs::write(&path, text).unwrap();
        Metadata::read(&[path])
    }

    #[test]
    fn this_workspace_has_the_table() {
        let dirs = Dirs::find().unwrap();
        let metadata = Metadata::load(&dirs).unwrap();
        assert!(metadata.facts().is_some());
        assert!(!crate::kernels::needs(&dirs, &metadata.kconfig).unwrap().is_empty());
    }

    #[test]
    fn package_keys_override_workspace_misspelt_key_names_line() {
        assert_eq!(parse("[package]\nname = 'x'\n").unwrap(), Metadata::default());
        let text = format!("{BASE}cpus = 2\n[package.metadata.kernels]\ncpus = 3\n");
        let metadata = parse(&text).unwrap();
        assert_eq!((metadata.cpus, metadata.kernels), (3, vec!["6.12".to_owned()]));
        let error = parse(&format!("{BASE}redy-line = 'x'\n")).unwrap_err().to_string();
        assert!(error.contains("redy-line") && error.contains("line 3"), "{error}");
    }

    #[test]
    fn values_that_cannot_work_are_refused_by_name() {
        for (line, words) in [
            ("memory-mib = 0", "memory-mib is 0"),
            ("cpus = 0", "cpus = 0"),
            ("program = 'p'", "needs a ready-line"),
            ("test-timeout-s = -1.0", "test-timeout-s = -1"),
            ("test-timeout-s = nan", "test-timeout-s = NaN"),
            ("test-timeout-s = 1e300", "test-timeout-s = 1000"),
            ("files = ['/etc/passwd']", "`/etc/passwd` is not a path below the workspace"),
            ("files = ['a/../../b']", "`a/../../b` is not"),
            ("kernel-args = ['a=$(reboot)']", "`a=$(reboot)` is not one word"),
            ("kernel-args = ['quiet splash']", "`quiet splash` is not one word"),
            (&format!("kernel-args = ['a={}']", "x".repeat(KERNEL_ARGS_LIMIT)), "more than 512 bytes"),
        ] {
            let error = parse(&format!("{BASE}{line}\n")).unwrap_err().to_string();
            assert!(error.contains(words), "{line}: {error}");
        }
    }
}
