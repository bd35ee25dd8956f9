//! Kernel modules: which files must be loaded, and in which order, so that a guest has what it needs.
//!
//! Neither depmod nor modprobe is asked: what a module depends on is written in the module itself.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use object::{Object, ObjectSection};

use super::compression::Compression;
use super::{Kernel, cache, digest};

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

/// A module of the cache is not what was unpacked.
#[derive(Debug, thiserror::Error)]
#[error("it is not what was unpacked")]
pub struct Damaged;

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
    let index = Index::read(dir).with_context(|| format!("kernel {}: cannot read {}", kernel.name, dir.display()))?;
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

/// A module's file, relative to the module directory, and its SHA-256 if it is one of the cache's.
struct ModuleFile {
    path: PathBuf,
    sha256: Option<String>,
}

/// What a module directory holds, by name.
struct Index<'a> {
    dir: &'a Path,
    files: HashMap<String, ModuleFile>,
    /// The names in `modules.builtin`, if there is such a list.
    built_in: Option<HashSet<String>>,
    /// Names and aliases that `modules.builtin.modinfo` and `modules.alias` know, read when first needed.
    aliases: OnceCell<HashMap<String, Vec<Alias>>>,
}

/// What an alias stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Alias {
    BuiltIn,
    Module(String),
}

impl<'a> Index<'a> {
    fn read(dir: &'a Path) -> Result<Self> {
        let mut files = HashMap::new();
        match cache::listing(dir)? {
            Some(listing) => {
                for (path, hash) in listing {
                    insert(&mut files, path, Some(hash));
                }
            }
            None => walk(dir, Path::new(""), &mut files)?,
        }
        let list = std::fs::read_to_string(dir.join("modules.builtin")).ok();
        let built_in = list.map(|list| list.lines().filter_map(name_of).collect());
        Ok(Self { dir, files, built_in, aliases: OnceCell::new() })
    }

    fn is_built_in(&self, name: &str) -> bool {
        self.built_in.as_ref().is_some_and(|names| names.contains(name))
    }

    /// What else is known by a name that is neither a file's nor in `modules.builtin`.
    fn aliased(&self, alias: &str) -> &[Alias] {
        let aliases = self.aliases.get_or_init(|| read_aliases(self.dir));
        aliases.get(alias).map_or(&[], Vec::as_slice)
    }
}

/// Finds every module file below `dir`; links (`build`, `source`) are not followed.
fn walk(root: &Path, below: &Path, files: &mut HashMap<String, ModuleFile>) -> Result<()> {
    for entry in std::fs::read_dir(root.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => walk(root, &path, files)?,
            false => insert(files, path, None),
        }
    }
    Ok(())
}

fn insert(files: &mut HashMap<String, ModuleFile>, path: PathBuf, sha256: Option<String>) {
    if let Some(name) = path.to_str().and_then(name_of) {
        files.insert(name, ModuleFile { path, sha256 });
    }
}

/// `kernel/drivers/block/virtio_blk.ko.xz` is `virtio_blk`.
fn name_of(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let (name, suffix) = file.split_once(".ko")?;
    Compression::of_suffix(suffix).map(|_| canonical(name))
}

/// Aliases of modules (from depmod's `modules.alias`, if depmod ran) and names and aliases of what is built in.
fn read_aliases(dir: &Path) -> HashMap<String, Vec<Alias>> {
    let mut aliases: HashMap<String, Vec<Alias>> = HashMap::new();
    let built_in = std::fs::read(dir.join("modules.builtin.modinfo")).unwrap_or_default();
    for entry in String::from_utf8_lossy(&built_in).split('\0') {
        let Some((name, field)) = entry.split_once('.') else { continue };
        let alias = field.strip_prefix("alias=");
        for known in [Some(name), alias].into_iter().flatten() {
            aliases.entry(canonical(known)).or_insert_with(|| vec![Alias::BuiltIn]);
        }
    }
    let listed = std::fs::read_to_string(dir.join("modules.alias")).unwrap_or_default();
    for line in listed.lines() {
        let Some(alias) = line.strip_prefix("alias ") else { continue };
        let Some((pattern, name)) = alias.rsplit_once(' ') else { continue };
        aliases.entry(canonical(pattern)).or_default().push(Alias::Module(canonical(name)));
    }
    aliases
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
        if let Some(file) = self.index.files.get(&name) {
            let problem = || {
                let path = self.index.dir.join(&file.path);
                format!("kernel {}: cannot use {}", self.kernel.name, path.display())
            };
            let bytes = read(self.index.dir, file).with_context(problem)?;
            let info = ModInfo::of(&bytes).with_context(problem)?;
            self.add_dependencies(&info)?;
            self.modules.push(Module { name, path: file.path.clone(), bytes });
            return Ok(());
        }
        let aliased = self.index.aliased(&name);
        if aliased.is_empty() && need == Need::Must && self.index.built_in.is_some() {
            let (kernel, dir) = (&self.kernel.name, self.index.dir.display());
            bail!("kernel {kernel}: module {name} is neither built in nor in {dir}");
        }
        for alias in aliased {
            if let Alias::Module(name) = alias {
                self.add(name, need)?;
            }
        }
        Ok(())
    }

    fn add_dependencies(&mut self, info: &ModInfo<'_>) -> Result<()> {
        for dependency in info.values("depends").flat_map(|list| list.split(',')) {
            if !dependency.is_empty() {
                self.add(dependency, Need::Must)?;
            }
        }
        // A hint: `pre: a b post: c` names what should, if it is there, come first.
        for hint in info.values("softdep") {
            let before = hint.split("post:").next().unwrap_or_default().trim();
            for dependency in before.trim_start_matches("pre:").split_whitespace() {
                self.add(dependency, Need::May)?;
            }
        }
        Ok(())
    }
}

