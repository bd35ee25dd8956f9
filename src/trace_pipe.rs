//! tracefs, the file system in which the kernel shows its trace buffer, and `trace_pipe` in it. What is read there is
//! gone from the buffer.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{TRACEFS_MAGIC, statfs};

use crate::error::{Error, Step};

/// Where tracefs is, in the order of preference: of its own, or, mounted by the kernel when somebody looks, in debugfs.
/// libbpf knows the same two.
pub const PLACES: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// A mounted tracefs.
pub struct Tracefs(&'static Path);

impl Tracefs {
    /// Finds it, or mounts it at the first of the [`PLACES`] when asked to.
    pub fn find(may_mount: bool) -> Result<Self, Error> {
        let is_tracefs =
            |place: &&str| statfs(*place).is_ok_and(|fs| fs.filesystem_type() == TRACEFS_MAGIC);
        if let Some(place) = PLACES.into_iter().find(is_tracefs) {
            return Ok(Self(Path::new(place)));
        }
        if !may_mount {
            return Err(Error::TracefsNotMounted);
        }
        mount(Some("tracefs"), PLACES[0], Some("tracefs"), MsFlags::empty(), None::<&str>)
            .map_err(|errno| Error::kernel(Step::Mount, errno))?;
        Ok(Self(Path::new(PLACES[0])))
    }

    /// The file that the lines are read from.
    pub fn trace_pipe(&self) -> PathBuf {
        self.0.join("trace_pipe")
    }

    /// The file that turns writing to the buffer on and off.
    pub fn switch(&self) -> PathBuf {
        self.0.join("tracing_on")
    }

    /// Whether the kernel is writing to the buffer; when it cannot be told, it is.
    pub fn is_on(&self) -> bool {
        std::fs::read(self.switch()).map_or(true, |value| !value.starts_with(b"0"))
    }
}

/// More than the kernel gives at once, which is a page.
const CHUNK: usize = 16 * 1024;

/// How long it may take to empty the buffer: somebody else may keep it full.
const LIMIT: Duration = Duration::from_secs(1);

/// An open `trace_pipe`. It becomes readable, in the sense of poll(2), when there are lines.
pub struct TracePipe {
    file: File,
    /// The beginning of a line whose end was not read yet.
    rest: Vec<u8>,
}

impl TracePipe {
    /// Opens the file, and empties the buffer of what was left from before, which may be lines of an earlier run.
    /// Since 6.6, and in late releases of older series, the kernel refuses a second reader.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path);
        let errno = |error: io::Error| Errno::from_raw(error.raw_os_error().unwrap_or_default());
        let file = file.map_err(|error| Error::kernel(Step::OpenPipe(path), errno(error)))?;
        let mut pipe = Self { file, rest: Vec::new() };
        pipe.read_all()?;
        Ok(pipe)
    }

    /// Reads once, without waiting: the lines that are complete; none when the buffer is empty.
    ///
    /// The kernel ends a record of `bpf_printk` with a line feed only since 5.9. The format has one of its own, and the
    /// empty lines that this makes on newer kernels are left out.
    pub fn read(&mut self) -> Result<Option<Vec<String>>, Error> {
        let mut chunk = [0; CHUNK];
        match self.file.read(&mut chunk) {
            // While `tracing_on` is 0.
            Ok(0) => return Ok(None),
            Ok(length) => self.rest.extend_from_slice(&chunk[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::other("read trace_pipe", error)),
        }
        let end = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |index| index + 1);
        let complete: Vec<u8> = self.rest.drain(..end).collect();
        let lines = String::from_utf8_lossy(&complete).into_owned();
        Ok(Some(lines.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()))
    }

    /// Reads until the buffer is empty.
    pub fn read_all(&mut self) -> Result<Vec<String>, Error> {
        let end = Instant::now() + LIMIT;
        let mut all = Vec::new();
        while let Some(lines) = self.read()? {
            all.extend(lines);
            if Instant::now() >= end {
                break;
            }
        }
        Ok(all)
    }
}

impl AsFd for TracePipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_line_is_read_when_its_end_is_there_and_empty_ones_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("trace_pipe");
        let mut writer = File::create(&path).unwrap();
        writer.write_all(b"from before\n").unwrap();
        let mut pipe = TracePipe::open(&path).unwrap();
        for (written, lines) in [
            (&b"one\n\ntw"[..], &["one"][..]),
            (b"o\n\n", &["two"]),
            (b"\nth\xffree\n", &["th\u{fffd}ree"]),
        ] {
            writer.write_all(written).unwrap();
            assert_eq!(pipe.read_all().unwrap(), lines);
        }
        assert!(pipe.read().unwrap().is_none());
    }
}
