//! What is brought into a guest: files, as one tar archive.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};

/// Files for the guest: path below its root directory to path on the host.
#[derive(Debug, Clone, Default)]
pub struct Payload {
    /// In the order in which they are packed.
    pub files: BTreeMap<String, PathBuf>,
}

impl Payload {
    /// Writes the payload as a tar archive and returns its length in bytes.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn write_tar(&self, out: impl Write) -> Result<u64> {
        let mut counted = Counted { inner: out, bytes: 0 };
        {
            let mut archive = tar::Builder::new(&mut counted);
            archive.mode(tar::HeaderMode::Deterministic);
            // The linker's alignment leaves holes in programs; the agent reads no sparse entries.
            archive.sparse(false);
            for (name, from) in &self.files {
                archive.append_path_with_name(from, name).with_context(|| format!("cannot pack {}", from.display()))?;
            }
            archive.finish().context("cannot pack the payload")?;
        }
        Ok(counted.bytes)
    }
}

struct Counted<W> {
    inner: W,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(data)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}
