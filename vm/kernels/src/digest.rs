//! Hashes: which ones a pin states, and what a file's are.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// A hash in lower-case hexadecimal of `BYTES` bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Hex<const BYTES: usize>(String);

/// A SHA-256.
pub type Sha256Hex = Hex<32>;
/// A SHA-1: too weak to pin anything, and the name of a file in Debian's permanent archive.
pub type Sha1Hex = Hex<20>;

impl<const BYTES: usize> Hex<BYTES> {
    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn of(bytes: &[u8]) -> Self {
        Self(hex::encode(bytes))
    }
}

impl<const BYTES: usize> std::str::FromStr for Hex<BYTES> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if digits && text.len() == 2 * BYTES {
            return Ok(Self(text.to_owned()));
        }
        Err(format!(
            "expected {} lower-case hexadecimal digits, found {text:?} ({} characters)",
            2 * BYTES,
            text.chars().count()
        ))
    }
}

impl<'de, const BYTES: usize> Deserialize<'de> for Hex<BYTES> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl<const BYTES: usize> fmt::Display for Hex<BYTES> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The hashes that a pin states of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinned {
    /// Decides.
    pub sha256: Sha256Hex,
    /// Is checked as well, where it is stated.
    pub sha1: Option<Sha1Hex>,
}

impl Pinned {
    /// Says how `found` differs from what is pinned, if it does.
    pub fn mismatch(&self, found: &Measured) -> Option<String> {
        if self.sha256 != found.sha256 {
            return Some(format!("has SHA-256 {}, pinned is {}", found.sha256, self.sha256));
        }
        let sha1 = self.sha1.as_ref().filter(|pinned| **pinned != found.sha1);
        sha1.map(|pinned| format!("has SHA-1 {}, pinned is {pinned}", found.sha1))
    }
}

/// What a file turned out to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// Its SHA-256.
    pub sha256: Sha256Hex,
    /// Its SHA-1.
    pub sha1: Sha1Hex,
    /// Its size in bytes.
    pub size: u64,
}

/// Hashes a whole file with both functions.
pub fn measure(path: &Path) -> io::Result<Measured> {
    let (mut sha256, mut sha1, mut size) = (Sha256::new(), Sha1::new(), 0);
    each_chunk(path, |chunk| {
        sha256.update(chunk);
        sha1.update(chunk);
        size += chunk.len() as u64;
    })?;
    Ok(Measured { sha256: Hex::of(&sha256.finalize()), sha1: Hex::of(&sha1.finalize()), size })
}

/// A file's SHA-256.
pub fn sha256_file(path: &Path) -> io::Result<Sha256Hex> {
    let mut hash = Sha256::new();
    each_chunk(path, |chunk| hash.update(chunk))?;
    Ok(Hex::of(&hash.finalize()))
}

/// The SHA-256 of bytes in memory.
pub fn sha256(bytes: &[u8]) -> Sha256Hex {
    Hex::of(&Sha256::digest(bytes))
}

fn each_chunk(path: &Path, mut use_chunk: impl FnMut(&[u8])) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => use_chunk(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn known_hashes() {
        // FIPS 180 example: the message "abc".
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        let found = measure(&path).unwrap();
        assert_eq!(found.sha1.as_str(), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(found.sha256.as_str(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(found.size, 3);
        assert_eq!(sha256_file(&path).unwrap(), found.sha256);
        assert_eq!(sha256(b"abc"), found.sha256);
    }

    #[test]
    fn what_is_no_hash_is_refused() {
        assert!("ab".parse::<Sha1Hex>().unwrap_err().contains("40 lower-case hexadecimal digits"));
        let upper = "A9993E364706816ABA3E25717850C26C9CD0D89D";
        assert!(upper.parse::<Sha1Hex>().is_err());
        assert!(upper.to_lowercase().parse::<Sha1Hex>().is_ok());
    }

    #[test]
    fn a_pinned_hash_of_either_kind_must_fit() {
        let found = Measured { sha256: sha256(b"a"), sha1: Hex::of(&Sha1::digest(b"a")), size: 1 };
        let other_sha1 = Hex::of(&Sha1::digest(b"b"));
        let pinned = |sha256, sha1| Pinned { sha256, sha1 };
        let good = pinned(found.sha256.clone(), Some(found.sha1.clone()));
        assert_eq!(good.mismatch(&found), None);
        assert!(pinned(sha256(b"b"), None).mismatch(&found).unwrap().contains("SHA-256"));
        let half = pinned(found.sha256.clone(), Some(other_sha1));
        assert!(half.mismatch(&found).unwrap().contains("SHA-1"));
    }
}
