//! `SHA256SUMS`: every file of an entry with its hash, as sha256sum(1) reads it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::digest::{self, Sha256Hex};
use crate::tree;

/// What of an entry is in the list.
pub const TREE: &str = "tree";
const SUMS: &str = "SHA256SUMS";

/// The files of an entry, relative to it, each with its SHA-256.
pub type Sums = BTreeMap<PathBuf, String>;

/// Writes the list for the entry in `staging`; returns the bytes in all files and the hash of the list.
pub fn write(staging: &Path) -> Result<(u64, Sha256Hex)> {
    let (mut text, mut size) = (String::new(), 0);
    for (path, hash) in compute(staging)? {
        text += &format!("{hash}  {}\n", path.to_str().context("a name that is not UTF-8")?);
        size += staging.join(path).metadata()?.len();
    }
    fs_err::write(staging.join(SUMS), &text)?;
    Ok((size, digest::sha256(text.as_bytes())))
}

/// The list of the entry in `dir`, if it is the one with this hash.
pub fn read_checked(dir: &Path, sums_sha256: &Sha256Hex) -> Result<Sums> {
    let text = read(dir)?;
    ensure!(digest::sha256(&text) == *sums_sha256, "{SUMS} is not what was written");
    parse(&text)
}

pub fn read(dir: &Path) -> Result<Vec<u8>> {
    let path = dir.join(SUMS);
    std::fs::read(&path).with_context(unreadable(&path))
}

pub fn parse(text: &[u8]) -> Result<Sums> {
    let text = std::str::from_utf8(text).with_context(|| format!("{SUMS} is damaged"))?;
    let file = |line: &str| line.split_once("  ").map(|(hash, path)| (path.into(), hash.to_owned()));
    Ok(text.lines().filter_map(file).collect())
}

/// Hashes every file again; returns how many there are. Names what is missing, changed, or should not be there.
pub fn verify(dir: &Path, sums_sha256: &Sha256Hex) -> Result<usize> {
    let (listed, found) = (read_checked(dir, sums_sha256)?, compute(dir)?);
    let mut wrong = Vec::new();
    for (path, hash) in &found {
        match listed.get(path) {
            Some(pinned) if pinned == hash => {}
            Some(_) => wrong.push(format!("{} is not what was unpacked", path.display())),
            None => wrong.push(format!("{} should not be there", path.display())),
        }
    }
    let lost = listed.keys().filter(|path| !found.contains_key(*path));
    wrong.extend(lost.map(|path| format!("{} is gone", path.display())));
    match wrong.as_slice() {
        [] => Ok(found.len()),
        [one] => bail!("{one}"),
        [first, others @ ..] => bail!("{first}, and {} more", others.len()),
    }
}

fn compute(dir: &Path) -> Result<Sums> {
    let mut sums = Sums::new();
    for file in tree::below(&dir.join(TREE), |kind| kind.is_file())? {
        let hash = digest::sha256_file(&file).with_context(unreadable(&file))?;
        sums.insert(file.strip_prefix(dir)?.to_owned(), hash.to_string());
    }
    Ok(sums)
}

pub fn unreadable(path: &Path) -> impl Fn() -> String {
    move || format!("cannot read {}", path.display())
}
