//! Kernel modules: which files must be loaded, and in which order, so that a guest has what it needs.
//!
//! Neither depmod nor modprobe is asked: what a module depends on is written in the module itself.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection};

use super::Kernel;
use super::archive::Compression;
use super::cache;

/// A module, ready for init_module(2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// As lsmod(8) shows it, such as `virtio_blk`.
    pub name: String,
    /// Where it lies below `lib/modules/<release>`.
    pub path: PathBuf,
    /// The ELF file, decompressed, with its signature if it has one.
    pub bytes: Vec<u8>,
}

/// The modules for `wanted` and all that they depend on, dependencies first; nothing for what is built in.
///
/// # Errors
///
/// When one is neither built in nor there, or a file is damaged.
pub fn resolve(kernel: &Kernel, wanted: &[&str]) -> Result<Vec<Module>> {
    resolve_with(kernel, wanted, &[])
}

/// As [`resolve`], and those of `optional` that the kernel has.
///
/// A name is a module's (`9p`, `virtio-blk` and `virtio_blk` are the same), or an alias that is listed in
/// `modules.alias` or `modules.builtin.modinfo`. Of a kernel without a module directory, or without a list of
/// what is built in, nothing missing can be known: the result has what is there, and the boot decides.
pub fn resolve_with(kernel: &Kernel, needed: &[&str], optional: &[&str]) -> Result<Vec<Module>> {
    let Some(dir) = &kernel.modules else { return Ok(Vec::new()) };
    let index = Index::read(dir)
        .with_context(|| format!("kernel {}: cannot read {}", kernel.name, dir.display()))?;
    let mut plan = Plan { kernel, index: &index, seen: HashSet::new(), modules: Vec::new() };
    for name in needed {
        plan.add(name, Need::Must)?;
    }
    for name in optional {
        plan.add(name, Need::May)?;
    }
    Ok(plan.modules)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Must,
    May,
}

/// `-` and `_` are the same in a module's name.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// What a module directory holds, by name.
struct Index<'a> {
    dir: &'a Path,
    files: HashMap<String, PathBuf>,
    built_in: Option<HashSet<String>>,
    aliases: Vec<(String, String)>,
}

impl<'a> Index<'a> {
    fn read(dir: &'a Path) -> Result<Self> {
        let mut files = HashMap::new();
        collect(dir, &mut files)?;
        let mut aliases = read_aliases(dir);
        let built_in = match std::fs::read_to_string(dir.join("modules.builtin")) {
            Ok(list) => {
                let mut names: HashSet<_> = list.lines().filter_map(name_of).collect();
                names.extend(built_in_aliases(dir, &mut aliases));
                Some(names)
            }
            Err(_) => None,
        };
        Ok(Self { dir, files, built_in, aliases })
    }

    fn is_built_in(&self, name: &str) -> bool {
        self.built_in.as_ref().is_some_and(|names| names.contains(name))
    }

    /// The modules' names that an alias stands for.
    fn aliased(&self, alias: &str) -> Vec<&str> {
        let alias = canonical(alias);
        let stands_for = |(pattern, _): &&(String, String)| canonical(pattern) == alias;
        self.aliases.iter().filter(stands_for).map(|(_, name)| name.as_str()).collect()
    }
}

/// Finds every module file below `dir`; links (`build`, `source`) are not followed.
fn collect(dir: &Path, files: &mut HashMap<String, PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            collect(&entry.path(), files)?;
        } else if let Some(name) = entry.file_name().to_str().and_then(name_of) {
            files.insert(name, entry.path());
        }
    }
    Ok(())
}

/// `kernel/drivers/block/virtio_blk.ko.xz` is `virtio_blk`.
fn name_of(path: &str) -> Option<String> {
    let file = Path::new(path).file_name()?.to_str()?;
    let (name, suffix) = file.split_once(".ko")?;
    Compression::of_suffix(suffix).map(|_| canonical(name))
}

/// `alias <pattern> <module>` of depmod's `modules.alias`, for module directories that went through depmod.
fn read_aliases(dir: &Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(dir.join("modules.alias")).unwrap_or_default();
    let alias = |line: &str| {
        let (pattern, name) = line.strip_prefix("alias ")?.rsplit_once(' ')?;
        Some((pattern.to_owned(), canonical(name)))
    };
    text.lines().filter_map(alias).collect()
}

