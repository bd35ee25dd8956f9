//! A directory of the guest's, sent to the host.

use std::io::{self, BufWriter, Write};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use vmtest_agent::Event;

use crate::channel::Channel;

/// How much goes into one message, in bytes.
const PIECE: usize = 48 * 1024;

/// Sends it as a tar archive, with links as links; what is not there is an empty archive.
pub fn send(directory: &str, channel: &mut Channel) -> Result<()> {
    let mut archive = tar::Builder::new(BufWriter::with_capacity(PIECE, Pieces(channel)));
    archive.follow_symlinks(false);
    archive.sparse(false);
    let name = directory.trim_matches('/');
    let packed = match std::fs::symlink_metadata(directory) {
        Ok(_) => archive.append_dir_all(if name.is_empty() { "." } else { name }, directory),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    packed
        .and_then(|()| archive.into_inner()?.flush())
        .with_context(|| format!("cannot send {directory}"))
}

struct Pieces<'a>(&'a mut Channel);

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(PIECE)];
        self.0.send(Event::Archive(STANDARD.encode(piece))).map_err(io::Error::other)?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
