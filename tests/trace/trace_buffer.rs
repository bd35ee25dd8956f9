//! The kernel's trace buffer, which a test has for itself as long as it holds one of these.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::fcntl::{Flock, FlockArg, OFlag};

/// Where tracefs is mounted: of its own, or in debugfs.
const PLACES: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Whether a line of `trace_pipe` is the tracer's, of an execve that this process made. A line begins with the task's
/// name and number, such as `            true-1234    [001]`, and ends with the message. The product's own parser is not
/// asked: it is what is tested.
pub fn is_hello_of(line: &str, pid: u32) -> bool {
    line.ends_with(": invoke bpf_prog: Hello, World!") && line.contains(&format!("-{pid} "))
}

/// The right to use the buffer. Tests run in threads, or in processes (cargo nextest), at the same time, and there is
/// one buffer, which reading empties.
pub struct Turn {
    root: &'static Path,
    _lock: Flock<File>,
}

impl Turn {
    pub fn take() -> Self {
        let root = PLACES.iter().map(Path::new).find(|place| place.join("trace_pipe").exists());
        let root = root.expect("no tracefs here: mount -t tracefs tracefs /sys/kernel/tracing");
        let directory = File::open(root).expect("tracefs can be opened");
        let lock = Flock::lock(directory, FlockArg::LockExclusive).map_err(|(_, errno)| errno);
        Self { root, _lock: lock.expect("tracefs can be locked") }
    }
}

/// The buffer, read by the test itself.
pub struct TraceBuffer {
    pipe: File,
    /// What was read, of whatever origin.
    text: String,
    turn: Turn,
}

impl TraceBuffer {
    /// Waits for its turn, and empties the buffer of what earlier tests left.
    pub fn open() -> Self {
        let turn = Turn::take();
        let path = turn.root.join("trace_pipe");
        let pipe = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path);
        let mut buffer = Self { pipe: pipe.expect("trace_pipe opens"), text: String::new(), turn };
        buffer.read();
        buffer.text.clear();
        buffer
    }

    fn read(&mut self) {
        let mut bytes = Vec::new();
        match self.pipe.read_to_end(&mut bytes) {
            // The buffer is empty; what was read before is in `bytes`.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            end => panic!("trace_pipe ended, or cannot be read: {end:?}"),
        }
        self.text.push_str(&String::from_utf8_lossy(&bytes));
    }

    /// How many lines of ours there are under the process's PID. There is nothing to wait for: an execve leaves its
    /// line before it does anything else.
    pub fn lines_of(&mut self, pid: u32) -> usize {
        self.read();
        self.text.lines().filter(|line| is_hello_of(line, pid)).count()
    }

    /// Checks the number of lines of ours under the process's PID; shows what else was read when it is another.
    #[track_caller]
    pub fn assert_lines_of(&mut self, pid: u32, expected: usize) {
        const SHOWN: usize = 10;
        let lines = self.lines_of(pid);
        let mut last: Vec<&str> = self.text.lines().rev().take(SHOWN).collect();
        last.reverse();
        assert_eq!(lines, expected, "lines of process {pid}; trace_pipe said last: {last:#?}");
    }

    /// How many records the kernel says it lost since boot, of whatever origin (`per_cpu/cpu*/stats`).
    pub fn lost(&self) -> usize {
        let mut lost = 0;
        for cpu in std::fs::read_dir(self.turn.root.join("per_cpu")).expect("tracefs has per_cpu") {
            let stats = std::fs::read_to_string(cpu.unwrap().path().join("stats")).expect("stats can be read");
            for counter in ["overrun: ", "commit overrun: ", "dropped events: "] {
                let number = stats.lines().find_map(|line| line.strip_prefix(counter));
                lost += number.map_or(0, |number| number.parse::<usize>().expect("a counter is a number"));
            }
        }
        lost
    }
}
