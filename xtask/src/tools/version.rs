//! Asking a program for its version, and remembering the answer as long as the program stays the same.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use serde::{Deserialize, Serialize};

use super::Probe;
use crate::paths;
use crate::vm::process::{Guarded, GuardedCommand};
use vm_kernels::whole_file;

/// How long a program may take to say its version.
const DEADLINE: Duration = Duration::from_secs(20);
/// How much it may print.
const OUTPUT_LIMIT: u64 = 64 * 1024;
/// How much of what it printed is shown, in characters.
const SHOWN: usize = 100;

/// Why a program's version is not known.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// It printed something else: this.
    Nonsense(String),
    /// It could not be asked.
    Failed(String),
}

/// The program's version, such as `7.2.22`.
pub fn ask(path: &Path, probe: &Probe) -> Result<String, Asked> {
    let memory = paths::target().join("vmtest/versions.json");
    let stamp = stamp(path);
    let mut remembered = recall(&memory);
    if let (Some(known), Some(stamp)) = (remembered.get(path), &stamp) {
        if known.stamp == *stamp {
            return Ok(known.version.clone());
        }
    }
    let (status, printed) = run(path, probe.argument).map_err(Asked::Failed)?;
    let version = match parse(&printed, probe.before) {
        Some(version) if status.success() => version,
        _ => return Err(Asked::Nonsense(telling_line(&printed, status))),
    };
    if let Some(stamp) = stamp {
        remembered.insert(path.to_owned(), Known { stamp, version: version.clone() });
        remember(&memory, &remembered);
    }
    Ok(version)
}

/// Whether a version is not below another; numbers are compared as numbers.
pub fn at_least(version: &str, minimum: &str) -> bool {
    let numbers = |text: &str| -> Vec<u64> {
        text.split('.').map(|number| number.parse().unwrap_or(0)).collect()
    };
    numbers(version) >= numbers(minimum)
}

/// The number after `before`, of digits and points.
fn parse(printed: &str, before: &str) -> Option<String> {
    let (_, after) = printed.split_once(before)?;
    let end = after.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(after.len());
    let version = after[..end].trim_matches('.');
    (!version.is_empty()).then(|| version.to_owned())
}

/// The line that says most: the first, or the last of a program that failed (a Python traceback ends with the error).
fn telling_line(printed: &str, status: ExitStatus) -> String {
    let mut lines = printed.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = if status.success() { lines.next() } else { lines.next_back() };
    match line {
        Some(line) => line.chars().take(SHOWN).collect(),
        None if status.success() => String::new(),
        None => status.to_string(),
    }
}

fn run(path: &Path, argument: &str) -> Result<(ExitStatus, String), String> {
    let start = || -> anyhow::Result<(Guarded, File)> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
        let mut command = GuardedCommand::new(path)?;
        command.arg(argument).stdin(Stdio::null());
        command.stdout(writer.try_clone()?).stderr(writer);
        Ok((Guarded::spawn(command)?, reader.into()))
    };
    let (program, reader) = start().map_err(|error| error.root_cause().to_string())?;
    let (sender, output) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = reader.take(OUTPUT_LIMIT).read_to_end(&mut bytes);
        let _ = sender.send(bytes);
    });
    let took_too_long = || format!("asked for its version it did not answer in {DEADLINE:?}");
    let bytes = output.recv_timeout(DEADLINE).map_err(|_| took_too_long())?;
    let status = program.wait_timeout(DEADLINE).map_err(|error| format!("{error:#}"))?;
    Ok((status.ok_or_else(took_too_long)?, String::from_utf8_lossy(&bytes).into_owned()))
}

/// What was learned of a program, by its path.
type Memory = BTreeMap<PathBuf, Known>;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    stamp: String,
    version: String,
}

/// What changes when a program does: the file, and for a script also its interpreter.
fn stamp(path: &Path) -> Option<String> {
    let mut stamp = file_stamp(path)?;
    let mut start = [0; 256];
    let length = fs::File::open(path).ok()?.read(&mut start).ok()?;
    if let Some(line) = start[..length].strip_prefix(b"#!") {
        let line = String::from_utf8_lossy(line.split(|&byte| byte == b'\n').next()?).into_owned();
        stamp += &file_stamp(Path::new(line.split_ascii_whitespace().next()?))?;
    }
    Some(stamp)
}

fn file_stamp(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    let file = path.metadata().ok()?;
    let changed = (file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec());
    Some(format!("{} {} {} {changed:?};", path.display(), file.ino(), file.len()))
}

fn recall(memory: &Path) -> Memory {
    fs::read(memory).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// Only spares the next run a question, so failing to write it is no error.
fn remember(memory: &Path, known: &Memory) {
    if let Ok(json) = serde_json::to_vec(known) {
        let _ = whole_file::write(memory, &json);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn real_version_lines_are_read() {
        let qemu = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright";
        assert_eq!(parse(qemu, "QEMU emulator version ").as_deref(), Some("7.2.22"));
        assert_eq!(parse("virtme-ng 1.42\n", "virtme-ng ").as_deref(), Some("1.42"));
        assert_eq!(parse("virtme-ng 1.42+3.g1f2e", "virtme-ng ").as_deref(), Some("1.42"));
        let clang = "Debian clang version 14.0.6\nTarget: x86_64-pc-linux-gnu";
        assert_eq!(parse(clang, "clang version ").as_deref(), Some("14.0.6"));
        assert_eq!(parse("Python 3.13.0rc1", "Python ").as_deref(), Some("3.13.0"));
        assert_eq!(parse("vng: hello", "virtme-ng "), None);
        assert_eq!(parse("virtme-ng devel", "virtme-ng "), None);
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(at_least("1.42", "1.42"));
        assert!(at_least("1.100", "1.42"));
        assert!(at_least("2", "1.42"));
        assert!(at_least("7.2.22", "6.0"));
        assert!(!at_least("1.9", "1.42"));
        assert!(!at_least("1", "1.42"));
    }

    #[test]
    fn the_telling_line_of_a_traceback_is_the_last() {
        let traceback = "Traceback (most recent call last):\n  File \"vng\"\nModuleNotFoundError: No module\n\n";
        let status = |code: i32| ExitStatus::from_raw(code << 8);
        assert_eq!(telling_line(traceback, status(1)), "ModuleNotFoundError: No module");
        assert_eq!(telling_line("first\nsecond", status(0)), "first");
        assert_eq!(telling_line("\n", status(3)), "exit status: 3");
        assert_eq!(telling_line(&"é".repeat(1000), status(0)).chars().count(), SHOWN);
    }
}
