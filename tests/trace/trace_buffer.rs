//! The kernel's trace buffer, which a test has for itself as long as it holds one of these.

use std::fs::File;
use std::path::Path;

use helloworld::trace_line::Record;
use helloworld::trace_pipe::TracePipe;
use helloworld::tracefs::Tracefs;
use nix::fcntl::{Flock, FlockArg};

/// The right to use the buffer. Tests run in threads, or in processes (cargo nextest), at the same time, and there is
/// one buffer, which reading empties.
pub struct Turn {
    tracefs: Tracefs,
    _lock: Flock<File>,
}

impl Turn {
    /// Waits for its turn.
    pub fn take() -> Self {
        let tracefs =
            Tracefs::find().expect("no tracefs here: mount -t tracefs tracefs /sys/kernel/tracing");
        let root = tracefs.trace_pipe();
        let root = File::open(root.parent().unwrap()).expect("tracefs can be opened");
        let lock = Flock::lock(root, FlockArg::LockExclusive).map_err(|(_, errno)| errno);
        Self { tracefs, _lock: lock.expect("tracefs can be locked") }
    }
}

/// The buffer, read by the test itself.
pub struct TraceBuffer {
    pipe: TracePipe,
    /// What was read, of whatever origin.
    records: Vec<String>,
    turn: Turn,
}

impl TraceBuffer {
    /// Waits for its turn, and empties the buffer of what earlier tests left.
    pub fn open() -> Self {
        let turn = Turn::take();
        let mut pipe = TracePipe::open(&turn.tracefs.trace_pipe()).expect("trace_pipe opens");
        pipe.read_rest().expect("trace_pipe can be read");
        Self { pipe, records: Vec::new(), turn }
    }

    /// How many lines of ours there are under the process's PID. There is nothing to wait for: an execve leaves its
    /// line before it does anything else.
    pub fn lines_of(&mut self, pid: u32) -> usize {
        self.records.extend(self.pipe.read_rest().expect("trace_pipe can be read"));
        let ours = |record: &&String| matches!(Record::parse(record), Record::Hello(hello) if hello.pid == pid);
        self.records.iter().filter(ours).count()
    }

    /// Checks the number of lines of ours under the process's PID; shows what else was read when it is another.
    #[track_caller]
    pub fn assert_lines_of(&mut self, pid: u32, expected: usize) {
        const SHOWN: usize = 10;
        let lines = self.lines_of(pid);
        let last = &self.records[self.records.len().saturating_sub(SHOWN)..];
        assert_eq!(lines, expected, "lines of process {pid}; trace_pipe said last: {last:#?}");
    }

    /// How many records the kernel says it lost since boot, of whatever origin (`per_cpu/cpu*/stats`).
    pub fn lost(&self) -> usize {
        let pipe = self.turn.tracefs.trace_pipe();
        let cpus = std::fs::read_dir(pipe.with_file_name("per_cpu")).expect("tracefs has per_cpu");
        cpus.map(|cpu| lost_on(&cpu.unwrap().path().join("stats"))).sum()
    }
}

fn lost_on(stats: &Path) -> usize {
    let text = std::fs::read_to_string(stats).expect("stats can be read");
    ["overrun: ", "commit overrun: ", "dropped events: "]
        .iter()
        .filter_map(|counter| text.lines().find_map(|line| line.strip_prefix(counter)))
        .map(|number| number.parse::<usize>().expect("a counter is a number"))
        .sum()
}
