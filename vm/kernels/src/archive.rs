//! Unpacking what a source yields: a .deb, a compressed tar, or a bare image.
//!
//! Nothing in an archive is trusted: a path that leaves the directory, a link that points out of it, a device, a
//! name that comes twice, or more data than any kernel has, and the whole archive is refused.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstatat, mkdirat};
use nix::unistd::{linkat, symlinkat};

use super::compression::Compression;

/// No kernel with all its modules is larger than this when unpacked.
const MAX_UNPACKED: u64 = 4 << 30;

/// The part of a distribution's package that is of use here.
const WANTED_OF_A_PACKAGE: [&str; 3] = ["boot", "lib/modules", "usr/lib/modules"];

/// Links into kernel sources that are not in the archive, which many builds leave in `lib/modules/<release>`.
const SOURCE_LINKS: [&str; 2] = ["build", "source"];

/// Unpacks `file`, whatever it is, into the directory `into`, which exists.
pub fn unpack(file: &Path, into: &Path) -> Result<()> {
    let mut start = Vec::new();
    File::open(file)?.take(8).read_to_end(&mut start)?;
    if start.starts_with(b"!<arch>\n") {
        return unpack_package(file, into, &WANTED_OF_A_PACKAGE).context("cannot unpack the .deb");
    }
    match decompressed(file)? {
        Some(reader) => Unpacker::new(into, &[])?.tar(reader).context("cannot unpack the tar archive"),
        None => {
            super::image::inspect(file)?;
            copy_image(file, &into.join("bzImage"))
        }
    }
}

/// What is in a compressed file; `None` when it is not compressed.
pub fn decompressed(file: &Path) -> Result<Option<Box<dyn Read>>> {
    let mut reader = BufReader::new(File::open(file).with_context(|| format!("cannot read {}", file.display()))?);
    let compression = Compression::of(reader.fill_buf()?);
    Ok(compression.map(|compression| compression.decoder(reader)).transpose()?)
}

fn copy_image(from: &Path, to: &Path) -> Result<()> {
    // The same file system in practice: a link costs nothing, and the download is removed afterwards.
    if std::fs::hard_link(from, to).is_err() {
        std::fs::copy(from, to)?;
    }
    Ok(())
}

/// Unpacks what is below the directories `wanted` of a .deb into the directory `into`, which exists.
pub fn unpack_package(file: &Path, into: &Path, wanted: &[&str]) -> Result<()> {
    let mut members = ar::Archive::new(BufReader::new(File::open(file)?));
    while let Some(member) = members.next_entry() {
        let member = member?;
        let name = String::from_utf8_lossy(member.header().identifier()).into_owned();
        let Some(suffix) = name.trim_end_matches('/').strip_prefix("data.tar") else { continue };
        let compression = Compression::of_suffix(suffix).ok_or_else(|| anyhow!("{name}: unknown compression"))?;
        let reader = compression.decoder(BufReader::new(member))?;
        return Unpacker::new(into, wanted)?.tar(reader);
    }
    bail!("it has no data.tar")
}

/// Writes a tar archive's content below one directory and nowhere else.
///
/// Everything is reached from that directory's descriptor, one component at a time, and never through a link, whichever
/// archive the link came from: several may be unpacked into one directory.
struct Unpacker<'a> {
    root: OwnedFd,
    /// Only what is below these is written; empty: everything.
    wanted: &'a [&'a str],
    written: u64,
    /// Links are made when everything else is written, so that nothing is ever written through one.
    symlinks: Vec<(PathBuf, PathBuf)>,
}

