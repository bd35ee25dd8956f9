//! The guest's console: kept in a file, and read for what the kernel complains of.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

/// How much of a console is kept in its file, in bytes.
const FILE_LIMIT: u64 = 16 * 1024 * 1024;
/// How much of one line is looked at, in bytes.
const LINE_LIMIT: usize = 4096;
/// How many of the last lines are remembered.
const TAIL: usize = 40;
/// How many lines that belong to a complaint are remembered.
const COMPLAINT_LINES: usize = 30;

/// What kernels print when something is wrong (lib/bug.c, kernel/panic.c, kernel/rcu/tree_stall.h,
/// kernel/watchdog.c, kernel/hung_task.c, arch/x86/mm/fault.c, arch/x86/kernel/dumpstack.c).
const COMPLAINTS: &[&str] = &[
    "WARNING: CPU:",
    "BUG: ",
    "kernel BUG at",
    "Oops: ",
    // A program's own is followed by ` ip:` (arch/x86/kernel/traps.c).
    "general protection fault:",
    "general protection fault,",
    "INFO: rcu_",
    "rcu: INFO:",
    "INFO: task ",
    "watchdog: BUG: soft lockup",
    "possible circular locking dependency",
    "UBSAN:",
    "Internal error:",
];

/// Newer kernels (6.19 on) print `WARNING: file:line at function` without the CPU in front.
const WARNING_START: &str = "WARNING: ";
const WARNING_PLACE: &str = ".c:";

const PANIC: &str = "Kernel panic - not syncing";
const PANIC_END: &str = "---[ end Kernel panic";

/// Something on the console that decides the verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The kernel panicked, in its own words.
    Panic(String),
    /// The kernel has printed all it has to say of the panic.
    PanicEnd,
}

/// What is remembered of a console.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Console {
    /// The panic line.
    pub panic: Option<String>,
    /// The lines that begin a complaint.
    pub complaints: Vec<String>,
    /// The lines from the first complaint or the panic on.
    pub context: Vec<String>,
    /// The last lines.
    pub tail: Vec<String>,
    line: Vec<u8>,
}

impl Console {
    /// Takes what was read next; calls `on` for what must be acted on at once.
    pub fn feed(&mut self, bytes: &[u8], mut on: impl FnMut(Notice)) {
        for &byte in bytes {
            if byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                self.end_of_line(String::from_utf8_lossy(&line).trim_end(), &mut on);
            } else if self.line.len() < LINE_LIMIT {
                self.line.push(byte);
            }
        }
    }

    /// The console is closed: what stands in an unfinished line counts too.
    pub fn finish(&mut self, on: impl FnMut(Notice)) {
        if !self.line.is_empty() {
            self.feed(b"\n", on);
        }
    }

    fn end_of_line(&mut self, line: &str, on: &mut impl FnMut(Notice)) {
        let text = without_stamp(line);
        if text.is_empty() {
            return;
        }
        if self.tail.len() == TAIL {
            self.tail.remove(0);
        }
        self.tail.push(text.to_owned());
        if let Some(at) = text.find(PANIC) {
            if self.panic.is_none() && !text.contains(PANIC_END) {
                self.panic = Some(text[at..].to_owned());
                self.context.clear();
                on(Notice::Panic(text[at..].to_owned()));
            }
        } else if is_complaint(text) && self.complaints.len() < COMPLAINT_LINES {
            self.complaints.push(text.to_owned());
        }
        let of_interest = self.panic.is_some() || !self.complaints.is_empty();
        if of_interest && self.context.len() < COMPLAINT_LINES {
            self.context.push(text.to_owned());
        }
        if text.contains(PANIC_END) {
            on(Notice::PanicEnd);
        }
    }
}

fn is_complaint(text: &str) -> bool {
    COMPLAINTS.iter().any(|complaint| contains_word(text, complaint))
        || (text.starts_with(WARNING_START) && text.contains(WARNING_PLACE))
}

/// Whether `words` stand in `text`, and not as the end of a longer word (`DEBUG: `).
fn contains_word(text: &str, words: &str) -> bool {
    let mut before = text.match_indices(words).map(|(at, _)| text[..at].chars().next_back());
    before.any(|before| !before.is_some_and(char::is_alphanumeric))
}

