//! tracefs, the file system in which the kernel shows its trace buffer, and `trace_pipe` in it.

use std::fs::File;
use std::io::{ErrorKind, Read as _};

use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;
use nix::sys::statfs::{TRACEFS_MAGIC, statfs};

use crate::error::{Error, MOUNT, OPEN_PIPE};

/// Where tracefs is: of its own, or, mounted by the kernel when somebody looks, in debugfs. libbpf knows the same two.
const PLACES: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Finds tracefs, or mounts it when asked to.
pub fn find_tracefs(may_mount: bool) -> Result<&'static str, Error> {
    let is_tracefs = |place: &&str| statfs(*place).is_ok_and(|fs| fs.filesystem_type() == TRACEFS_MAGIC);
    match PLACES.into_iter().find(is_tracefs) {
        Some(place) => Ok(place),
        None if !may_mount => Err(Error::TracefsNotMounted),
        None => mount(Some("tracefs"), PLACES[0], Some("tracefs"), MsFlags::empty(), None::<&str>)
            .map(|()| PLACES[0])
            .map_err(|errno| Error::errno(MOUNT, errno)),
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
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = open(format!("{tracefs}/trace_pipe").as_str(), flags, Mode::empty())
            .map_err(|errno| Error::errno(OPEN_PIPE, errno))?;
        let mut pipe = Self { file: file.into(), rest: Vec::new() };
        pipe.read()?;
        Ok(pipe)
    }

    /// Reads what is there, without waiting: the complete lines that are ours, or say that the kernel lost some.
    pub fn read(&mut self) -> Result<Vec<String>, Error> {
        // Not for ever: somebody else may keep the buffer full.
        let end = (&self.file).take(16 << 20).read_to_end(&mut self.rest);
        if let Some(error) = end.err().filter(|error| error.kind() != ErrorKind::WouldBlock) {
            return Err(Error::Other("read trace_pipe", error.to_string()));
        }
        let end = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |index| index + 1);
        let complete: Vec<u8> = self.rest.drain(..end).collect();
        let lines = String::from_utf8_lossy(&complete);
        let is_lost = |line: &str| line.starts_with("CPU:") && line.contains(" [LOST ");
        Ok(lines.lines().filter(|line| is_ours(line) || is_lost(line)).map(str::to_owned).collect())
    }
}

/// Whether the line is one of `bpf/helloworld.bpf.c`. The writer is called `0` before Linux 5.9.
fn is_ours(line: &str) -> bool {
    line.strip_suffix("invoke bpf_prog: Hello, World!")
        .is_some_and(|start| start.ends_with(": bpf_trace_printk: ") || start.ends_with(": 0: "))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const START: &str = "  trace-142     [000] ...21     3.017822: bpf_trace_printk: ";
    const HELLO: &str = "invoke bpf_prog: Hello, World!";

    #[test]
    fn lines_of_this_program_are_told_from_others() {
        for (start, ours) in [
            (START, true),
            ("  <...>-77    [000] ....     1.532172: 0: ", true),
            ("  bash-5       [001] ...21  1.5: tracing_mark_write: ", false),
            ("", false),
        ] {
            let line = format!("{start}{HELLO}");
            assert_eq!(is_ours(&line), ours, "{line}");
            assert!(!is_ours(&format!("{line}!")));
        }
    }

    #[test]
    fn a_line_is_read_when_its_end_is_there_and_what_is_not_for_us_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("trace_pipe");
        let mut writer = File::create(&path).unwrap();
        writeln!(writer, "{START}{HELLO}").unwrap();
        let mut pipe = TracePipe::open(directory.path().to_str().unwrap()).unwrap();
        let mut read_after = |written: &[u8]| {
            writer.write_all(written).unwrap();
            pipe.read().unwrap()
        };
        let (line, lost) = (format!("{START}{HELLO}"), "CPU:0 [LOST 3 EVENTS]");
        // Since 5.9 there is an empty line after each.
        assert_eq!(read_after(format!("{line}\n\n{START}").as_bytes()), [line.as_str()]);
        assert_eq!(read_after(format!("{HELLO}\n\n{lost}").as_bytes()), [line.as_str()]);
        assert_eq!(read_after(b"\nanother's\n"), [lost]);
        assert_eq!(read_after(b"\xff"), [""; 0]);
        assert_eq!(read_after(format!("{line}\n").as_bytes()), [format!("\u{fffd}{line}")]);
        assert!(read_after(b"").is_empty());
    }
}
