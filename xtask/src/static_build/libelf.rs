//! Distributions' archives of libelf that cannot be linked as they are, because they refer to functions that they do
//! not have:
//!
//! - Since 0.189 libelf decompresses sections with zstd, where it was built so. The objects that a program embeds have
//!   no compressed sections, so that these functions are never called; instead of 600 kB of zstd they become `abort`.
//! - 0.192, which is Debian 13's, forgot two functions of its own
//!   (<https://sourceware.org/bugzilla/show_bug.cgi?id=32293>). They make and free the empty tree of an object's raw
//!   chunks. An object is all zeroes at first, and nothing that libbpf calls puts a chunk into the tree, so that a
//!   function that does nothing makes and frees it as well; `pthread_self` does nothing, and every program has it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Cursor;
use std::path::Path;

use anyhow::{Context, Result};
use memchr::memmem;

use vm_kernels::whole_file;

/// What functions of zstd are called.
const ZSTD: &str = "ZSTD_";

/// The functions that 0.192 lacks.
const FORGOTTEN: [&str; 2] = ["eu_search_tree_init", "eu_search_tree_fini"];

/// What to put in the place of functions that an archive of libelf lacks: theirs, and whose.
type Substitutes = BTreeMap<String, &'static str>;

/// Writes a linker script to `script` if linking with the archive takes one; tells whether it does.
///
/// # Errors
///
/// When the archive cannot be read, or the script cannot be written.
pub fn write_linker_script(archive: &Path, script: &Path) -> Result<bool> {
    let bytes = std::fs::read(archive);
    let substitutes = bytes
        .and_then(|bytes| substitutes(&bytes))
        .with_context(|| format!("cannot read {}", archive.display()))?;
    if substitutes.is_empty() {
        return Ok(false);
    }
    let text = linker_script(&substitutes).into_bytes();
    // One that was not touched is nothing to build again for.
    if !std::fs::read(script).is_ok_and(|there| there == text) {
        whole_file::write(script, &text)
            .with_context(|| format!("cannot write {}", script.display()))?;
    }
    Ok(true)
}

fn substitutes(archive: &[u8]) -> std::io::Result<Substitutes> {
    let mut reader = ar::Archive::new(Cursor::new(archive));
    let defined: Vec<&[u8]> = reader.symbols()?.collect();
    let forgotten = FORGOTTEN.into_iter().filter(|name| {
        memmem::find(archive, name.as_bytes()).is_some() && !defined.contains(&name.as_bytes())
    });
    let substitutes = forgotten.map(|name| (name.to_owned(), "pthread_self"));
    Ok(zstd_functions(archive).map(|name| (name, "abort")).chain(substitutes).collect())
}

/// The functions of zstd that are named anywhere; in the objects of an archive names are as they are.
fn zstd_functions(archive: &[u8]) -> impl Iterator<Item = String> {
    memmem::find_iter(archive, ZSTD).map(|start| {
        let name = archive[start..].iter().map(|byte| char::from(*byte));
        name.take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
    })
}

/// `PROVIDE` yields to a definition, so that a program that itself links zstd keeps it.
fn linker_script(substitutes: &Substitutes) -> String {
    substitutes.iter().fold(String::new(), |mut script, (name, substitute)| {
        let _ = writeln!(script, "PROVIDE({name} = {substitute});");
        script
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// An archive of one object, whose index has the given symbols.
    fn archive(defined: &[&str], object: &str) -> Vec<u8> {
        let names: String = defined.iter().map(|name| format!("{name}\0")).collect();
        let mut index = u32::try_from(defined.len()).unwrap().to_be_bytes().to_vec();
        index.extend(defined.iter().flat_map(|_| 0u32.to_be_bytes()));
        index.extend(names.bytes());
        if index.len() % 2 == 1 {
            index.push(0);
        }
        let header = |name: &str, size: usize| {
            format!("{name:<16}0           0     0     644     {size:<10}`\n")
        };
        let mut archive = b"!<arch>\n".to_vec();
        archive.extend(header("/", index.len()).bytes());
        archive.extend(index);
        archive.extend(header("elf_begin.o/", object.len()).bytes());
        archive.extend(object.bytes());
        archive
    }

    #[track_caller]
    fn check(defined: &[&str], object: &str, expected: &str) {
        let substitutes = substitutes(&archive(defined, object)).unwrap();
        assert_eq!(linker_script(&substitutes), expected);
    }

    #[test]
    fn an_archive_that_lacks_nothing_needs_no_script() {
        check(&["elf_begin"], "elf_begin\0", "");
    }

    #[test]
    fn functions_of_zstd_become_abort() {
        check(
            &["elf_begin"],
            "\0ZSTD_isError\0ZSTD_decompress\0ZSTD_isError\0",
            "PROVIDE(ZSTD_decompress = abort);\nPROVIDE(ZSTD_isError = abort);\n",
        );
    }

    #[test]
    fn forgotten_functions_do_nothing() {
        let object = "\0eu_search_tree_init\0eu_search_tree_fini\0";
        let script = "PROVIDE(eu_search_tree_fini = pthread_self);\n\
                      PROVIDE(eu_search_tree_init = pthread_self);\n";
        check(&["elf_begin"], object, script);
        check(&FORGOTTEN, object, "");
    }

    #[test]
    fn a_script_is_written_where_there_was_none_and_left_where_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let library = directory.path().join("libelf.a");
        let script = directory.path().join("new/libelf.ld");
        std::fs::write(&library, archive(&["elf_begin"], "elf_begin\0")).unwrap();
        assert!(!write_linker_script(&library, &script).unwrap());
        assert!(!script.exists());

        std::fs::write(&library, archive(&["elf_begin"], "ZSTD_isError\0")).unwrap();
        assert!(write_linker_script(&library, &script).unwrap());
        let written = std::fs::metadata(&script).unwrap().modified().unwrap();
        assert!(write_linker_script(&library, &script).unwrap());
        assert_eq!(std::fs::metadata(&script).unwrap().modified().unwrap(), written);
        assert_eq!(std::fs::read_to_string(&script).unwrap(), "PROVIDE(ZSTD_isError = abort);\n");
    }

    #[test]
    fn what_is_no_archive_is_an_error() {
        assert!(substitutes(b"no archive").is_err());
    }
}
