//! Reading `trace_pipe`. What is read there is gone from the buffer.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::failure::{Failure, Kind};
use crate::trace_line::Splitter;

/// More than the kernel gives at once, which is a page.
const CHUNK: usize = 16 * 1024;

/// How long old records are thrown away before it is clear that somebody else keeps the buffer full.
const DISCARD_LIMIT: Duration = Duration::from_secs(1);

/// An open `trace_pipe`. It becomes readable, in the sense of poll(2), when there are records.
#[derive(Debug)]
pub struct TracePipe {
    file: File,
    splitter: Splitter,
}

impl TracePipe {
    /// Opens the file.
    ///
    /// # Errors
    ///
    /// When another process has it open, which the kernel refuses since 6.6, and for every other reason for which a
    /// file cannot be opened.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let file = File::options()
            .read(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(path)
            .map_err(|error| open_failure(path, &error))?;
        Ok(Self { file, splitter: Splitter::default() })
    }

    /// Takes the records that are there now, without waiting.
    ///
    /// # Errors
    ///
    /// When reading fails.
    pub fn take(&mut self) -> io::Result<Vec<String>> {
        let mut records = Vec::new();
        while let Some(bytes) = self.read()? {
            records.extend(self.splitter.push(&bytes));
        }
        Ok(records)
    }

    /// Throws away the records that are there now.
    ///
    /// # Errors
    ///
    /// When reading fails.
    pub fn discard(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + DISCARD_LIMIT;
        while self.read()?.is_some() && Instant::now() < deadline {}
        self.splitter = Splitter::default();
        Ok(())
    }

    /// One read; none when the buffer is empty.
    fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut chunk = vec![0; CHUNK];
        match self.file.read(&mut chunk) {
            // Nothing, while `tracing_on` is 0.
            Ok(0) => Ok(None),
            Ok(length) => {
                chunk.truncate(length);
                Ok(Some(chunk))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Some(Vec::new())),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for TracePipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn open_failure(path: &Path, error: &io::Error) -> Failure {
    if error.raw_os_error() == Some(Errno::EBUSY as i32) {
        return Failure::new(
            Kind::TracePipeBusy,
            format!(
                "another process reads {0}, and only one can; end it (`fuser -v {0}` names it), or leave out --follow \
                 and read there",
                path.display()
            ),
        );
    }
    Failure::other(format!("cannot open {}", path.display()), error)
}
