//! `SHA256SUMS`: every file of an entry with its hash, as sha256sum(1) reads it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::{MANIFEST, TREE};
use crate::digest::{self, Sha256Hex};
use crate::tree;

const SUMS: &str = "SHA256SUMS";

/// Writes the list for the entry in `staging`; returns the bytes in all files and the hash of the list.
pub fn write(staging: &Path) -> Result<(u64, Sha256Hex)> {
    let (mut text, mut size) = (String::new(), 0);
    for file in tree::below(&staging.join(TREE), |kind| kind.is_file())? {
        let path = file.strip_prefix(staging)?.to_str().context("a name that is not UTF-8")?;
        text += &format!("{}  {path}\n", digest::sha256_file(&file)?);
        size += file.metadata()?.len();
    }
    std::fs::write(staging.join(SUMS), &text)?;
    Ok((size, digest::sha256(text.as_bytes())))
}

/// Whether the entry in `dir` has the file `relative` with this hash.
pub fn contains(dir: &Path, relative: &Path, hash: &Sha256Hex) -> Result<bool> {
    let sums = std::fs::read(dir.join(SUMS)).with_context(|| format!("cannot read {SUMS}"))?;
    let line = format!("{hash}  {}\n", relative.display());
    Ok(memchr::memmem::find(&sums, line.as_bytes()).is_some())
}

/// The files below `dir`, relative to it, each with its SHA-256, if `dir` is in an entry of the cache.
pub fn listing(dir: &Path) -> Result<Option<Vec<(PathBuf, String)>>> {
    let Some(entry) = dir.ancestors().find(|dir| dir.join(MANIFEST).is_file()) else {
        return Ok(None);
    };
    let path = entry.join(SUMS);
    let sums = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let prefix = format!("{}/", dir.strip_prefix(entry)?.display());
    let file = |line: &str| {
        let (hash, path) = line.split_once("  ")?;
        Some((PathBuf::from(path.strip_prefix(&prefix)?), hash.to_owned()))
    };
    Ok(Some(sums.lines().filter_map(file).collect()))
}

/// Hashes every file again; returns how many there are.
///
/// # Errors
///
/// Names what is missing, changed, or should not be there.
pub fn verify(dir: &Path, sums_sha256: &Sha256Hex) -> Result<usize> {
    let text = std::fs::read(dir.join(SUMS)).with_context(|| format!("cannot read {SUMS}"))?;
    ensure!(digest::sha256(&text) == *sums_sha256, "{SUMS} is not what was written");
    let listed = String::from_utf8(text)?;
    let listed: BTreeMap<&str, &str> =
        listed.lines().filter_map(|line| line.split_once("  ")).map(|(h, p)| (p, h)).collect();
    let files = tree::below(&dir.join(TREE), |kind| kind.is_file())?;
    let mut wrong = Vec::new();
    for path in &files {
        let name = path.strip_prefix(dir)?.to_string_lossy().into_owned();
        match (listed.get(name.as_str()), digest::sha256_file(path)) {
            (Some(pinned), Ok(found)) if *pinned == found.as_str() => {}
            (Some(_), Ok(_)) => wrong.push(format!("{name} is not what was unpacked")),
            (None, _) => wrong.push(format!("{name} should not be there")),
            (_, Err(error)) => wrong.push(format!("{name}: {error}")),
        }
    }
    let lost = listed.keys().find(|name| !dir.join(name).is_file());
    wrong.extend(lost.map(|name| format!("{name} is gone")));
    match wrong.as_slice() {
        [] => Ok(files.len()),
        [one] => bail!("{one}"),
        [first, others @ ..] => bail!("{first}, and {} more", others.len()),
    }
}