impl<'a> Unpacker<'a> {
    fn new(root: &Path, wanted: &'a [&'a str]) -> Result<Self> {
        let root = openat(AT_FDCWD, root, DIRECTORY, Mode::empty())
            .with_context(|| format!("cannot open {}", root.display()))?;
        Ok(Self { root, wanted, written: 0, symlinks: Vec::new() })
    }

    fn tar(mut self, reader: impl Read) -> Result<()> {
        let mut archive = tar::Archive::new(reader);
        for entry in archive.entries()? {
            let mut entry = entry?;
            let name = entry.path()?.into_owned();
            self.entry(&mut entry, &name)
                .with_context(|| format!("archive member {:?}", name.display().to_string()))?;
        }
        for (path, target) in std::mem::take(&mut self.symlinks) {
            self.place(&path)
                .and_then(|(dir, name)| Ok(symlinkat(&target, dir, name).map_err(io::Error::from)?))
                .with_context(|| format!("cannot make the link {}", path.display()))?;
        }
        Ok(())
    }

    fn entry<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>, name: &Path) -> Result<()> {
        let path = inside(name).ok_or_else(|| anyhow!("refused: it would be written outside"))?;
        let kind = entry.header().entry_type();
        if kind.is_pax_global_extensions() || path.as_os_str().is_empty() || !self.wants(&path) {
            return Ok(());
        }
        match kind {
            tar::EntryType::Directory => self.directory(&path, true).map(drop),
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => self.file(entry, &path),
            tar::EntryType::Link => {
                let target = link_target(entry)?;
                let target = inside(&target).ok_or_else(|| leads_outside(&target))?;
                self.hard_link(&target, &path)
            }
            tar::EntryType::Symlink => self.symlink(link_target(entry)?, path),
            _ => bail!("refused: it is neither file, directory nor link"),
        }
    }

    fn file(&mut self, entry: &mut impl Read, path: &Path) -> Result<()> {
        let (dir, name) = self.place(path)?;
        let new = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let file = openat(dir, name, new, Mode::from_bits_truncate(0o666));
        let mut file = File::from(file.map_err(io::Error::from)?);
        // One byte more than is allowed, to notice that there is more.
        let left = MAX_UNPACKED - self.written;
        let count = io::copy(&mut entry.take(left + 1), &mut file)?;
        ensure!(count <= left, "refused: more than {} GiB unpacked", MAX_UNPACKED >> 30);
        self.written += count;
        Ok(())
    }

    fn symlink(&mut self, target: PathBuf, path: PathBuf) -> Result<()> {
        let parent = path.parent().unwrap_or(Path::new(""));
        if !stays_inside(parent, &target) {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            ensure!(SOURCE_LINKS.contains(&name), leads_outside(&target));
            return Ok(());
        }
        self.place(&path)?;
        self.symlinks.push((path, target));
        Ok(())
    }

    fn hard_link(&self, target: &Path, path: &Path) -> Result<()> {
        let (from, of) = split(target)?;
        let from = self.directory(from, false)?;
        // A link to a link would lead elsewhere from its new place.
        let kind =
            SFlag::from_bits_truncate(fstatat(&from, of, AtFlags::AT_SYMLINK_NOFOLLOW)?.st_mode & SFlag::S_IFMT.bits());
        ensure!(kind == SFlag::S_IFREG, "refused: a hard link to what is no file");
        let (dir, name) = self.place(path)?;
        Ok(linkat(from, of, dir, name, AtFlags::empty()).map_err(io::Error::from)?)
    }

    /// The directory in which `path` is to be, made if need be, and its name there.
    fn place<'p>(&self, path: &'p Path) -> Result<(OwnedFd, &'p OsStr)> {
        let (parent, name) = split(path)?;
        Ok((self.directory(parent, true)?, name))
    }

    /// Opens a directory of the archive's, reached through directories only; makes them if asked to.
    fn directory(&self, path: &Path, make: bool) -> Result<OwnedFd> {
        let mut dir = self.root.try_clone()?;
        for part in path.components() {
            if make {
                match mkdirat(&dir, part.as_os_str(), Mode::from_bits_truncate(0o777)) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(error) => return Err(io::Error::from(error).into()),
                }
            }
            // ENOTDIR is what opening a link as a directory gives, without following it (open(2)).
            dir = openat(&dir, part.as_os_str(), DIRECTORY, Mode::empty())
                .map_err(io::Error::from)
                .with_context(|| format!("refused: cannot enter {}", path.display()))?;
        }
        Ok(dir)
    }

    fn wants(&self, path: &Path) -> bool {
        self.wanted.is_empty() || self.wanted.iter().any(|prefix| path.starts_with(prefix))
    }
}

/// Opens a directory, and nothing else: no link to one.
const DIRECTORY: OFlag = OFlag::O_DIRECTORY.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// The directory and the name of a path that [`inside`] gave.
fn split(path: &Path) -> Result<(&Path, &OsStr)> {
    path.parent().zip(path.file_name()).context("refused: a member without a name")
}

fn link_target<R: Read>(entry: &tar::Entry<'_, R>) -> Result<PathBuf> {
    Ok(entry.link_name()?.ok_or_else(|| anyhow!("refused: a link to nothing"))?.into_owned())
}

fn leads_outside(target: &Path) -> anyhow::Error {
    anyhow!("refused: a link to {:?}, outside of the archive", target.display().to_string())
}

