//! The program under test, running.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The longest wait for anything. Nothing takes that long unless something is broken, however slow the machine.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// What the program says when it is attached.
const READY: &str = "Successfully started!";

/// The program's path. In a guest it is not where it was built.
pub fn path() -> OsString {
    std::env::var_os("CARGO_BIN_EXE_helloworld").unwrap_or_else(|| env!("CARGO_BIN_EXE_helloworld").into())
}

/// A tracer that is attached. It is killed when this is dropped.
pub struct Tracer {
    child: Child,
    lines: Receiver<String>,
}

impl Tracer {
    /// Starts it and waits until it says that it is attached.
    pub fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(path())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the tracer starts");
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut tracer = Self { child, lines };
        tracer.wait_for_line("the ready line", |line| line.contains(READY));
        tracer
    }

    /// Waits for a line on its stdout, with a deadline.
    pub fn wait_for_line(&mut self, what: &str, wanted: impl Fn(&str) -> bool) {
        let end = Instant::now() + DEADLINE;
        while let Some(line) = self.next_line(end, &format!("did not print {what}")) {
            if wanted(&line) {
                return;
            }
        }
        let status = self.child.wait();
        panic!("the tracer ended before {what}: {status:?}: {}", self.stderr());
    }

    /// Nothing once its stdout is closed.
    fn next_line(&self, end: Instant, failure: &str) -> Option<String> {
        match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Err(RecvTimeoutError::Timeout) => panic!("the tracer {failure}"),
            line => line.ok(),
        }
    }

    /// Sends SIGTERM and waits for its end.
    pub fn terminate(self) -> ExitStatus {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap());
        kill(pid, Signal::SIGTERM).expect("the tracer can be signalled");
        self.wait()
    }

    /// Waits for its end, when its stdout is closed, with a deadline.
    pub fn wait(mut self) -> ExitStatus {
        let end = Instant::now() + DEADLINE;
        while self.next_line(end, "did not end").is_some() {}
        let status = self.child.wait().expect("the tracer can be waited for");
        // No warnings of libbpf's, which some kernels give rise to, beside a success.
        let said = self.stderr();
        let expected = |line: &str| line.starts_with("note: ") || line.chars().all(|c| c == '.');
        assert!(!status.success() || said.lines().all(expected), "{said}");
        status
    }

    fn stderr(&mut self) -> String {
        let mut text = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            let _ = stderr.read_to_string(&mut text);
        }
        text
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
