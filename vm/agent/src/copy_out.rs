//! A directory of the guest's, sent to the host.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use vmtest_agent::{Event, PIECE, Piece};

use crate::channel::Channel;
use crate::mounts;

/// Sends it as a tar archive: files, and links as links, without what else is mounted in it, as the host's directories
/// are. What is not there is an empty archive.
pub fn send(directory: &str, channel: &mut Channel) -> Result<()> {
    let mut archive = tar::Builder::new(BufWriter::with_capacity(PIECE, Pieces(channel)));
    archive.follow_symlinks(false);
    archive.sparse(false);
    pack(Path::new(directory), &mut archive)
        .and_then(|()| archive.into_inner()?.flush())
        .with_context(|| format!("cannot send {directory}"))
}

fn pack(directory: &Path, archive: &mut tar::Builder<impl Write>) -> io::Result<()> {
    // Not by their devices: in an overlay a directory and a file in it may have two.
    let mounts = mounts::places()?;
    let directory = match directory.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        directory => directory?,
    };
    let mut left = vec![directory.clone()];
    while let Some(path) = left.pop() {
        if path != directory && mounts.contains(&path) {
            continue;
        }
        let metadata = fs::symlink_metadata(&path)?;
        if metadata.is_dir() {
            for entry in fs::read_dir(&path)? {
                left.push(entry?.path());
            }
        } else if metadata.is_file() || metadata.is_symlink() {
            archive.append_path_with_name(&path, path.strip_prefix("/").unwrap_or(&path))?;
        }
    }
    Ok(())
}

struct Pieces<'a>(&'a mut Channel);

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(PIECE);
        self.0.send(Event::Archive(Piece(bytes[..count].to_vec()))).map_err(io::Error::other)?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