/// Reads and decompresses a module; one of the cache's own must be what was unpacked.
fn read(dir: &Path, file: &ModuleFile) -> Result<Vec<u8>> {
    let raw = std::fs::read(dir.join(&file.path))?;
    if let Some(sha256) = &file.sha256 {
        ensure!(digest::sha256(&raw).as_str() == sha256, Damaged);
    }
    let Some(compression) = Compression::of(&raw) else { return Ok(raw) };
    let mut bytes = Vec::new();
    compression.decoder(raw.as_slice())?.read_to_end(&mut bytes).context("it is damaged")?;
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
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::{Expected, fake};
    use super::*;

    /// A module directory with these files.
    fn kernel(files: &[(&str, Vec<u8>)]) -> (tempfile::TempDir, Kernel) {
        let dir = tempfile::tempdir().unwrap();
        for (path, bytes) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        let kernel = Kernel {
            arch: crate::Arch::host(),
            name: "test".into(),
            image: "bzImage".into(),
            sha256: None,
            modules: Some(dir.path().to_owned()),
            expected: Expected::Any,
            release: None,
            config: None,
            source: "path".into(),
        };
        (dir, kernel)
    }

    /// Something like a distribution's: dashes and underscores, three compressions, things built in.
    fn distribution() -> (tempfile::TempDir, Kernel) {
        kernel(&[
            ("kernel/fs/9p/9p.ko.xz", fake::xz(&fake::module(&["depends=9pnet,netfs"]))),
            ("kernel/net/9p/9pnet.ko.zst", fake::zstd(&fake::module(&["depends="]))),
            ("kernel/fs/netfs.ko.gz", fake::gzip(&fake::module(&["name=netfs", "depends=9pnet"]))),
            ("kernel/hw/rng-core.ko", fake::module(&["depends=", "softdep=pre: netfs gone post: 9p"])),
            ("kernel/hw/virtio-rng.ko", fake::module(&["depends=rng_core,virtio"])),
            ("kernel/not-a-module.kot", b"text".to_vec()),
            ("modules.builtin", b"kernel/drivers/virtio/virtio.ko\nkernel/drivers/virtio-pci.ko\n".to_vec()),
            ("modules.builtin.modinfo", b"ext4.alias=fs-ext4\0ext4.license=GPL\0".to_vec()),
            ("modules.alias", b"# Aliases\nalias fs-9p 9p\nalias virtio:d4v* virtio-rng\n".to_vec()),
        ])
    }

    fn names(modules: Result<Vec<Module>>) -> Vec<String> {
        modules.unwrap().into_iter().map(|module| module.name).collect()
    }

    #[test]
    fn dependencies_come_first_and_once() {
        let (_dir, kernel) = distribution();
        let modules = resolve(&kernel, &["9p", "9pnet"]).unwrap();
        let paths: Vec<_> = modules.iter().map(|module| module.path.to_str().unwrap()).collect();
        assert_eq!(paths, ["kernel/net/9p/9pnet.ko.zst", "kernel/fs/netfs.ko.gz", "kernel/fs/9p/9p.ko.xz"]);
        assert!(modules.iter().all(|module| module.bytes.starts_with(b"\x7fELF")));
    }

    #[test]
    fn dashes_and_underscores_are_the_same() {
        let (_dir, kernel) = distribution();
        let expected = ["9pnet", "netfs", "rng_core", "virtio_rng"];
        for name in ["virtio-rng", "virtio_rng"] {
            assert_eq!(names(resolve(&kernel, &[name])), expected);
        }
    }

    #[test]
    fn what_is_built_in_needs_no_module() {
        let (_dir, kernel) = distribution();
        assert!(names(resolve(&kernel, &["virtio", "virtio_pci", "ext4", "fs-ext4"])).is_empty());
    }

    #[test]
    fn aliases_are_followed() {
        let (_dir, kernel) = distribution();
        assert_eq!(names(resolve(&kernel, &["fs-9p"])), ["9pnet", "netfs", "9p"]);
    }

    #[test]
    fn what_is_missing_is_an_error_unless_it_is_optional() {
        let (_dir, kernel) = distribution();
        let error = resolve(&kernel, &["virtio_blk"]).unwrap_err().to_string();
        assert!(error.contains("module virtio_blk is neither built in nor in "), "{error}");
        assert_eq!(names(resolve_with(&kernel, &["9pnet"], &["virtio_blk"])), ["9pnet"]);
    }

    #[test]
    fn without_a_list_of_what_is_built_in_nothing_is_known_to_be_missing() {
        let (_dir, kernel) = kernel(&[("a.ko", fake::module(&["depends=b"]))]);
        assert_eq!(names(resolve(&kernel, &["a", "virtio_blk"])), ["a"]);
        let bare = Kernel { modules: None, ..kernel };
        assert!(names(resolve(&bare, &["virtio_blk"])).is_empty());
    }

    #[test]
    fn modules_that_need_each_other_do_not_loop() {
        let (_dir, kernel) = kernel(&[("a.ko", fake::module(&["depends=b"])), ("b.ko", fake::module(&["depends=a"]))]);
        assert_eq!(names(resolve(&kernel, &["a"])), ["b", "a"]);
    }

    #[test]
    fn damage_is_an_error_that_names_the_file() {
        let whole = fake::xz(&fake::module(&["depends="]));
        for bytes in [b"text".to_vec(), whole[..whole.len() / 2].to_vec(), Vec::new()] {
            let (_dir, kernel) = kernel(&[("a.ko.xz", bytes)]);
            let error = format!("{:#}", resolve(&kernel, &["a"]).unwrap_err());
            assert!(error.contains("kernel test: cannot use ") && error.contains("a.ko.xz"), "{error}");
        }
    }
}
