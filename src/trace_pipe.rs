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

/// How long it may take to empty the buffer.
const LIMIT: Duration = Duration::from_secs(1);

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

    /// Reads once, without waiting: the records that are complete, or none when the buffer is empty.
    ///
    /// # Errors
    ///
    /// When reading fails.
    pub fn read(&mut self) -> io::Result<Option<Vec<String>>> {
        let mut chunk = [0; CHUNK];
        match self.file.read(&mut chunk) {
            // Nothing, while `tracing_on` is 0.
            Ok(0) => Ok(None),
            Ok(length) => Ok(Some(self.splitter.push(&chunk[..length]))),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => Ok(None),
                io::ErrorKind::Interrupted => Ok(Some(Vec::new())),
                _ => Err(error),
            },
        }
    }

    /// Reads until the buffer is empty, but not for ever: somebody else may keep it full.
    ///
    /// # Errors
    ///
    /// When reading fails.
    pub fn read_rest(&mut self) -> io::Result<Vec<String>> {
        let end = Instant::now() + LIMIT;
        let mut rest = Vec::new();
        while let Some(records) = self.read()? {
            rest.extend(records);
            if Instant::now() >= end {
                break;
            }
        }
        Ok(rest)
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
