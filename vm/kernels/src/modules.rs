//! Kernel modules: which files must be loaded, and in which order, so that a guest has what it needs.
//!
//! Neither depmod nor modprobe is asked: what a module depends on is written in the module itself.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use object::{Object, ObjectSection};

use super::compression::decompressed;
use super::{Kernel, cache, digest, tree};

/// A module, ready for init_module(2): its name as lsmod(8) shows it, such as `virtio_blk`, and the ELF file, decompressed,
/// with its signature if it has one.
pub type Module = (String, Vec<u8>);

/// A module of the cache is not what was unpacked.
#[derive(Debug, thiserror::Error)]
#[error("it is not what was unpacked")]
pub struct Damaged;

/// The modules for `wanted` and all that they depend on, dependencies first; nothing for what is built in. `9p`, `virtio-blk`
/// and `virtio_blk` are names. What is neither built in nor there is an error, as is a damaged file.
///
/// Of a kernel without a module directory, or without a list of what is built in, nothing missing can be known: the
/// result has what is there, and the boot decides.
pub fn resolve(kernel: &Kernel, wanted: &[&str]) -> Result<Vec<Module>> {
    planned(kernel, wanted, |_, _| true)
}

/// As [`resolve`], but only those of `wanted` that the kernel has as files.
pub fn resolve_present(kernel: &Kernel, wanted: &[&str]) -> Result<Vec<Module>> {
    planned(kernel, wanted, |plan, name| plan.files.contains_key(&canonical(name)))
}

fn planned(kernel: &Kernel, wanted: &[&str], take: impl Fn(&Plan<'_>, &str) -> bool) -> Result<Vec<Module>> {
    let Some(dir) = &kernel.modules else { return Ok(Vec::new()) };
    let listed = files(dir).with_context(|| format!("kernel {}: cannot read {}", kernel.name, dir.display()))?;
    let named = |(path, sha256): (PathBuf, _)| Some((name_of(path.file_name()?.to_str()?)?, (path, sha256)));
    let built_in = std::fs::read_to_string(dir.join("modules.builtin")).ok();
    let mut plan = Plan {
        kernel: &kernel.name,
        dir,
        files: listed.into_iter().filter_map(named).collect(),
        built_in: built_in.map(|list| list.lines().filter_map(name_of).collect()),
        seen: HashSet::new(),
        modules: Vec::new(),
    };
    for name in wanted {
        if take(&plan, name) {
            plan.add(name)?;
        }
    }
    Ok(plan.modules)
}

/// `-` and `_` are the same in a module's name.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// `kernel/drivers/block/virtio_blk.ko.xz` is `virtio_blk`.
fn name_of(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let (name, suffix) = file.split_once(".ko")?;
    ["", ".gz", ".xz", ".lzma", ".zst"].contains(&suffix).then(|| canonical(name))
}

/// A file, and its SHA-256 if it is one of the cache's.
type Listed = (PathBuf, Option<String>);

/// The files below `dir`; links (`build`, `source`) are not followed.
fn files(dir: &Path) -> Result<Vec<Listed>> {
    if let Some(listed) = cache::listing(dir)? {
        return Ok(listed.into_iter().map(|(path, hash)| (dir.join(path), Some(hash))).collect());
    }
    Ok(tree::below(dir, |kind| kind.is_file())?.into_iter().map(|path| (path, None)).collect())
}

/// The list under way: depth first, so that dependencies come before what needs them.
struct Plan<'a> {
    kernel: &'a str,
    dir: &'a Path,
    /// By name.
    files: HashMap<String, Listed>,
    /// The names in `modules.builtin`, if there is such a list.
    built_in: Option<HashSet<String>>,
    seen: HashSet<String>,
    modules: Vec<Module>,
}

impl Plan<'_> {
    fn add(&mut self, name: &str) -> Result<()> {
        let name = canonical(name);
        if !self.seen.insert(name.clone()) {
            return Ok(());
        }
        let (kernel, dir) = (self.kernel, self.dir);
        let Some((file, sha256)) = self.files.get(&name).cloned() else {
            let known = self.built_in.as_ref().is_none_or(|names| names.contains(&name));
            ensure!(known, "kernel {kernel}: module {name} is neither built in nor in {}", dir.display());
            return Ok(());
        };
        let context = || format!("kernel {kernel}: cannot use {}", file.display());
        let bytes = read(&file, sha256.as_deref()).with_context(context)?;
        for dependency in dependencies(&bytes).with_context(context)? {
            self.add(dependency)?;
        }
        self.modules.push((name, bytes));
        Ok(())
    }
}

