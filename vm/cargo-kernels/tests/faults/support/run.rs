//! One run of `xtask`, from its start to its end.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::process::Process;
use super::scene::Scene;
use super::verdict::Verdict;

/// How long a run may take at most. Shorter than the time a guest is given where nothing should wait for that.
const PATIENCE: Duration = Duration::from_secs(900);

/// An `xtask` that runs.
pub struct Run<'a> {
    scene: &'a Scene,
    child: Child,
    started: Instant,
    lines: Receiver<String>,
    /// What it printed so far, on both streams.
    printed: String,
}

/// An `xtask` that has ended.
pub struct Ended<'a> {
    scene: &'a Scene,
    pub status: ExitStatus,
    pub printed: String,
    seconds: f64,
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

    /// Starts it and waits for its end.
    pub fn whole(scene: &'a Scene, command: Command) -> Ended<'a> {
        Self::start(scene, command).end()
    }

    /// Waits for a line with these words.
    pub fn wait_for(&mut self, words: &str) {
        while let Some(line) = self.next_line() {
            if line.contains(words) {
                return;
            }
        }
        panic!("it ended without {words:?}:\n{}", self.printed);
    }

    /// Waits until the first test has begun in the guest.
    pub fn wait_for_tests(&mut self) {
        self.wait_for(": testing");
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Waits for its end.
    pub fn end(mut self) -> Ended<'a> {
        while self.next_line().is_some() {}
        let status = self.child.wait().unwrap();
        let seconds = self.started.elapsed().as_secs_f64();
        Ended { scene: self.scene, status, printed: self.printed, seconds }
    }

    /// Waits for its end, and says how much memory it used at most, in bytes. wait4(2) would tell the peak of whichever is
    /// larger, the child or a descendant of its own, which is QEMU.
    pub fn end_with_peak(self) -> (Ended<'a>, u64) {
        let pid = self.pid();
        let watch = std::thread::spawn(move || {
            let mut peak = 0;
            while let Some(more) = Process::resident_peak(pid) {
                peak = more;
                std::thread::sleep(Duration::from_millis(20));
            }
            peak
        });
        let ended = self.end();
        (ended, watch.join().unwrap())
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
    std::thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            // Whatever a guest prints, what xtask makes of it is text.
            let text = String::from_utf8(std::mem::take(&mut line)).expect("output that is no UTF-8");
            let _ = to.send(text);
        }
    });
}

impl Ended<'_> {
    /// Asserts what was said of the (first) kernel, and that no process is left; the verdict, for more questions.
    #[track_caller]
    pub fn expect(&self, verdict: &str, code: i32, words: &str) -> Verdict {
        let left = Process::marked(&self.scene.mark());
        let given = Verdict::read(&self.scene.reports(), 0)
            .unwrap_or_else(|error| panic!("no report: {error}; it printed:\n{}", self.printed));
        self.row(&given.word, left.len());
        assert_eq!(given.word, verdict, "{}\n{}", given.reason, self.printed);
        assert!(given.reason.contains(words), "{:?} is not in {:?}", words, given.reason);
        assert!(self.printed.contains(&format!(": {verdict}")), "{}", self.printed);
        self.expect_exit(code);
        given
    }

    /// Asserts that it ended before there was anything to give a verdict on, and that no process is left.
    #[track_caller]
    pub fn expect_error(&self, code: i32, words: &str) {
        let left = Process::marked(&self.scene.mark());
        self.row("(none)", left.len());
        assert!(self.printed.contains(words), "{words:?} is not in:\n{}", self.printed);
        self.expect_exit(code);
    }

    /// Asserts the exit code, and that no process is left.
    #[track_caller]
    pub fn expect_exit(&self, code: i32) {
        assert_eq!(self.status.code(), Some(code), "{}\n{}", self.status, self.printed);
        assert_eq!(Process::marked(&self.scene.mark()), []);
    }

    fn row(&self, verdict: &str, left: usize) {
        let thread = std::thread::current();
        let fault = thread.name().unwrap_or_default().replace('_', " ");
        println!("| {fault} | {verdict} | {:.1} | {left} |", self.seconds);
    }
}
