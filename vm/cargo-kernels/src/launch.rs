//! This machine, and one job in one guest of its: which root directory it gets, how it is handed over, and what was seen.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Write};
use std::iter;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use vm_guest::accel::{self, Accel};
use vm_guest::interrupt::Interrupt;
use vm_guest::payload::Files;
use vm_guest::rundir::RunDir;
use vm_guest::supervise::{self, End, Limits, Observed, Stdin};
use vm_guest::{Backend, Spec, Vm};
use vm_kernels::Kernel;
use vm_kernels::kconfig;
use vm_kernels::lock::{self, How};
use vmtest_agent::{Event, Job, Program, Task};

use crate::dirs::Dirs;
use crate::metadata::{Metadata, RootChoice};
use crate::tools;

/// This machine, and when the run began: what all guests of a run have in common.
pub struct Host<'a> {
    pub dirs: &'a Dirs,
    pub interrupt: &'a Interrupt,
    pub started: Instant,
    qemu: PathBuf,
    /// Where console logs are kept, spared by other runs while this one lasts.
    logs: (PathBuf, Option<File>),
    /// Whose each name of a log is.
    named: Mutex<HashMap<String, String>>,
    /// Whether it was said why KVM is not used.
    accel_note: Once,
}

impl<'a> Host<'a> {
    /// For a run that began at `started`.
    pub fn open(dirs: &'a Dirs, interrupt: &'a Interrupt, started: Instant) -> Result<Self> {
        let qemu = tools::find(dirs, "qemu-system-x86_64")?;
        let logs = log_dir(&dirs.target.join("vmtest/logs"))?;
        Ok(Self { dirs, interrupt, started, qemu, logs, named: Mutex::default(), accel_note: Once::new() })
    }

    /// Why not KVM is said to `note`, once for all kernels of a run.
    pub fn accel(&self, choice: Option<Accel>, kernel: &Kernel, note: &dyn Fn(String)) -> Result<Accel> {
        let (accel, why_not_kvm) = accel::choose(choice, &self.qemu, kernel, &self.dirs.cache)?;
        if let Some(why) = why_not_kvm {
            self.accel_note.call_once(|| note(why));
        }
        Ok(accel)
    }

    /// Where a guest's console is kept: its kernel's name, which may be a path, and what tells it from others.
    pub fn log(&self, names: &[&str]) -> PathBuf {
        let plain = |c: char| if c.is_ascii_alphanumeric() || ".-_".contains(c) { c } else { '_' };
        let words = names.iter().map(|name| name.trim_matches('/').chars().map(plain).collect::<String>());
        let name = words.collect::<Vec<_>>().join(".");
        // A path may be longer than a file's name, which may have 255 bytes (NAME_MAX); its end tells more.
        let name = &name[name.len().saturating_sub(230)..];
        // `a/b` and `a_b` would have one.
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        let owner = names.join("\0");
        let is_free = |name: &String| named.get(name).is_none_or(|other| *other == owner);
        let mut candidates = iter::once(name.to_owned()).chain((2..).map(|number| format!("{name}-{number}")));
        let name = candidates.find(is_free).unwrap_or_default();
        let path = self.logs.0.join(format!("{name}.log"));
        named.insert(name, owner);
        path
    }
}

const LOGS_KEPT: usize = 20;

/// Makes a directory for a run's console logs, with a lock on it, and removes those of runs long past.
fn log_dir(logs: &Path) -> Result<(PathBuf, Option<File>)> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let path = logs.join(format!("{}-{}", now.as_micros(), std::process::id()));
    let made = std::fs::create_dir_all(&path).and_then(|()| lock::existing(&path, How::LockShared));
    let lock = made.with_context(|| format!("cannot create {}", path.display()))?;
    let entries = std::fs::read_dir(logs).into_iter().flatten().flatten();
    let mut old: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    old.sort();
    for dir in old.iter().take(old.len().saturating_sub(LOGS_KEPT)) {
        if let Ok(Some(_lock)) = lock::existing(dir, How::NonBlockingLockExclusive) {
            let _ = std::fs::remove_dir_all(dir);
        }
    }
    Ok((path, lock))
}

/// How a VM runs, where the user says it.
#[derive(Debug, Clone, Copy, Default)]
pub struct VmOptions {
    /// KVM or emulation; KVM, if it works, where nothing is said.
    pub accel: Option<Accel>,
    /// How long all of a kernel's run may take.
    pub timeout: Option<Duration>,
}

