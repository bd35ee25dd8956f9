//! Unpacking what a source yields: a .deb, a compressed tar, or a bare image.
//!
//! Nothing in an archive is trusted: with a member that would be written outside of the directory, by its name or through a
//! link, or with more data than any kernel has, the whole is refused; a link that leads out is removed.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::compression::decompressed;
use super::tree;

/// No kernel with all its modules is larger than this when unpacked.
const MAX_UNPACKED: u64 = 4 << 30;

/// Unpacks `files`, whatever they are, into the directory `into`, which exists.
pub fn unpack(files: &[PathBuf], into: &Path) -> Result<()> {
    for file in files {
        let mut reader = BufReader::new(fs_err::File::open(file)?);
        if reader.fill_buf()?.starts_with(b"!<arch>\n") {
            unpack_package(file, into, &["boot", "lib/modules", "usr/lib/modules"])
                .context("cannot unpack the .deb")?;
        } else if let Some(reader) = decompressed(reader, false)? {
            unpack_tar(reader, into, &[]).context("cannot unpack the tar archive")?;
        } else {
            super::image::inspect(file)?;
            // The same file system in practice: a link costs nothing, and the download is removed afterwards.
            let image = into.join("bzImage");
            fs_err::hard_link(file, &image).or_else(|_| fs_err::copy(file, image).map(drop))?;
        }
    }
    remove_links_out(into)
}

/// Unpacks what is below the directories `wanted` of a .deb into the directory `into`, which exists.
pub fn unpack_package(file: &Path, into: &Path, wanted: &[&str]) -> Result<()> {
    let mut members = ar::Archive::new(BufReader::new(File::open(file)?));
    while let Some(member) = members.next_entry() {
        let member = member?;
        let name = String::from_utf8_lossy(member.header().identifier()).into_owned();
        let Some(suffix) = name.trim_end_matches('/').strip_prefix("data.tar") else { continue };
        let member = BufReader::new(member);
        if suffix.is_empty() {
            return unpack_tar(member, into, wanted);
        }
        let reader = decompressed(member, false)?.with_context(|| format!("{name}: unknown compression"))?;
        return unpack_tar(reader, into, wanted);
    }
    bail!("it has no data.tar")
}

/// Unpacks what is below the directories `wanted`, or everything if there are none.
fn unpack_tar(reader: impl Read, into: &Path, wanted: &[&str]) -> Result<()> {
    let mut archive = tar::Archive::new(reader);
    archive.set_preserve_mtime(false);
    let mut size = 0_u64;
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.into_owned();
        let path: PathBuf = name.components().filter(|part| *part != Component::CurDir).collect();
        if !wanted.is_empty() && !wanted.iter().any(|wanted| path.starts_with(wanted)) {
            continue;
        }
        size = size.saturating_add(entry.size());
        ensure!(size <= MAX_UNPACKED, "refused: more than {} GiB unpacked", MAX_UNPACKED >> 30);
        let inside = entry.unpack_in(into).with_context(|| format!("archive member {}", name.display()))?;
        ensure!(inside, "archive member {}: refused: it would be written outside", name.display());
    }
    Ok(())
}

/// Removes the links that do not lead to something below `dir`, such as those into kernel sources that many builds leave in
/// `lib/modules/<release>`.
pub fn remove_links_out(dir: &Path) -> Result<()> {
    let real = dir.canonicalize()?;
    for link in tree::below(dir, |kind| kind.is_symlink())? {
        if !link.canonicalize().is_ok_and(|target| target.starts_with(&real)) {
            std::fs::remove_file(&link).with_context(|| format!("cannot remove the link {}", link.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fake::{self, Member};
    use super::*;

    /// Unpacks these in turn; says of each whether it was accepted.
    fn unpacked(archives: &[&[Member<'_>]], root: &Path) -> Vec<bool> {
        let unpack = |members: &&[Member<'_>]| unpack_tar(fake::tar(members).as_slice(), root, &[]).is_ok();
        let accepted = archives.iter().map(unpack).collect();
        remove_links_out(root).unwrap();
        accepted
    }

    #[test]
    fn links_that_stay_inside_are_made() {
        let dir = tempfile::tempdir().unwrap();
        let members = [
            Member::Symlink("vmlinuz", "boot/image"),
            Member::Symlink("lib/modules/link", "../../boot"),
            Member::File("boot/image", b"kernel"),
            Member::Hardlink("boot/same", "boot/image"),
            Member::Symlink("lib/modules/build", "/usr"),
            Member::Symlink("lib/modules/source", "../../nowhere"),
        ];
        assert_eq!(unpacked(&[&members], dir.path()), [true]);
        for path in ["vmlinuz", "lib/modules/link/image", "boot/same"] {
            assert_eq!(std::fs::read(dir.path().join(path)).unwrap(), b"kernel", "{path}");
        }
        for path in ["build", "source"] {
            assert!(dir.path().join("lib/modules").join(path).symlink_metadata().is_err(), "{path}");
        }
    }

    #[test]
    fn nothing_is_written_or_read_outside() {
        // `p/q/r` is the root, so that a link in it, which looks three deep, is at the root and leads out.
        let to_root: &[Member<'_>] = &[Member::Symlink("p/q/r", "../..")];
        let out: &[_] = &[Member::Symlink("p/q/r/out", "../beside")];
        let deep: &[_] = &[Member::File("a/b/file", b"x"), Member::Symlink("a/b/up", "../../beside")];
        let through: &[_] = &[Member::File("out/file", b"x")];
        let direct: &[_] = &[Member::Symlink("out", "../beside"), Member::File("out/file", b"x")];
        for (archives, accepted) in [
            (vec![direct], [false].as_slice()),
            (vec![&[Member::File("../beside/file", b"x")]], &[false]),
            (vec![&[Member::File("a/../../beside/file", b"x")]], &[false]),
            (vec![&[Member::Hardlink("out", "../secret")]], &[false]),
            (vec![to_root, out, through], &[true, true, false]),
            // Moved up, the link would lead further: it is not moved.
            (vec![deep, &[Member::Hardlink("out", "a/b/up")], through], &[true, false, true]),
            (vec![to_root, &[Member::File("p/q/r/file", b"x")]], &[true, true]),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let (root, beside) = (dir.path().join("root"), dir.path().join("beside"));
            std::fs::create_dir(&root).unwrap();
            std::fs::create_dir(&beside).unwrap();
            std::fs::write(dir.path().join("secret"), "secret").unwrap();
            assert_eq!(unpacked(&archives, &root), accepted);
            assert_eq!(std::fs::read_dir(&beside).unwrap().count(), 0, "written outside");
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3, "written outside");
            assert!(std::fs::read(root.join("out")).map_or(true, |text| text != b"secret"), "taken from outside");
            assert!(root.join("out").symlink_metadata().map_or(true, |it| !it.is_symlink()), "a link leads out");
        }
    }
}