/// The names in `modules.builtin.modinfo`, which lists some that `modules.builtin` does not; adds their aliases.
fn built_in_aliases(dir: &Path, aliases: &mut Vec<(String, String)>) -> HashSet<String> {
    let bytes = std::fs::read(dir.join("modules.builtin.modinfo")).unwrap_or_default();
    let mut names = HashSet::new();
    for entry in String::from_utf8_lossy(&bytes).split('\0') {
        let Some((name, rest)) = entry.split_once('.') else { continue };
        let name = canonical(name);
        if let Some(alias) = rest.strip_prefix("alias=") {
            aliases.push((alias.to_owned(), name.clone()));
        }
        names.insert(name);
    }
    names
}

/// The list under way: depth first, so that dependencies come before what needs them.
struct Plan<'a> {
    kernel: &'a Kernel,
    index: &'a Index<'a>,
    seen: HashSet<String>,
    modules: Vec<Module>,
}

impl Plan<'_> {
    fn add(&mut self, name: &str, need: Need) -> Result<()> {
        let name = canonical(name);
        if self.index.is_built_in(&name) || !self.seen.insert(name.clone()) {
            return Ok(());
        }
        if let Some(path) = self.index.files.get(&name) {
            return self.load(name, path);
        }
        let aliased = self.index.aliased(&name);
        if aliased.is_empty() && need == Need::Must && self.index.built_in.is_some() {
            bail!(
                "kernel {}: module {name} is neither built in nor in {}",
                self.kernel.name,
                self.index.dir.display()
            );
        }
        aliased.into_iter().try_for_each(|name| self.add(name, need))
    }

    fn load(&mut self, name: String, path: &Path) -> Result<()> {
        let bytes = read(path).with_context(|| {
            format!("kernel {}: cannot use {}", self.kernel.name, path.display())
        })?;
        let info = ModInfo::of(&bytes)
            .with_context(|| format!("kernel {}: {}", self.kernel.name, path.display()))?;
        for dependency in info.list("depends", ',') {
            self.add(dependency, Need::Must)?;
        }
        // "softdep" is a hint; `pre:` names what should come first, up to `post:`.
        for hint in info.values("softdep") {
            let before = hint.split("post:").next().unwrap_or_default();
            for dependency in before.trim().trim_start_matches("pre:").split_whitespace() {
                self.add(dependency, Need::May)?;
            }
        }
        let path = path.strip_prefix(self.index.dir).unwrap_or(path).to_owned();
        self.modules.push(Module { name, path, bytes });
        Ok(())
    }
}

/// Reads and decompresses a module; one of the cache's own must be what was unpacked.
fn read(path: &Path) -> Result<Vec<u8>> {
    let raw = std::fs::read(path)?;
    cache::check_unpacked(path, &raw)?;
    let suffix = match path.extension().and_then(OsStr::to_str) {
        Some("ko") | None => String::new(),
        Some(extension) => format!(".{extension}"),
    };
    let compression = Compression::of_suffix(&suffix).context("unknown compression")?;
    let mut bytes = Vec::new();
    compression.decoder(raw.as_slice())?.read_to_end(&mut bytes).context("damaged")?;
    Ok(bytes)
}

/// A module's `.modinfo` section: `key=value` strings, each ended by a NUL (include/linux/moduleparam.h).
struct ModInfo<'a>(Vec<(&'a str, &'a str)>);

impl<'a> ModInfo<'a> {
    fn of(elf: &'a [u8]) -> Result<Self> {
        let file = object::File::parse(elf).context("it is no ELF file")?;
        let section = file.section_by_name(".modinfo").context("it has no .modinfo section")?;
        let data = section.data().context("its .modinfo section is damaged")?;
        let strings = data.split(|byte| *byte == 0).filter_map(|s| std::str::from_utf8(s).ok());
        Ok(Self(strings.filter_map(|string| string.split_once('=')).collect()))
    }

    fn values(&self, key: &str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(name, _)| *name == key).map(|(_, value)| *value)
    }

    fn list(&self, key: &str, separator: char) -> impl Iterator<Item = &'a str> {
        self.values(key).flat_map(move |value| value.split(separator)).filter(|s| !s.is_empty())
    }
}
