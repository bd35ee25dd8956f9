//! The kernel's trace buffer, which a test has for itself as long as it holds one of these.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Instant;

use helloworld::trace_line::Record;
use helloworld::trace_pipe::TracePipe;
use helloworld::tracefs::Tracefs;
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::tracer::DEADLINE;

/// The right to use the buffer. Tests run in threads, or in processes (cargo nextest), at the same time, and there is
/// one buffer, which reading empties.
pub struct Turn {
    tracefs: Tracefs,
    _lock: Flock<File>,
}

impl Turn {
    /// Waits for its turn.
    pub fn take() -> Self {
        let tracefs = Tracefs::find().expect("tracefs is mounted");
        let root = tracefs.trace_pipe();
        let root = File::open(root.parent().unwrap()).expect("tracefs can be opened");
        let lock = Flock::lock(root, FlockArg::LockExclusive).map_err(|(_, errno)| errno);
        Self { tracefs, _lock: lock.expect("tracefs can be locked") }
    }
}

/// The buffer, read by the test itself.
pub struct TraceBuffer {
    pipe: TracePipe,
    /// The PIDs of all lines of ours that were read.
    pids: Vec<u32>,
    turn: Turn,
}

impl TraceBuffer {
    /// Waits for its turn, and empties the buffer of what earlier tests left.
    pub fn open() -> Self {
        let turn = Turn::take();
        let mut pipe = TracePipe::open(&turn.tracefs.trace_pipe()).expect("trace_pipe opens");
        pipe.read_rest().expect("trace_pipe can be read");
        Self { pipe, pids: Vec::new(), turn }
    }

    /// How many lines there are of the process, now, without waiting: all that it caused before.
    pub fn lines_of(&mut self, pid: u32) -> usize {
        self.read();
        self.pids.iter().filter(|line| **line == pid).count()
    }

    /// Waits until there is a line of the process, with a deadline.
    pub fn wait_for_line_of(&mut self, pid: u32) {
        let end = Instant::now() + DEADLINE;
        while self.lines_of(pid) == 0 {
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no line of {pid} came; there were lines of {:?}", self.pids);
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.pipe.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, timeout).expect("trace_pipe can be polled");
        }
    }

    /// How many records the kernel says it lost since boot, of whatever origin (`per_cpu/cpu*/stats`).
    pub fn lost(&self) -> usize {
        let pipe = self.turn.tracefs.trace_pipe();
        let cpus = std::fs::read_dir(pipe.with_file_name("per_cpu")).expect("tracefs has per_cpu");
        cpus.map(|cpu| lost_on(&cpu.unwrap().path().join("stats"))).sum()
    }

    fn read(&mut self) {
        for record in self.pipe.read_rest().expect("trace_pipe can be read") {
            if let Record::Hello(hello) = Record::parse(&record) {
                self.pids.push(hello.pid);
            }
        }
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
