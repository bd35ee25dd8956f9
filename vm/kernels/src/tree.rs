//! Finding image, modules and configuration in a directory, however it was laid out.

use std::fs::FileType;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use walkdir::{DirEntry, WalkDir};

use super::Expected;
use super::image::{self, Image};

/// What a directory holds of a kernel.
#[derive(Debug, Clone)]
pub struct Tree {
    pub image: PathBuf,
    /// What the image says of itself.
    pub header: Image,
    /// `…/lib/modules/<release>`.
    pub modules: Option<PathBuf>,
    pub config: Option<PathBuf>,
}

/// Where images are: a built kernel's tree, Nix's output, packages unpacked, a `/boot`.
const IMAGES: [&str; 8] = [
    "bzImage",
    "Image",
    "vmlinuz",
    "arch/x86/boot/bzImage",
    "arch/x86_64/boot/bzImage",
    "arch/arm64/boot/Image",
    "boot/bzImage",
    "boot/vmlinuz",
];
/// Where modules are, each with a directory per release.
const MODULES: [&str; 2] = ["lib/modules", "usr/lib/modules"];

impl Tree {
    /// Whether the image names the release that is pinned, if it names one.
    pub fn check_release(&self, expected: &Expected) -> Result<()> {
        let Some(release) = &self.header.release else { return Ok(()) };
        ensure!(expected.accepts(release), "the image is {release}, pinned is {expected}: {}", self.image.display());
        Ok(())
    }
}

/// Looks for a kernel in `dir`. When several releases are there, the image whose release has modules wins, then the last
/// by name.
pub fn find(dir: &Path) -> Result<Tree> {
    let all = MODULES.iter().flat_map(|place| entries(&dir.join(place)));
    let releases: Vec<_> = all.filter(|path| path.is_dir()).collect();
    let fixed = IMAGES.iter().map(|place| dir.join(place));
    // Fedora, and Debian from 7.x on.
    let beside_modules = releases.iter().rev().map(|modules| modules.join("vmlinuz"));
    let in_boot = ["boot", "."].iter().flat_map(|place| entries(&dir.join(place)));
    let mut versioned: Vec<_> = in_boot.filter(|path| suffix(path, "vmlinuz-").is_some()).collect();
    // Those with modules come last, and the last is taken.
    versioned.sort_by_key(|image| {
        suffix(image, "vmlinuz-").is_some_and(|release| releases.iter().any(|modules| modules.ends_with(release)))
    });
    let found = fixed.chain(beside_modules).chain(versioned.into_iter().rev()).find(|path| path.is_file());
    let image = found.with_context(|| {
        let places = "bzImage, vmlinuz*, boot/vmlinuz-*, arch/x86/boot/bzImage and lib/modules/*/vmlinuz";
        format!("there is no kernel image in {}; looked for {places}", dir.display())
    })?;
    let header = inspect(&image)?;
    let modules = match &header.release {
        Some(release) => releases.into_iter().find(|path| path.ends_with(release)),
        None if releases.len() == 1 => releases.into_iter().next(),
        None => None,
    };
    let config = config_near(dir, &image, modules.as_deref());
    Ok(Tree { image, header, modules, config })
}

fn inspect(image: &Path) -> Result<Image> {
    image::inspect(image).with_context(|| format!("cannot use {}", image.display()))
}

/// What belongs to an image that was named by itself: `/boot/vmlinuz-<release>` has its modules in `/lib/modules`,
/// a kernel tree's `arch/x86/boot/bzImage` its configuration at the top.
pub fn around(image: &Path) -> Result<Tree> {
    let header = inspect(image)?;
    let real = image.canonicalize().unwrap_or_else(|_| image.to_owned());
    let beside = real.parent().unwrap_or(Path::new("/"));
    let build = IMAGES
        .iter()
        .filter(|place| place.starts_with("arch/"))
        .find_map(|place| real.ends_with(place).then(|| real.ancestors().nth(place.split('/').count()))?);
    let modules = header.release.as_deref().and_then(|release| {
        let above = beside.parent()?;
        let installed = MODULES.iter().map(|place| above.join(place).join(release));
        let own = beside.ends_with(release).then(|| beside.to_owned());
        own.into_iter().chain(installed).find(|path| path.is_dir())
    });
    let config = config_near(build.unwrap_or(beside), &real, modules.as_deref());
    Ok(Tree { image: image.to_owned(), header, modules, config })
}

/// The configuration that belongs to `image`: by its release in its name, else the only one in a place known.
fn config_near(dir: &Path, image: &Path, modules: Option<&Path>) -> Option<PathBuf> {
    let beside = image.parent().unwrap_or(dir);
    let versioned = suffix(image, "vmlinuz-").map(|release| format!("config-{release}"));
    let of_modules = modules.and_then(|modules| suffix(modules, "")).map(|release| format!("boot/config-{release}"));
    let candidates = [
        versioned.map(|name| beside.join(name)),
        of_modules.map(|name| dir.join(name)),
        modules.map(|modules| modules.join("config")),
        Some(beside.join("config")),
        Some(beside.join(".config")),
        Some(dir.join("config")),
        Some(dir.join(".config")),
    ];
    candidates.into_iter().flatten().find(|path| path.is_file())
}

