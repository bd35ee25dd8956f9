//! One run of the harness, from its start to its end.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, pipe2};
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
    /// The other end of what it prints, on both streams.
    output: File,
    printed: Vec<u8>,
}

/// A run that has ended.
pub struct Ended<'a> {
    scene: &'a Scene,
    pub status: ExitStatus,
    pub printed: String,
}

impl<'a> Run<'a> {
    pub fn start(scene: &'a Scene, mut command: Command) -> Self {
        let (output, input) = pipe2(OFlag::O_CLOEXEC).unwrap();
        let child = command.stdout(input.try_clone().unwrap()).stderr(input).spawn().unwrap();
        Self { scene, child, started: Instant::now(), output: output.into(), printed: Vec::new() }
    }

    /// Waits for these words.
    pub fn wait_for(mut self, words: &str) -> Self {
        while !String::from_utf8_lossy(&self.printed).contains(words) {
            assert!(self.read_more(), "it ended without {words:?}:\n{}", String::from_utf8_lossy(&self.printed));
        }
        self
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
        while self.read_more() {}
        let status = self.child.wait().unwrap();
        // Whatever a guest prints, what the harness makes of it is text.
        let printed = String::from_utf8(self.printed).expect("output that is no UTF-8");
        Ended { scene: self.scene, status, printed }
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

    /// False once everybody who could print has ended.
    fn read_more(&mut self) -> bool {
        let left = PollTimeout::try_from(PATIENCE.saturating_sub(self.started.elapsed())).unwrap();
        if poll(&mut [PollFd::new(self.output.as_fd(), PollFlags::POLLIN)], left) == Ok(0) {
            self.signal(Signal::SIGKILL);
            panic!("not done after {PATIENCE:?}:\n{}", String::from_utf8_lossy(&self.printed));
        }
        let mut piece = [0; 4096];
        let length = self.output.read(&mut piece).unwrap();
        self.printed.extend_from_slice(&piece[..length]);
        length > 0
    }
}

impl Ended<'_> {
    /// Asserts what was said of the kernel, and that no process is left; what report.json says of it, for more questions.
    #[track_caller]
    pub fn expect(&self, verdict: &str, code: i32, words: &str) -> Value {
        assert!(self.scene.reports().exists(), "no report; it printed:\n{}", self.printed);
        let kernel = self.scene.reported();
        let reason = kernel["reason"].as_str().unwrap();
        assert_eq!(kernel["verdict"], verdict, "{reason}\n{}", self.printed);
        assert!(reason.contains(words), "{words:?} is not in {reason:?}");
        assert!(self.printed.contains(&format!(": {verdict}")), "{}", self.printed);
        self.expect_exit(code, "");
        kernel
    }

    /// Asserts the exit code, what was printed, and that no process is left.
    #[track_caller]
    pub fn expect_exit(&self, code: i32, words: &str) {
        assert_eq!(self.status.code(), Some(code), "{}\n{}", self.status, self.printed);
        assert!(self.printed.contains(words), "{words:?} is not in:\n{}", self.printed);
        assert_eq!(Process::marked(&self.scene.mark()), []);
    }
}

/// What is said of a kernel's test.
#[track_caller]
pub fn test<'a>(kernel: &'a Value, name: &str) -> &'a Value {
    let mut tests = kernel["tests"].as_array().unwrap().iter();
    tests.find(|test| test["name"] == name).unwrap_or_else(|| panic!("no {name}: {kernel:#}"))
}
