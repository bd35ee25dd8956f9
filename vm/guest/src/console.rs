//! The guest's console: kept in a file, and read for what the kernel says of itself.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use crate::splat::{self, Kind};

/// How much of a console is kept in its file, in bytes.
const FILE_LIMIT: usize = 16 * 1024 * 1024;
/// How much of one line is looked at, in bytes.
const LINE_LIMIT: usize = 4096;
/// How many of the last lines are remembered.
const TAIL: usize = 40;
/// How many lines that belong to a splat are remembered, and how many splats.
const CONTEXT: usize = 30;

/// How many lines of a splat are kept when a panic follows, which has to be seen, too.
const BEFORE_PANIC: usize = 6;

/// What is remembered of a console.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Console {
    /// The panic line, in the kernel's own words.
    pub panic: Option<String>,
    /// The kernel has printed all it has to say of the panic.
    pub panic_ended: bool,
    /// The lines that begin a splat.
    pub splats: Vec<String>,
    /// The lines of the first splat, from `cut here` on where there is one, and of the panic.
    pub context: Vec<String>,
    /// The last lines.
    pub tail: Vec<String>,
    line: Vec<u8>,
    /// The lines since the last `cut here`, which may belong to a splat.
    since_cut: Option<Vec<String>>,
}

impl Console {
    /// Takes what was read next.
    pub fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte != b'\n' {
                self.line.push(byte);
            }
            if byte == b'\n' || self.line.len() == LINE_LIMIT {
                // What the kernel says next may share a line that never ends: its stamp is kept whole.
                let stamp = self.line.iter().rposition(|&byte| byte == b'[').filter(|&at| at > 0);
                let end = stamp.filter(|_| byte != b'\n').unwrap_or(self.line.len());
                let line: Vec<u8> = self.line.drain(..end).collect();
                for segment in splat::segments(&String::from_utf8_lossy(&line)) {
                    self.take(segment);
                }
            }
        }
    }

    /// Adds what another stream of the same guest said, which is closed: what stands in an unfinished line counts too. Of
    /// both, this one's last lines count.
    pub fn merge(&mut self, mut other: Self) {
        other.feed(b"\n");
        if self.panic.is_none() {
            self.panic = other.panic;
        }
        self.splats.extend(other.splats);
        if self.context.is_empty() {
            self.context = other.context;
        }
        if self.tail.is_empty() {
            self.tail = other.tail;
        }
    }

    fn take(&mut self, text: String) {
        if self.tail.len() == TAIL {
            self.tail.remove(0);
        }
        self.tail.push(text.clone());
        match splat::classify(&text) {
            Kind::Panic if self.panic.is_none() => {
                self.panic = Some(text.clone());
                // What came before it, the splat that led to it, stays; and this must be seen, too.
                self.context.truncate(BEFORE_PANIC);
                self.begin();
            }
            Kind::Splat if self.splats.len() < CONTEXT => {
                if self.splats.is_empty() && self.panic.is_none() {
                    self.begin();
                }
                self.splats.push(text.clone());
            }
            Kind::CutHere => self.since_cut = Some(Vec::new()),
            Kind::PanicEnd => self.panic_ended = self.panic.is_some(),
            _ => {}
        }
        if self.panic.is_some() || !self.splats.is_empty() {
            if self.context.len() < CONTEXT {
                self.context.push(text);
            }
        } else if let Some(lines) = self.since_cut.as_mut().filter(|lines| lines.len() < CONTEXT / 2) {
            lines.push(text);
        }
    }

    /// The context begins with what stands since `cut here`.
    fn begin(&mut self) {
        self.context.extend(self.since_cut.take().into_iter().flatten());
    }
}

/// Copies a console to a file, up to a limit. When it cannot be written to later (a full disk), no more is kept.
#[derive(Debug)]
pub struct Recorder {
    file: Option<File>,
    left: usize,
}