/// Reads and decompresses a module; one of the cache's own must be what was unpacked.
fn read(file: &Path, sha256: Option<&str>) -> Result<Vec<u8>> {
    let raw = fs_err::read(file)?;
    ensure!(sha256.is_none_or(|sha256| sha256 == digest::sha256(&raw).as_str()), Damaged);
    let Some(mut reader) = decompressed(raw.as_slice(), false)? else { return Ok(raw) };
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).context("it is damaged")?;
    Ok(bytes)
}

/// What a module says that it depends on: `depends=a,b` in its section `.modinfo`, which has strings that are ended by a
/// NUL each (include/linux/moduleparam.h).
fn dependencies(elf: &[u8]) -> Result<Vec<&str>> {
    let file = object::File::parse(elf).context("it is no ELF file")?;
    let section = file.section_by_name(".modinfo").context("it has no .modinfo section")?;
    let data = section.data().context("its .modinfo section is damaged")?;
    let strings = data.split(|byte| *byte == 0).filter_map(|string| std::str::from_utf8(string).ok());
    let lists = strings.filter_map(|string| string.strip_prefix("depends="));
    Ok(lists.flat_map(|list| list.split(',')).filter(|name| !name.is_empty()).collect())
}

#[cfg(test)]
mod tests {
    use super::super::{fake, whole_file};
    use super::*;

    /// A module directory with these files.
    fn kernel(files: &[(&str, Vec<u8>)]) -> (tempfile::TempDir, Kernel) {
        let dir = tempfile::tempdir().unwrap();
        for (path, bytes) in files {
            whole_file::write(&dir.path().join(path), bytes).unwrap();
        }
        let kernel = Kernel { modules: Some(dir.path().to_owned()), ..fake::kernel() };
        (dir, kernel)
    }

    /// Something like a distribution's: dashes and underscores, three compressions, things built in.
    fn distribution() -> (tempfile::TempDir, Kernel) {
        kernel(&[
            ("kernel/fs/9p/9p.ko.xz", fake::xz(&fake::module(&["depends=9pnet,netfs"]))),
            ("kernel/net/9p/9pnet.ko.zst", fake::zstd(&fake::module(&["depends="]))),
            ("kernel/fs/netfs.ko.gz", fake::gzip(&fake::module(&["name=netfs", "depends=9pnet"]))),
            ("kernel/hw/rng-core.ko", fake::module(&["depends=netfs"])),
            ("kernel/hw/virtio-rng.ko", fake::module(&["depends=rng_core,virtio"])),
            ("kernel/loop-a.ko", fake::module(&["depends=loop_b"])),
            ("kernel/loop-b.ko", fake::module(&["depends=loop_a"])),
            ("kernel/not-a-module.kot", b"text".to_vec()),
            ("modules.builtin", b"kernel/drivers/virtio/virtio.ko\nkernel/drivers/virtio-pci.ko\n".to_vec()),
        ])
    }

    fn names(modules: Result<Vec<Module>>) -> Vec<String> {
        modules.unwrap().into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn dependencies_come_first_and_once() {
        let (_dir, kernel) = distribution();
        let modules = resolve(&kernel, &["9p", "9pnet"]).unwrap();
        assert!(modules.iter().all(|(_, bytes)| bytes.starts_with(b"\x7fELF")));
        assert_eq!(names(Ok(modules)), ["9pnet", "netfs", "9p"]);
        assert_eq!(names(resolve(&kernel, &["loop-a"])), ["loop_b", "loop_a"], "they need each other");
    }

    #[test]
    fn names_are_found_and_what_is_built_in_needs_no_module() {
        let (_dir, kernel) = distribution();
        let expected: &[&str] = &["9pnet", "netfs", "rng_core", "virtio_rng"];
        for (wanted, expected) in
            [("virtio-rng", expected), ("virtio_rng", expected), ("virtio", &[]), ("virtio_pci", &[])]
        {
            assert_eq!(names(resolve(&kernel, &[wanted])), expected, "{wanted}");
        }
        let error = resolve(&kernel, &["virtio_blk"]).unwrap_err().to_string();
        assert!(error.contains("module virtio_blk is neither built in nor in "), "{error}");
        assert_eq!(names(resolve_present(&kernel, &["9pnet", "virtio_blk", "virtio"])), ["9pnet"]);
    }

    #[test]
    fn missing_modules_unknown_without_builtin_list() {
        let (_dir, kernel) = kernel(&[("a.ko", fake::module(&["depends=b"]))]);
        assert_eq!(names(resolve(&kernel, &["a", "virtio_blk"])), ["a"]);
        let bare = Kernel { modules: None, ..kernel };
        assert!(names(resolve(&bare, &["virtio_blk"])).is_empty());
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