/// The path without `.`, or `None` if it is absolute or has `..`.
fn inside(path: &Path) -> Option<PathBuf> {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => plain.push(part),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(plain)
}

/// Whether a link in the directory `parent` to `target` stays in the archive whatever else is a link in it:
/// any number of `..`, no more than there are real directories above it, and none after a name.
fn stays_inside(parent: &Path, target: &Path) -> bool {
    let mut depth = parent.components().count();
    let mut named = false;
    for component in target.components() {
        match component {
            Component::Normal(_) => named = true,
            Component::CurDir => {}
            Component::ParentDir if !named && depth > 0 => depth -= 1,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::fake::{self, Member};
    use super::*;

    fn unpacked(members: &[Member<'_>]) -> Result<tempfile::TempDir> {
        let dir = tempfile::tempdir().unwrap();
        Unpacker::new(dir.path(), &[])?.tar(fake::tar(members).as_slice())?;
        Ok(dir)
    }

    #[test]
    fn links_that_stay_inside_are_made() {
        let dir = unpacked(&[
            Member::Symlink("vmlinuz", "boot/image"),
            Member::Symlink("lib/modules/link", "../../boot"),
            Member::File("boot/image", b"kernel"),
            Member::Hardlink("boot/same", "boot/image"),
        ])
        .unwrap();
        for path in ["vmlinuz", "lib/modules/link/image", "boot/same"] {
            assert_eq!(std::fs::read(dir.path().join(path)).unwrap(), b"kernel", "{path}");
        }
    }

    #[test]
    fn link_that_could_climb_out_is_told_apart() {
        let stays = |parent: &str, target: &str| stays_inside(Path::new(parent), Path::new(target));
        assert!(stays("", "a/b"));
        assert!(stays("a/b", "../../c"));
        assert!(!stays("a/b", "../../../c"));
        assert!(!stays("", ".."));
        assert!(!stays("a", "/etc"));
        // `x` may itself be a link to somewhere higher up.
        assert!(!stays("a/b", "x/.."));
    }

    #[test]
    fn nothing_is_written_through_a_link() {
        let members = [Member::Symlink("a", "b"), Member::File("a/file", b"x")];
        // The directory `a` is made for the file, so the link cannot be.
        assert!(unpacked(&members).is_err());
        assert!(unpacked(&[Member::File("a", b"x"), Member::File("a", b"y")]).is_err());
    }

    #[test]
    fn several_archives_together_write_nothing_outside() {
        // `p/q/r` is the root, so that the link in it, which looks three deep, is at the root and leads out.
        let to_root: &[Member<'_>] = &[Member::Symlink("p/q/r", "../..")];
        let out: &[_] = &[Member::Symlink("p/q/r/out", "../../../beside")];
        let out_once: &[_] = &[Member::Symlink("p/q/r/out", "../beside")];
        let deep: &[_] = &[Member::File("beside", b"x"), Member::Symlink("a/b/up", "../../beside")];
        for (archives, accepted) in [
            (vec![to_root, out], [true, false].as_slice()),
            (vec![to_root, &[Member::File("p/q/r/file", b"x")]], &[true, false]),
            // Moved up, the link leads further.
            (vec![deep, &[Member::Hardlink("up", "a/b/up")]], &[true, false]),
            (vec![to_root, out_once, &[Member::File("out/file", b"x")]], &[true, false, true]),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let (root, beside) = (dir.path().join("root"), dir.path().join("beside"));
            std::fs::create_dir(&root).unwrap();
            std::fs::create_dir(&beside).unwrap();
            let unpack =
                |members: &&[Member<'_>]| Unpacker::new(&root, &[]).unwrap().tar(fake::tar(members).as_slice()).is_ok();
            assert_eq!(archives.iter().map(unpack).collect::<Vec<_>>(), accepted);
            assert_eq!(std::fs::read_dir(&beside).unwrap().count(), 0, "written outside");
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "written outside");
        }
    }

    #[test]
    fn links_into_kernel_sources_are_left_out() {
        let dir = unpacked(&[
            Member::File("lib/modules/6.1/m.ko", b""),
            Member::Symlink("lib/modules/6.1/build", "/usr/src/linux"),
        ])
        .unwrap();
        assert!(dir.path().join("lib/modules/6.1/build").symlink_metadata().is_err());
    }

    #[test]
    fn damage_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("linux.deb");
        let whole = fake::kernel_deb("6.1", ".xz");
        std::fs::write(&file, &whole[..whole.len() - 1000]).unwrap();
        assert!(unpack(&file, dir.path()).is_err());
    }
}
