//! tracefs, the file system in which the kernel shows its trace buffer, and `trace_pipe` in it.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{TRACEFS_MAGIC, statfs};

use crate::environment::Environment;
use crate::error::{Error, MOUNT, OPEN_PIPE};

/// Where tracefs is: of its own, or, mounted by the kernel when somebody looks, in debugfs. libbpf knows the same two.
pub const PLACES: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Finds tracefs, or mounts it when asked to.
pub fn find_tracefs(may_mount: bool) -> Result<&'static str, Error> {
    let is_tracefs = |place: &&str| statfs(*place).is_ok_and(|fs| fs.filesystem_type() == TRACEFS_MAGIC);
    match PLACES.into_iter().find(is_tracefs) {
        Some(place) => Ok(place),
        None if !may_mount => Err(Error::TracefsNotMounted),
        None => mount(Some("tracefs"), PLACES[0], Some("tracefs"), MsFlags::empty(), None::<&str>)
            .map(|()| PLACES[0])
            .map_err(|errno| Error::explain(MOUNT, errno, &Environment::observe())),
    }
}

/// An open `trace_pipe`. What is read there is gone from the buffer.
pub struct TracePipe {
    /// Becomes readable, in the sense of poll(2), when there are lines.
    pub file: File,
    /// The beginning of a line whose end was not read yet.
    rest: Vec<u8>,
}

impl TracePipe {
    /// Opens it, and empties the buffer of what was left from before, which may be lines of an earlier run. Since 6.6,
    /// and in late releases of older series, the kernel refuses a second reader.
    pub fn open(tracefs: &str) -> Result<Self, Error> {
        let mut options = File::options();
        options.read(true).custom_flags(OFlag::O_NONBLOCK.bits());
        let file = options.open(format!("{tracefs}/trace_pipe")).map_err(|error| {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
            Error::explain(OPEN_PIPE, errno, &Environment::observe())
        })?;
        let mut pipe = Self { file, rest: Vec::new() };
        pipe.read()?;
        Ok(pipe)
    }

    /// Reads what is there, without waiting: the lines that are complete.
    pub fn read(&mut self) -> Result<Vec<String>, Error> {
        // Not for ever: somebody else may keep the buffer full.
        let end = (&self.file).take(16 << 20).read_to_end(&mut self.rest);
        if let Some(error) = end.err().filter(|error| error.kind() != ErrorKind::WouldBlock) {
            return Err(Error::other("read trace_pipe", error));
        }
        let end = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |index| index + 1);
        let complete: Vec<u8> = self.rest.drain(..end).collect();
        let lines = String::from_utf8_lossy(&complete);
        // Since 5.9 the kernel ends a line that has an end of its own, and makes an empty one.
        Ok(lines.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_line_is_read_when_its_end_is_there_and_empty_ones_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("trace_pipe");
        let mut writer = File::create(&path).unwrap();
        writer.write_all(b"from before\n").unwrap();
        let mut pipe = TracePipe::open(directory.path().to_str().unwrap()).unwrap();
        for (written, lines) in
            [(&b"one\n\ntw"[..], &["one"][..]), (b"o\n\n", &["two"]), (b"\nth\xffree\n", &["th\u{fffd}ree"])]
        {
            writer.write_all(written).unwrap();
            assert_eq!(pipe.read().unwrap(), lines);
        }
        assert!(pipe.read().unwrap().is_empty());
    }
}
