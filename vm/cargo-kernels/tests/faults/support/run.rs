//! One run of the harness, from its start to its end.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};
use std::{fs, thread};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::process::Process;
use super::scene::Scene;

/// How long a run may take at most. Shorter than the time a guest is given where nothing should wait for that.
const PATIENCE: Duration = Duration::from_secs(900);
/// What the harness itself may use, in bytes.
const MEMORY: u64 = 200 * 1000 * 1000;

/// A run that goes on.
pub struct Run<'a> {
    scene: &'a Scene,
    child: Child,
    started: Instant,
    lines: Receiver<String>,
    /// What it printed so far, on both streams.
    printed: String,
}

/// A run that has ended.
pub struct Ended<'a> {
    scene: &'a Scene,
    pub status: ExitStatus,
    pub printed: String,
}

/// What report.json says of a kernel.
pub struct Verdict {
    pub word: String,
    pub reason: String,
    pub kernel: Value,
}

impl<'a> Run<'a> {
    pub fn start(scene: &'a Scene, mut command: Command) -> Self {
        let started = Instant::now();
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        read(child.stdout.take().unwrap(), sender.clone());
        read(child.stderr.take().unwrap(), sender);
        Self { scene, child, started, lines, printed: String::new() }
    }

    /// Waits for a line with these words.
    pub fn wait_for(mut self, words: &str) -> Self {
        while let Some(line) = self.next_line() {
            if line.contains(words) {
                return self;
            }
        }
        panic!("it ended without {words:?}:\n{}", self.printed);
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Kills the harness, and waits for the end of all that it started.
    pub fn kill(self) {
        self.signal(Signal::SIGKILL);
        let scene = self.scene;
        assert_eq!(self.end().status.code(), None);
        Process::wait_for_all(&scene.mark());
    }

    /// Waits for its end.
    pub fn end(mut self) -> Ended<'a> {
        while self.next_line().is_some() {}
        let status = self.child.wait().unwrap();
        Ended { scene: self.scene, status, printed: self.printed }
    }

    /// Waits for its end, and asserts that the harness never used much memory. wait4(2) would tell the peak of whichever
    /// is larger, the child or a descendant of its own, which is QEMU.
    pub fn end_within_memory(self) -> Ended<'a> {
        let pid = self.pid();
        let watch = thread::spawn(move || {
            let mut peak = 0;
            while let Some(more) = Process::resident_peak(pid) {
                peak = more;
                thread::sleep(Duration::from_millis(20));
            }
            peak
        });
        let ended = self.end();
        let peak = watch.join().unwrap();
        assert!(peak < MEMORY, "it used {peak} bytes");
        ended
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    fn next_line(&mut self) -> Option<String> {
        let left = PATIENCE.saturating_sub(self.started.elapsed());
        match self.lines.recv_timeout(left) {
            Ok(line) => {
                self.printed += &line;
                Some(line)
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => None,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                self.signal(Signal::SIGKILL);
                panic!("not done after {PATIENCE:?}:\n{}", self.printed);
            }
        }
    }
}

fn read(from: impl Read + Send + 'static, to: Sender<String>) {
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            // Whatever a guest prints, what the harness makes of it is text.
            let text = String::from_utf8(std::mem::take(&mut line)).expect("output that is no UTF-8");
            let _ = to.send(text);
        }
    });
}

impl Ended<'_> {
    /// Asserts what was said of the kernel, and that no process is left; the verdict, for more questions.
    #[track_caller]
    pub fn expect(&self, verdict: &str, code: i32, words: &str) -> Verdict {
        let given = Verdict::read(&self.scene.reports())
            .unwrap_or_else(|error| panic!("no report: {error}; it printed:\n{}", self.printed));
        assert_eq!(given.word, verdict, "{}\n{}", given.reason, self.printed);
        assert!(given.reason.contains(words), "{:?} is not in {:?}", words, given.reason);
        assert!(self.printed.contains(&format!(": {verdict}")), "{}", self.printed);
        self.expect_exit(code, "");
        given
    }

    /// Asserts the exit code, what was printed, and that no process is left.
    #[track_caller]
    pub fn expect_exit(&self, code: i32, words: &str) {
        assert_eq!(self.status.code(), Some(code), "{}\n{}", self.status, self.printed);
        assert!(self.printed.contains(words), "{words:?} is not in:\n{}", self.printed);
        assert_eq!(Process::marked(&self.scene.mark()), []);
    }
}

impl Verdict {
    /// Of the first kernel in the reports of a directory.
    pub fn read(reports: &Path) -> std::io::Result<Self> {
        let report: Value = serde_json::from_slice(&fs::read(reports.join("report.json"))?)?;
        let kernel = report["kernels"][0].clone();
        let text = |key: &str| kernel[key].as_str().unwrap_or_else(|| panic!("no {key}: {kernel:#}")).to_owned();
        Ok(Self { word: text("verdict"), reason: text("reason"), kernel })
    }

    pub fn tests(&self) -> &[Value] {
        self.kernel["tests"].as_array().unwrap()
    }

    /// What is said of a test.
    #[track_caller]
    pub fn test(&self, name: &str) -> &Value {
        let mut tests = self.tests().iter();
        tests.find(|test| test["name"] == name).unwrap_or_else(|| panic!("no {name}: {:#}", self.kernel))
    }
}