impl Recorder {
    /// Creates the file.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { file: Some(File::create(path)?), left: FILE_LIMIT })
    }

    /// Writes one piece.
    pub fn write(&mut self, bytes: &[u8]) {
        let Some(file) = &mut self.file else { return };
        let (kept, cut) = bytes.split_at(bytes.len().min(self.left));
        self.left -= kept.len();
        let end: &[u8] = if cut.is_empty() { b"" } else { b"\n[the rest of this console was not kept]\n" };
        if file.write_all(kept).and_then(|()| file.write_all(end)).is_err() || !cut.is_empty() {
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
    use super::*;

    fn console(text: &str) -> Console {
        let mut console = Console::default();
        text.as_bytes().chunks(7).for_each(|piece| console.feed(piece));
        console
    }

    /// The second is of 6.12.117 on arm64, after `echo c > /proc/sysrq-trigger`.
    #[test]
    fn panic_is_told_in_the_kernels_own_words() {
        let vfs = "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)";
        let crash = "Kernel panic - not syncing: sysrq triggered crash";
        for (words, next, ended) in [
            (vfs, "CPU: 0 PID: 1 Comm: swapper/0 Not tainted 5.10.0-32-amd64 #1", true),
            (crash, "Kernel Offset: 0x547f7e000000 from 0xffff800080000000", false),
        ] {
            let end = if ended { format!("[    1.9] ---[ end {words} ]---\r\n") } else { String::new() };
            let stamp = "[    1.902338] ";
            let console = console(&format!("{stamp}sysrq: x\r\n{stamp}{words}\r\n{stamp}{next}\r\n{end}"));
            assert_eq!((console.panic.as_deref(), console.panic_ended, console.splats.len()), (Some(words), ended, 0));
            assert_eq!(console.context[..2], [words, next]);
        }
    }

    /// Of 7.3.4, when a module was loaded whose code had been damaged; most registers and functions are left out.
    #[test]
    fn arm64_warning_and_oops_are_understood() {
        let oops = console(include_str!("testdata/arm64-warning-oops.log"));
        let expected = [
            "WARNING: kernel/trace/ftrace.c:2287 at ftrace_bug+0x280/0x2b0, CPU#0: insmod/91",
            "Unable to handle kernel NULL pointer dereference at virtual address 0000000000000000",
            "Internal error: Oops: 0000000096000006 [#1]  SMP",
        ];
        assert_eq!(oops.splats, expected);
        assert_eq!(oops.panic, None);
    }

    #[test]
    fn context_begins_at_cut_here_and_has_splat_and_panic() {
        let splat = "WARNING: CPU: 0 PID: 7 at lib/refcount.c:28 f+0x1/0x2";
        let panic = "Kernel panic - not syncing: Fatal exception";
        let trace = "Call Trace line\n".repeat(100);
        let console = console(&format!(
            "[    1.0] ------------[ cut here ]------------\n[    1.0] refcount_t: underflow; use-after-free.\n\
             [    1.0] {splat}\n{trace}{panic}\n"
        ));
        assert_eq!((&console.splats[..], console.panic.as_deref()), (&[splat.to_owned()][..], Some(panic)));
        assert_eq!(console.context[1..3], ["refcount_t: underflow; use-after-free.", splat]);
        assert_eq!(console.context.last().unwrap(), panic);
    }

    #[test]
    fn a_line_torn_between_two_streams_is_two_lines() {
        let (mut one, mut other) = (Console::default(), Console::default());
        one.feed(b"Kernel pan");
        other.feed(b"noise");
        one.feed(b"ic - not syncing: x");
        other.merge(one);
        assert_eq!(other.panic.as_deref(), Some("Kernel panic - not syncing: x"));
    }

    #[test]
    fn a_file_of_a_console_has_an_end_and_says_so() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut recorder = Recorder::create(file.path()).unwrap();
        for _ in 0..40 {
            recorder.write(&[b'x'; 1 << 20]);
        }
        let text = std::fs::read(file.path()).unwrap();
        assert!(text.ends_with(b"xxx\n[the rest of this console was not kept]\n"));
        assert!(text.len() <= FILE_LIMIT + 64, "{}", text.len());
    }

    #[test]
    fn panic_behind_a_line_without_end_is_seen_in_bounded_memory() {
        for noise in [1, LINE_LIMIT - 20, LINE_LIMIT - 1, LINE_LIMIT, 3 * LINE_LIMIT + 7] {
            let mut console = Console::default();
            console.feed("x".repeat(noise).as_bytes());
            assert!(console.line.len() <= LINE_LIMIT);
            console.feed(b"[    3.000001] Kernel panic - not syncing: y\n");
            assert_eq!(console.panic.as_deref(), Some("Kernel panic - not syncing: y"), "{noise}");
        }
    }
}
