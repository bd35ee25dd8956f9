//! What a program needs to run where there is nothing but what is brought along: its loader, its libraries, and the files
//! of its package.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{LittleEndian, elf};
use vm_guest::payload::Files;
use vm_kernels::Arch;
use vmtest_agent::Program;
use walkdir::{DirEntry, WalkDir};

use crate::error::Error;

/// How much of a package's own files is brought along at most, in bytes.
const LARGEST: u64 = 64 << 20;

/// The program itself, its loader and the libraries that the loader finds for it, when it is started as `started` is.
pub fn of_program(path: &Path, started: &Program) -> Result<BTreeSet<PathBuf>> {
    let mut files = BTreeSet::from([path.to_owned()]);
    let Some(loader) = loader(path)? else { return Ok(files) };
    let (program, needed) = (path.display(), loader.display());
    let remedy = "build it statically (`-C target-feature=+crt-static`)";
    ensure!(loader.exists(), "{program} needs the loader {needed}, which is not here: {remedy}");
    // The loader lists, and does not start the program (ld.so(8), `--list`).
    let mut command = Command::new(&loader);
    command.arg("--list").arg(path).current_dir(&started.cwd).stdin(Stdio::null()).env_clear();
    command.envs(started.env.iter().filter(|(name, _)| name.starts_with("LD_")));
    let output = command.output().with_context(|| format!("cannot run {needed}"))?;
    let list = String::from_utf8_lossy(&output.stdout);
    let missing: Vec<&str> = list.lines().filter(|line| line.contains("not found")).collect();
    let why = if missing.is_empty() { String::from_utf8_lossy(&output.stderr) } else { missing.join(";").into() };
    ensure!(output.status.success() && missing.is_empty(), "{program} cannot be loaded: {}", why.trim());
    files.extend(list.lines().filter_map(library));
    files.insert(loader);
    Ok(files)
}

/// `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f…)`, or the loader's line, which has no arrow.
fn library(line: &str) -> Option<PathBuf> {
    let path = line.split_once("=> ").map_or(line, |(_, path)| path).trim();
    let path = path.rsplit_once(" (").map_or(path, |(path, _)| path);
    path.starts_with('/').then(|| path.into())
}

/// The loader that an ELF program asks for (`PT_INTERP`); nothing for one that is static, or a script.
pub fn loader(path: &Path) -> Result<Option<PathBuf>> {
    let failed = || format!("cannot read {}", path.display());
    let bytes = fs::read(path).with_context(failed)?;
    if !bytes.starts_with(&elf::ELFMAG) {
        return Ok(None);
    }
    let find = || -> object::Result<Option<PathBuf>> {
        let header = elf::FileHeader64::<LittleEndian>::parse(&*bytes)?;
        let endian = header.endian()?;
        let mut segments = header.program_headers(endian, &*bytes)?.iter();
        let name = segments.find_map(|segment| segment.interpreter(endian, &*bytes).transpose());
        Ok(name.transpose()?.map(|name| OsStr::from_bytes(name).into()))
    };
    find().with_context(failed)
}

/// Refuses a program that is for another processor than the guest's; scripts are for any.
pub fn check_architecture(path: &Path, arch: &Arch) -> Result<()> {
    let (mut start, shown) = (Vec::new(), path.display());
    let read = fs::File::open(path).and_then(|file| file.take(20).read_to_end(&mut start));
    read.with_context(|| format!("cannot read {shown}"))?;
    let machine = start.get(18..20).filter(|_| start.starts_with(&elf::ELFMAG));
    match machine.map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]])) {
        Some(machine) if machine != arch.elf_machine => Err(Error::usage(format!(
            "{shown} is a program for another processor (ELF machine {machine}), and the guest is {}",
            arch.machine
        ))),
        _ => Ok(()),
    }
}

/// The files of a package: what lies in its directory, without what is hidden or built.
pub fn of_package(directory: &Path, target: &Path) -> Result<BTreeSet<PathBuf>> {
    let (mut files, mut bytes) = (BTreeSet::new(), 0);
    let is_own = |entry: &DirEntry| {
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        entry.depth() == 0 || !(hidden || entry.file_name() == "target" || entry.path() == target)
    };
    for entry in WalkDir::new(directory).into_iter().filter_entry(is_own) {
        let entry = entry?;
        // Links to files count; those to directories may lead in a circle.
        let Ok(metadata) = fs::metadata(entry.path()) else { continue };
        if metadata.is_file() {
            bytes += metadata.len();
            files.insert(entry.into_path());
        }
        ensure!(
            bytes <= LARGEST,
            "the files in {} are more than {} MiB, and this kernel's guest has to have them in memory",
            directory.display(),
            LARGEST >> 20
        );
    }
    Ok(files)
}

/// Files that have the same paths in a guest as here.
pub fn in_place(files: impl IntoIterator<Item = PathBuf>) -> Files {
    let name = |file: &Path| file.to_string_lossy().trim_start_matches('/').to_owned();
    files.into_iter().map(|file| (name(&file), file)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_brings_libraries_script_only_itself_foreign_elf_is_usage_error() {
        let of = |path: &Path| of_program(path, &Program { cwd: "/".into(), ..Program::default() });
        let own = std::env::current_exe().unwrap();
        let files = of(&own).unwrap();
        let has = |part: &str| files.iter().any(|file| file.to_string_lossy().contains(part));
        assert!(files.contains(&own) && has("libc.so") && has("ld-linux"), "{files:?}");
        check_architecture(&own, Arch::host()).unwrap();
        let other = tempfile::NamedTempFile::new().unwrap();
        fs::write(other.path(), "#!/bin/sh\n").unwrap();
        assert_eq!(of(other.path()).unwrap().len(), 1);
        let mut bytes = fs::read(own).unwrap();
        bytes[18..20].copy_from_slice(&40_u16.to_le_bytes());
        fs::write(other.path(), bytes).unwrap();
        let error = check_architecture(other.path(), Arch::host()).unwrap_err();
        assert_eq!(crate::exit::code_of(&error), crate::exit::USAGE, "{error}");
    }

    #[test]
    fn a_package_s_files_are_without_what_is_built_or_hidden() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["src/a.rs", "tests/data/b.txt", "target/debug/c", ".git/d", "out/e"] {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let files = of_package(dir.path(), &dir.path().join("out")).unwrap();
        let expected = ["src/a.rs", "tests/data/b.txt"].map(|name| dir.path().join(name));
        assert_eq!(files, expected.into());
    }
}
