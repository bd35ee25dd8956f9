//! The processes that a run started, wherever they have gone since.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A variable that every process of a scene has inherited in its environment.
pub const MARK: &str = "VMTEST_FAULT";
/// How long processes may take to be gone once the harness is.
const PATIENCE: Duration = Duration::from_secs(30);

/// One living process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pid: Pid,
    /// Its arguments, separated by spaces.
    command: String,
}

impl Process {
    /// All that carry this mark.
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
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = Self::marked(mark);
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "still there after {PATIENCE:?}: {left:#?}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}