/// What all guests of a run and an architecture have in common.
#[derive(Clone, Copy)]
pub struct Guests<'a> {
    pub host: &'a Host<'a>,
    pub backend: &'a dyn Backend,
    /// Their memory, their processors, their root directory, their further kernel parameters.
    pub metadata: &'a Metadata,
    /// KVM or TCG, and the time limit, if the user says so.
    pub vm: VmOptions,
    /// Directories that must be found where they are here.
    pub keep: &'a [String],
    pub copy_out: Option<&'a str>,
}

/// A guest to be started, and what is to be done in it.
pub struct Launch<'a> {
    pub guests: Guests<'a>,
    pub kernel: &'a Kernel,
    pub log: &'a Path,
    /// The task, as it is in a guest that has the host's root directory.
    pub task: Task,
    pub note: &'a dyn Fn(String),
    /// Told where what was copied out is, or why nothing is.
    pub kept: &'a dyn Fn(String),
    pub accel: Accel,
    /// How long it may take from its start to the end of the job, where the user does not say.
    pub limit: Duration,
    /// How much longer for each test, where the user does not say.
    pub each_test: Duration,
    /// What is brought along into a guest that has not the host's root directory.
    pub files: &'a dyn Fn() -> Result<Files>,
    /// Whether a command has this program's standard input.
    pub has_input: bool,
    /// Told that the guest runs, and whether it was restored.
    pub started: &'a dyn Fn(bool),
    /// Whether what was seen may be the fault of an unsound guest, and may be done again in another one. A command that
    /// has input, or printed something, is not done again, whatever this says.
    pub is_in_doubt: &'a dyn Fn(&Observed) -> bool,
}

impl<'a> Guests<'a> {
    /// One of them; what is not said here is as for a command that needs no files.
    pub fn launch(self, kernel: &'a Kernel, log: &'a Path, task: Task, note: &'a dyn Fn(String)) -> Result<Launch<'a>> {
        Ok(Launch {
            guests: self,
            kernel,
            log,
            task,
            note,
            kept: note,
            accel: self.host.accel(self.vm.accel, kernel, note)?,
            // Longer than anybody waits.
            limit: Duration::from_secs(365 * 24 * 3600),
            each_test: Duration::ZERO,
            files: &|| Ok(Files::default()),
            has_input: false,
            started: &|_| {},
            is_in_doubt: &|seen| seen.ended.is_none(),
        })
    }
}

/// For [`Guests::keep`]: those of the directories that there are, and where links lead; one that is in another comes with it.
pub fn kept<'a>(directories: impl IntoIterator<Item = &'a Path>) -> Vec<String> {
    let named: BTreeSet<PathBuf> = directories.into_iter().map(Path::to_owned).collect();
    let real = named.iter().filter_map(|dir| dir.canonicalize().ok());
    let all: BTreeSet<PathBuf> = named.iter().cloned().chain(real).filter(|dir| dir.is_dir()).collect();
    let outermost = |dir: &&PathBuf| !dir.ancestors().skip(1).any(|parent| all.contains(parent));
    all.iter().filter(outermost).filter_map(|dir| dir.to_str().map(str::to_owned)).collect()
}

