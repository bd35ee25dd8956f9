//! What is brought into a guest: files, as one tar archive.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Seek;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Files for the guest: path below its root directory to path on the host.
#[derive(Debug, Clone, Default)]
pub struct Payload {
    /// In the order in which they are packed.
    pub files: BTreeMap<String, PathBuf>,
}

impl Payload {
    /// Writes the payload as a tar archive into an empty file and returns its length in bytes.
    pub fn write_tar(&self, out: &mut File) -> Result<u64> {
        let mut archive = tar::Builder::new(&mut *out);
        archive.mode(tar::HeaderMode::Deterministic);
        // The linker's alignment leaves holes in programs; the agent reads no sparse entries.
        archive.sparse(false);
        for (name, from) in &self.files {
            archive.append_path_with_name(from, name).with_context(|| format!("cannot pack {}", from.display()))?;
        }
        archive.into_inner().and_then(|out| out.stream_position()).context("cannot pack the payload")
    }

    /// Puts it into a guest's root directory, and says where it is.
    pub fn stage(&self, root: &Path) -> Result<vmtest_agent::Payload> {
        const NAME: &str = "payload.tar";
        let path = root.join(NAME);
        let mut file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        self.write_tar(&mut file)?;
        Ok(vmtest_agent::Payload::Archive(format!("/{NAME}")))
    }
}
