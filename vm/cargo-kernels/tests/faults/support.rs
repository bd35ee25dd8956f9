//! A place for one fault, a run of the harness in it from its start to its end, and the processes that it started.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use cargo_kernels::dirs::Dirs;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, pipe2};
use serde_json::Value;
use tempfile::TempDir;

/// How long a run may take at most.
const RUN_LIMIT: Duration = Duration::from_secs(900);
/// How long processes may take to be gone once the harness is.
const END_LIMIT: Duration = Duration::from_secs(30);
/// What the harness itself may use, in bytes.
const MEMORY: u64 = 200 * 1000 * 1000;
/// A variable that every process of a scene has inherited in its environment.
const MARK: &str = "VMTEST_FAULT";

/// One fault's surroundings. Dropping it removes its files.
pub struct Scene {
    pub dir: TempDir,
    /// Lines of the metadata table.
    pub metadata: Vec<String>,
    pub kernel: &'static str,
    /// Seconds until a guest is given up. No run should wait for that.
    pub timeout: u32,
    /// The program that starts the harness, if any, and its arguments, of which the harness and its own become the last.
    pub under: Vec<String>,
}

impl Scene {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("fault-").tempdir_in(env!("CARGO_TARGET_TMPDIR"));
        let metadata = [
            "[workspace.metadata.kernels]",
            "cargo-args = ['--release', '--package', 'misbehave']",
            "program = 'misbehave'",
            "ready-line = 'ready to misbehave'",
            "static = true",
            "root = 'minimal'",
            "memory-mib = 256",
        ];
        Self {
            dir: dir.unwrap(),
            metadata: metadata.map(str::to_owned).into(),
            // One that boots quickly.
            kernel: "6.1",
            timeout: 2000,
            under: Vec::new(),
        }
    }

    /// A further line of the metadata table, or one in place of another with the same key.
    pub fn metadata(mut self, line: &str) -> Self {
        let key = line.split(' ').next();
        self.metadata.retain(|other| other.split(' ').next() != key);
        self.metadata.push(line.to_owned());
        self
    }

    /// A path in a directory of this scene's own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn reports(&self) -> PathBuf {
        self.path("report")
    }

    /// What report.json says of the kernel.
    pub fn reported(&self) -> Value {
        let report = fs::read(self.reports().join("report.json")).unwrap();
        serde_json::from_slice::<Value>(&report).unwrap()["kernels"][0].clone()
    }

    /// What distinguishes the processes of this scene from all others on the machine.
    pub fn mark(&self) -> String {
        self.dir.path().file_name().unwrap().to_str().unwrap().to_owned()
    }

    /// `cargo kernels` on the package that misbehaves.
    pub fn harness(&self) -> Command {
        let mut words = self.under.iter().map(String::as_str).chain([env!("CARGO_BIN_EXE_cargo-kernels")]);
        let metadata = self.path("metadata.toml");
        fs::write(&metadata, self.metadata.join("\n")).unwrap();
        let mut command = Command::new(words.next().unwrap());
        command.args(words).env("VMTEST_METADATA", metadata).env(MARK, self.mark()).stdin(Stdio::null());
        // Not the summary of the job that runs these tests.
        command.env_remove("GITHUB_STEP_SUMMARY");
        if self.cache().exists() {
            command.env("VMTEST_CACHE_DIR", self.cache());
        }
        command
    }

    /// `cargo kernels test` on the tests of which the name contains `tests`.
    pub fn vmtest(&self, options: &[&str], tests: &str) -> Command {
        let mut command = self.harness();
        command.args(["test", "--kernel", self.kernel, "--timeout", &self.timeout.to_string()]);
        command.args(options).arg("--report").arg(self.reports()).args(["--", "--ignored", tests]);
        command
    }

    /// The same, from its start to its end.
    pub fn run(&self, options: &[&str], tests: &str) -> Ended<'_> {
        Run::start(self, self.vmtest(options, tests)).end()
    }

    /// The same, begun: a test runs that does not end.
    pub fn endless(&self, options: &[&str]) -> Run<'_> {
        Run::start(self, self.vmtest(options, "failing::hangs")).wait_for(": testing")
    }

    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        // By another process: as long as any thread of this one may have it open for writing in a child that it has just
        // forked, it cannot be executed (ETXTBSY).
        let mut install =
            Command::new("install").args(["-m", "755", "/dev/stdin"]).arg(&path).stdin(Stdio::piped()).spawn().unwrap();
        write!(install.stdin.take().unwrap(), "#!/bin/sh\n{text}\n").unwrap();
        assert!(install.wait().unwrap().success());
        path
    }

    /// Has a cache of its own, with all that is in the usual one but snapshots. What takes long is not done again.
    pub fn own_cache(self) -> Self {
        let usual = Dirs::find().unwrap().cache;
        fs::create_dir(self.cache()).unwrap();
        fs::create_dir_all(usual.join("modules")).unwrap();
        for entry in fs::read_dir(usual).unwrap().map(Result::unwrap) {
            let (name, from) = (entry.file_name(), entry.path());
            let to = self.cache().join(&name);
            if name == "kernels" || name == "modules" || name.to_string_lossy().starts_with("venv-") {
                symlink(from, to).unwrap();
            } else if name == "kvm.json" {
                fs::copy(from, to).unwrap();
            }
        }
        self
    }

    pub fn cache(&self) -> PathBuf {
        self.path("cache")
    }

    /// The directories of guests that were saved in its own cache, and of those that were begun.
    pub fn saved(&self) -> Vec<PathBuf> {
        // A run that is killed early has not even made the directory.
        let entries = fs::read_dir(self.cache().join("snapshots")).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).filter(|dir| !dir.ends_with("locks")).collect()
    }
}

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
        let left = PollTimeout::try_from(RUN_LIMIT.saturating_sub(self.started.elapsed())).unwrap();
        if poll(&mut [PollFd::new(self.output.as_fd(), PollFlags::POLLIN)], left) == Ok(0) {
            self.signal(Signal::SIGKILL);
            panic!("not done after {RUN_LIMIT:?}:\n{}", String::from_utf8_lossy(&self.printed));
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

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pid: Pid,
    /// Its arguments, separated by spaces.
    command: String,
}