impl Launch<'_> {
    /// Starts the guest, hands over the job, and watches until it is over. A guest that turns out to have been unsound
    /// does not count: another one has the whole time again. Nothing that the guest does is an error.
    pub fn run(&self, mut on_event: impl FnMut(&Event) -> ControlFlow<()>) -> Result<Observed> {
        // What was handed on cannot be taken back.
        let (has_begun, has_printed) = (Cell::new(false), Cell::new(false));
        let mut on_event = |event: &Event| {
            match event {
                Event::Listed(_) | Event::Started => has_begun.set(true),
                Event::Stdout(_) | Event::Stderr(_) => has_printed.set(true),
                _ => {}
            }
            on_event(event)
        };
        let deadline = || Instant::now() + self.limit().0;
        let (mut host_root, first) = (self.wants_host_root()?, deadline());
        let mut seen = self.once(host_root, first, &mut on_event)?;
        if let (End::NoHostRoot(why), RootChoice::Auto) = (&seen.end, self.guests.metadata.root) {
            (self.note)(brought_along(why));
            host_root = false;
            seen = self.once(host_root, first, &mut on_event)?;
        }
        if self.guests.host.interrupt.signal().is_some() || !(self.is_in_doubt)(&seen) {
            return Ok(seen);
        }
        let Some(why) = self.unsound(host_root, &seen, has_begun.get()) else { return Ok(seen) };
        // What was read cannot be again, either.
        if has_printed.get() || has_begun.get() && self.has_input {
            (self.note)(format!("{why}: what came of it does not count"));
            return Ok(seen);
        }
        (self.note)(format!("{why}: what came of it does not count, running again"));
        self.once(host_root, deadline(), &mut on_event)
    }

    /// From the guest's start to the end of the job, and how much longer for each test.
    fn limit(&self) -> (Duration, Duration) {
        let asked = self.guests.vm.timeout;
        asked.map_or((self.limit, self.each_test), |limit| (limit, Duration::ZERO))
    }

    /// What was wrong with a guest that is in doubt.
    fn unsound(&self, host_root: bool, seen: &Observed, has_begun: bool) -> Option<String> {
        let verify = || {
            let (files, run) = (self.files(host_root)?, RunDir::create(&self.guests.host.dirs.runs())?);
            self.guests.backend.verify_snapshot(&self.spec(host_root, &files, &run, Instant::now()))
        };
        match verify() {
            Ok(Some(why)) => return Some(why),
            Ok(None) => {}
            // That is no reason to lose what was seen.
            Err(error) => (self.note)(format!("cannot tell whether the guest was sound: {error:#}")),
        }
        // QEMU 7.2's emulation now and then leaves rubbish in the flags register of a guest that goes on: the kernel
        // panics within milliseconds. What the program does, or the kernel, it does in the second guest as well.
        let is_early = !has_begun && self.guests.backend.name() == "snapshot" && self.accel == Accel::Tcg;
        let panic = seen.console.panic.as_ref().filter(|_| is_early);
        panic.map(|words| format!("the kernel panicked at once: {words}"))
    }

    fn files(&self, host_root: bool) -> Result<Files> {
        if host_root { Ok(Files::default()) } else { (self.files)() }
    }

    fn wants_host_root(&self) -> Result<bool> {
        // What is there is for this machine.
        let wanted = self.guests.metadata.root;
        if wanted != RootChoice::Auto || !self.kernel.arch.is_host() {
            return Ok(wanted == RootChoice::Host);
        }
        let needs = kconfig::needs(include_str!("../../kconfig.host-root"), "vm/kconfig.host-root")?;
        // Of one that is not known it is tried: if it cannot, it says so.
        let missing = kconfig::missing(self.kernel, needs).unwrap_or_default();
        let options: Vec<&str> = missing.iter().map(|(option, _)| option.as_str()).collect();
        if !options.is_empty() {
            (self.note)(brought_along(&format!("the kernel has no {}", options.join(", no "))));
        }
        Ok(options.is_empty())
    }

    fn once(
        &self,
        host_root: bool,
        deadline: Instant,
        mut on_event: impl FnMut(&Event) -> ControlFlow<()>,
    ) -> Result<Observed> {
        let Guests { host, backend, copy_out, .. } = self.guests;
        let (files, run) = (self.files(host_root)?, RunDir::create(&host.dirs.runs())?);
        let started = backend.start(&self.spec(host_root, &files, &run, deadline), self.note)?;
        let job = self.job(&started, host_root)?;
        (self.started)(started.ready.is_some());
        let (given, each_test) = self.limit();
        let limits = Limits { deadline, given, each_test };
        let mut archive = copy_out.map(|directory| Archive::create(self.log, directory)).transpose()?;
        let keeping = |event: &Event| match (event, &mut archive) {
            (Event::Archive(piece), Some(archive)) => archive.add(&piece.0),
            (Event::Archive(_), None) => ControlFlow::Break(()),
            (event, _) => on_event(event),
        };
        let stdin: Stdin = if self.has_input { Box::new(io::stdin()) } else { Box::new(io::empty()) };
        let seen = supervise::run(started, &job, limits, self.log, host.interrupt, stdin, keeping)?;
        match archive {
            Some(archive) if seen.end == End::Finished || archive.written.is_err() => (self.kept)(archive.finish()?),
            Some(_) if !matches!(seen.end, End::NoHostRoot(_)) => {
                (self.kept)("nothing is kept: the guest ended before all of it was copied".into());
            }
            _ => {}
        }
        Ok(seen)
    }

    fn spec<'s>(&'s self, host_root: bool, files: &'s Files, run: &'s RunDir, deadline: Instant) -> Spec<'s> {
        let Guests { host, metadata, keep, .. } = self.guests;
        Spec {
            kernel: self.kernel,
            files,
            run,
            cache: &host.dirs.cache,
            accel: self.accel,
            deadline,
            memory_mib: metadata.memory_mib,
            cpus: metadata.cpus,
            host_root,
            keep,
            kernel_args: &metadata.kernel_args,
        }
    }

    fn job(&self, started: &Vm, host_root: bool) -> Result<Job> {
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Job {
            protocol: vmtest_agent::PROTOCOL,
            token: random_hex(16)?,
            payload: started.payload.clone(),
            clock_ns: u64::try_from(clock.as_nanos()).unwrap_or(u64::MAX),
            entropy: random_hex(64)?,
            root: started.root.clone(),
            task: if host_root { self.task.clone() } else { minimal(self.task.clone()) },
            copy_out: self.guests.copy_out.map(str::to_owned),
        })
    }
}

