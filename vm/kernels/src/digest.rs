//! Hashes.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A hash in lower-case hexadecimal of `BYTES` bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
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
}

impl<const BYTES: usize> TryFrom<String> for Hex<BYTES> {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let digits = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if digits && text.len() == 2 * BYTES {
            return Ok(Self(text));
        }
        let (expected, found) = (2 * BYTES, text.chars().count());
        Err(format!("expected {expected} lower-case hexadecimal digits, found {text:?} ({found} characters)"))
    }
}

impl<const BYTES: usize> fmt::Display for Hex<BYTES> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A file's SHA-256.
pub fn sha256_file(path: &Path) -> io::Result<Sha256Hex> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(Hex(hex::encode(hash.finalize()))),
            Ok(count) => hash.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The SHA-256 of bytes in memory.
pub fn sha256(bytes: &[u8]) -> Sha256Hex {
    Hex(hex::encode(Sha256::digest(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_hashes() {
        // FIPS 180 example: the message "abc".
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "abc").unwrap();
        let found = sha256_file(file.path()).unwrap();
        assert_eq!(found.as_str(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(sha256(b"abc"), found);
    }
}