/// A kernel line without its `[   12.345678] ` or, with CONFIG_PRINTK_CALLER, `[ 12.3][ T1] `.
fn without_stamp(line: &str) -> &str {
    let mut rest = line.trim_matches(|c: char| c.is_control());
    while let Some((inside, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let is_stamp = inside.trim().chars().all(|c| c.is_ascii_digit() || ".TC ".contains(c));
        if !is_stamp {
            break;
        }
        rest = after.trim_start();
    }
    rest
}

/// Copies a console to a file, up to a limit, and hands each piece on.
///
/// # Errors
/// When the file cannot be created. When it cannot be written to later (a full disk), the console
/// goes on being read.
pub fn record(path: &Path) -> io::Result<Recorder> {
    Ok(Recorder { file: Some(File::create(path)?), left: FILE_LIMIT })
}

/// See [`record`].
#[derive(Debug)]
pub struct Recorder {
    file: Option<File>,
    left: u64,
}

impl Recorder {
    /// Writes one piece.
    pub fn write(&mut self, bytes: &[u8]) {
        let Some(file) = &mut self.file else { return };
        let take = self.left.min(bytes.len() as u64);
        self.left -= take;
        let cut = take < bytes.len() as u64;
        let mut result = file.write_all(&bytes[..take as usize]);
        if result.is_ok() && cut {
            result = file.write_all(b"\n[the rest of this console was not kept]\n");
        }
        if cut || result.is_err() {
            self.file = None;
        }
    }
}

/// Reads until the other end closes.
pub fn pump(mut from: impl Read, mut on: impl FnMut(&[u8])) {
    let mut buffer = [0; 16 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => on(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn console(text: &str) -> (Console, Vec<Notice>) {
        let mut console = Console::default();
        let mut notices = Vec::new();
        for piece in text.as_bytes().chunks(7) {
            console.feed(piece, |notice| notices.push(notice));
        }
        console.finish(|notice| notices.push(notice));
        (console, notices)
    }

    #[test]
    fn a_panic_is_told_in_the_kernels_own_words() {
        let (console, notices) = console(concat!(
            "[    1.902338] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\r\n",
            "[    1.902338] CPU: 0 PID: 1 Comm: swapper/0 Not tainted 5.10.0-32-amd64 #1\r\n",
            "[    1.902338] ---[ end Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0) ]---\r\n",
        ));
        let words =
            "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)";
        assert_eq!(console.panic.as_deref(), Some(words));
        assert_eq!(notices, [Notice::Panic(words.into()), Notice::PanicEnd]);
        assert!(console.context[1].starts_with("CPU: 0 PID: 1"));
    }

    #[test]
    fn warnings_of_old_and_new_kernels_are_complaints() {
        for line in [
            "[    3.1] WARNING: CPU: 0 PID: 77 at kernel/trace/trace.c:1 foo+0x1/0x2",
            "[    3.1][   T77] WARNING: kernel/trace/trace.c:1 at foo+0x1/0x2, CPU#0: sh/77",
            "[    3.1] BUG: kernel NULL pointer dereference, address: 0000000000000000",
            "[    3.1] Oops: general protection fault, probably for non-canonical address 0x1: 0000 [#1] SMP",
            "[    3.1] general protection fault: 0000 [#1] SMP NOPTI",
            "[    3.1] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
            "[    3.1] watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [sh:77]",
        ] {
            let (console, _) = console(&format!("{line}\nmore\n"));
            assert_eq!(console.complaints.len(), 1, "{line}");
            assert_eq!(console.context.len(), 2, "{line}");
        }
    }

    #[test]
    fn ordinary_lines_are_no_complaints() {
        let (console, notices) = console(concat!(
            "[    0.0] Spectre V2 : WARNING: Unprivileged eBPF is enabled with eIBRS on\n",
            "[    0.0] DEBUG: something\n",
            "[    0.0] traps: trace[77] general protection fault ip:401000 sp:7ffe0 error:0 in trace[401000+1000]\n",
            "[    0.1] ACPI: PM-Timer IO Port: 0x608\n",
        ));
        assert_eq!((console.complaints.len(), notices.len()), (0, 0), "{console:?}");
    }

    #[test]
    fn a_file_of_a_console_has_an_end_and_says_so() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut recorder = record(file.path()).unwrap();
        for _ in 0..40 {
            recorder.write(&[b'x'; 1 << 20]);
        }
        let text = std::fs::read(file.path()).unwrap();
        assert!(text.ends_with(b"xxx\n[the rest of this console was not kept]\n"));
        assert!(text.len() as u64 <= FILE_LIMIT + 64, "{}", text.len());
    }

    #[test]
    fn a_line_without_end_takes_bounded_memory() {
        let mut console = Console::default();
        for _ in 0..1000 {
            console.feed(&[b'x'; 1000], |_| {});
        }
        assert!(console.line.len() <= LINE_LIMIT);
    }
}