/// A task in a guest that has not the host's root directory, where these variables have other values.
fn minimal(mut task: Task) -> Task {
    const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";
    let programs: Vec<&mut Program> = match &mut task {
        Task::Command(program) => vec![program],
        Task::Tests(tests) => {
            let facts = tests.facts.as_mut().map(|facts| &mut facts.program);
            tests.binaries.values_mut().chain(facts).collect()
        }
    };
    for program in programs {
        let env = [("HOME", "/root"), ("PATH", PATH), ("TMPDIR", "/tmp")];
        program.env.extend(env.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
    task
}

fn brought_along(why: &str) -> String {
    format!("{why}: programs bring their libraries along, and find nothing else of this machine")
}

/// What is copied out of a guest, on its way to a file beside the log.
struct Archive<'a> {
    /// The guest's directory.
    directory: &'a str,
    path: PathBuf,
    file: tempfile::NamedTempFile,
    bytes: u64,
    written: io::Result<()>,
}

/// The most that is copied out of a guest, in bytes.
const LONGEST_ARCHIVE: u64 = 1 << 30;
/// A tar archive of nothing, in bytes: its two last blocks.
const EMPTY_ARCHIVE: u64 = 1024;

impl<'a> Archive<'a> {
    fn create(log: &Path, directory: &'a str) -> Result<Self> {
        let path = log.with_extension("tar");
        let beside = path.parent().unwrap_or(Path::new("."));
        let file =
            tempfile::NamedTempFile::new_in(beside).with_context(|| format!("cannot write to {}", beside.display()))?;
        Ok(Self { directory, path, file, bytes: 0, written: Ok(()) })
    }

    fn add(&mut self, bytes: &[u8]) -> ControlFlow<()> {
        self.bytes += bytes.len() as u64;
        self.written = match self.bytes > LONGEST_ARCHIVE {
            true => Err(io::Error::other("it is more than 1 GiB")),
            false => self.file.write_all(bytes),
        };
        if self.written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    fn finish(self) -> Result<String> {
        let path = self.path.display();
        self.written.with_context(|| format!("cannot keep {path}"))?;
        if self.bytes <= EMPTY_ARCHIVE {
            return Ok(format!("nothing is kept: no file was in {} in the guest, or it was not there", self.directory));
        }
        self.file.persist(&self.path).with_context(|| format!("cannot keep {path}"))?;
        Ok(format!("kept {} KiB in {path}", self.bytes.div_ceil(1024)))
    }
}

fn random_hex(bytes: usize) -> Result<String> {
    let mut random = vec![0; bytes];
    getrandom::fill(&mut random).context("the system gives no random numbers")?;
    Ok(hex::encode(random))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_archive_is_not_kept() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        for (bytes, words) in [(1024, "nothing is kept"), (1025, "kept 2 KiB")] {
            let mut archive = Archive::create(&log, "/kept").unwrap();
            assert_eq!(archive.add(&vec![0; bytes]), ControlFlow::Continue(()));
            let said = archive.finish().unwrap();
            assert!(said.starts_with(words), "{said}");
            assert_eq!(log.with_extension("tar").exists(), bytes > 1024);
        }
    }

    #[test]
    fn logs_of_a_run_that_lasts_are_kept_however_many_come_after() {
        let logs = tempfile::tempdir().unwrap();
        let create = || log_dir(logs.path()).unwrap();
        let (first, second) = (create(), create().0);
        (0..LOGS_KEPT).for_each(|_| drop(create()));
        assert!(first.0.is_dir() && !second.exists());
        assert_eq!(std::fs::read_dir(logs.path()).unwrap().count(), LOGS_KEPT + 1);
    }
}