fn suffix<'a>(path: &'a Path, prefix: &str) -> Option<&'a str> {
    path.file_name()?.to_str()?.strip_prefix(prefix)
}

/// A directory's entries, sorted by name; none when it cannot be read.
fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = WalkDir::new(dir).min_depth(1).max_depth(1).sort_by_file_name();
    entries.into_iter().flatten().map(DirEntry::into_path).collect()
}

/// Everything of a kind below `dir`, sorted; links are not followed.
pub(crate) fn below(dir: &Path, wanted: impl Fn(FileType) -> bool) -> io::Result<Vec<PathBuf>> {
    let all = WalkDir::new(dir).min_depth(1).sort_by_file_name().into_iter();
    let found = all.filter(|entry| entry.as_ref().map_or(true, |entry| wanted(entry.file_type())));
    found.map(|entry| Ok(entry?.into_path())).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{fake, whole_file};
    use super::*;

    /// A directory with an image of `release` at each of `images`, and the empty files `others`.
    fn laid_out(images: &[(&str, &str)], others: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, bytes: &[u8]| whole_file::write(&dir.path().join(path), bytes).unwrap();
        images.iter().for_each(|(path, release)| write(path, &fake::bzimage(release, None)));
        others.iter().for_each(|path| write(path, b""));
        dir
    }

    #[test]
    fn image_modules_and_configuration_are_found_in_every_layout() {
        let two = [("boot/vmlinuz-6.1", "6.1"), ("boot/vmlinuz-6.2", "6.2")];
        let of_two = ["lib/modules/6.1/m.ko", "boot/config-6.2", "boot/config-6.1"];
        let (modules, usr) = ("lib/modules/6.1", "usr/lib/modules/6.1");
        let fedora = "usr/lib/modules/6.1/vmlinuz";
        // Images, other files, and what is found of image, modules and configuration; "" is nothing.
        type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str], [&'a str; 3]);
        let cases: [Case<'_>; 10] = [
            (&[("bzImage", "6.1")], &["lib/modules/6.1/m.ko", "config"], ["bzImage", modules, "config"]),
            (&[("vmlinuz", "6.1")], &[], ["vmlinuz", "", ""]),
            (&[("vmlinuz-6.1", "6.1")], &["config-6.1"], ["vmlinuz-6.1", "", "config-6.1"]),
            (&[("arch/x86/boot/bzImage", "6.1")], &[".config"], ["arch/x86/boot/bzImage", "", ".config"]),
            (&two[..1], &["boot/config-6.1", "usr/lib/modules/6.1/m.ko"], [two[0].0, usr, "boot/config-6.1"]),
            (&[(fedora, "6.1")], &["usr/lib/modules/6.1/config"], [fedora, usr, "usr/lib/modules/6.1/config"]),
            // Of several the one with modules, else the last.
            (&two, &of_two, [two[0].0, modules, "boot/config-6.1"]),
            (&two, &[], [two[1].0, "", ""]),
            // Modules of another release.
            (&[("bzImage", "6.1")], &["lib/modules/6.2/m.ko"], ["bzImage", "", ""]),
            (&[], &["lib/modules/6.1/m.ko"], ["", "", ""]),
        ];
        for (images, others, expected) in cases {
            let dir = laid_out(images, others);
            let found = match find(dir.path()) {
                Ok(tree) => [Some(tree.image), tree.modules, tree.config],
                Err(_) => [None, None, None],
            };
            let expected = expected.map(|path| (!path.is_empty()).then(|| dir.path().join(path)));
            assert_eq!(found, expected, "{images:?} {others:?}");
        }
    }

    #[test]
    fn what_belongs_to_an_image_is_found_from_it() {
        let others = ["lib/modules/6.1/m.ko", "boot/config-6.1", "src/.config"];
        let images = [("boot/vmlinuz-6.1", "6.1"), ("src/arch/x86/boot/bzImage", "6.3")];
        let dir = laid_out(&images, &others);
        let root = dir.path().canonicalize().unwrap();
        let installed = around(&root.join("boot/vmlinuz-6.1")).unwrap();
        assert_eq!(installed.modules, Some(root.join("lib/modules/6.1")));
        assert_eq!(installed.config, Some(root.join("boot/config-6.1")));
        let built = around(&root.join("src/arch/x86/boot/bzImage")).unwrap();
        assert_eq!((built.modules, built.config), (None, Some(root.join("src/.config"))));
    }
}