impl Process {
    pub fn marked(mark: &str) -> Vec<Self> {
        let wanted = format!("{MARK}={mark}");
        let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.filter_map(|pid: i32| {
            // It may end meanwhile. What has ended and was not collected has no environment any more.
            let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
            let marked = environment.split(|byte| *byte == 0).any(|entry| entry == wanted.as_bytes());
            let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let command = String::from_utf8_lossy(&command).replace('\0', " ").trim_end().to_owned();
            marked.then_some(Self { pid: Pid::from_raw(pid), command })
        })
        .collect()
    }

    /// The one whose command starts with the first words and has the others in it.
    pub fn find(mark: &str, start: &str, words: &str) -> Self {
        let all = Self::marked(mark);
        let mut found = all.iter().filter(|process| process.command.starts_with(start));
        let found = found.find(|process| process.command.contains(words));
        found.unwrap_or_else(|| panic!("no process {start:?} {words:?} among {all:#?}")).clone()
    }

    /// The most memory that a process has used since it began, in bytes; nothing once it has ended.
    pub fn resident_peak(pid: Pid) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
    }

    pub fn directory(&self) -> PathBuf {
        fs::read_link(format!("/proc/{}/cwd", self.pid)).unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid, signal).unwrap();
    }

    /// Waits for the end of all that carry this mark.
    pub fn wait_for_all(mark: &str) {
        let deadline = Instant::now() + END_LIMIT;
        loop {
            let left = Self::marked(mark);
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "still there after {END_LIMIT:?}: {left:#?}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// A program that the harness uses: what an environment variable names, else the first on PATH.
pub fn tool(variable: &str, name: &str) -> PathBuf {
    std::env::var_os(variable).map_or_else(|| which::which(name).unwrap(), PathBuf::from)
}

/// What is said of a kernel's test.
#[track_caller]
pub fn test<'a>(kernel: &'a Value, name: &str) -> &'a Value {
    let mut tests = kernel["tests"].as_array().unwrap().iter();
    tests.find(|test| test["name"] == name).unwrap_or_else(|| panic!("no {name}: {kernel:#}"))
}
