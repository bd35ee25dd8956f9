//! What is brought into a guest: files, as one tar archive.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Seek;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use vmtest_agent::Payload;

/// Files for a guest, in the order in which they are packed: path below its root directory to path on the host.
pub type Files = BTreeMap<String, PathBuf>;

/// Writes them as an archive into an empty file and returns its length in bytes.
pub fn write_tar(files: &Files, out: &mut File) -> Result<u64> {
    let mut archive = tar::Builder::new(&mut *out);
    archive.mode(tar::HeaderMode::Deterministic);
    // The linker's alignment leaves holes in programs; the agent reads no sparse entries.
    archive.sparse(false);
    for (name, from) in files {
        archive.append_path_with_name(from, name).with_context(|| format!("cannot pack {}", from.display()))?;
    }
    archive.into_inner().and_then(|out| out.stream_position()).context("cannot pack the payload")
}

/// Puts them into a guest's root directory.
pub fn stage(files: &Files, root: &Path) -> Result<Payload> {
    const NAME: &str = "payload.tar";
    let path = root.join(NAME);
    let mut file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    write_tar(files, &mut file)?;
    Ok(Payload::Archive(format!("/{NAME}")))
}
