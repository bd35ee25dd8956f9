//! One job in one guest: which root directory it gets, how it is handed over, and what was seen.

use std::collections::BTreeSet;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use vm_guest::accel::Accel;
use vm_guest::interrupt::Interrupt;
use vm_guest::payload::Payload as Files;
use vm_guest::rundir::RunDir;
use vm_guest::supervise::{self, End, Limits, Observed, Progress, Stdin};
use vm_guest::{Backend, Spec, Vm};
use vm_kernels::Kernel;
use vm_kernels::kconfig::{self, Checked};
use vmtest_agent::{Job, Task};

use crate::dirs::Dirs;
use crate::metadata::{Metadata, RootChoice};

/// What a guest needs of a kernel for its programs to have the host's root directory, in the format of
/// [`vm_kernels::kconfig`].
const HOST_ROOT: (&str, &str) = ("vm/kconfig.host-root", include_str!("../../kconfig.host-root"));

/// A guest to be started.
#[derive(Clone, Copy)]
pub struct Launch<'a> {
    /// Where things are.
    pub dirs: &'a Dirs,
    /// Ends it.
    pub interrupt: &'a Interrupt,
    /// How it comes to be.
    pub backend: &'a dyn Backend,
    /// Its kernel.
    pub kernel: &'a Kernel,
    /// KVM or TCG.
    pub accel: Accel,
    /// Its memory, its processors, its further kernel parameters.
    pub metadata: &'a Metadata,
    /// What its programs find as their root directory.
    pub root: RootChoice,
    /// Directories that must be found where they are here.
    pub keep: &'a [String],
    /// How long it may take from its start to the end of the job; for ever if nothing.
    pub limit: Option<Duration>,
    /// How much longer for each test.
    pub each_test: Duration,
    /// Where its console is kept.
    pub log: &'a Path,
    /// A directory of the guest's that is copied out.
    pub copy_out: Option<&'a str>,
}

/// For [`Launch::keep`]: those of the directories that there are, and where links lead; one that is in another comes with it.
pub fn kept<'a>(directories: impl IntoIterator<Item = &'a Path>) -> Vec<String> {
    let named: BTreeSet<PathBuf> = directories.into_iter().map(Path::to_owned).collect();
    let real = named.iter().filter_map(|dir| dir.canonicalize().ok());
    let all: BTreeSet<PathBuf> = named.iter().cloned().chain(real).filter(|dir| dir.is_dir()).collect();
    let outermost = |dir: &&PathBuf| !dir.ancestors().skip(1).any(|parent| all.contains(parent));
    all.iter().filter(outermost).filter_map(|dir| dir.to_str().map(str::to_owned)).collect()
}

/// What is to be done in a guest.
pub struct Work<'a> {
    /// The task in a guest that has the host's root directory, or in one that has not.
    pub task: &'a dyn Fn(bool) -> Task,
    /// What is brought along into one that has not.
    pub files: &'a dyn Fn() -> Result<Files>,
    /// The standard input of a command.
    pub stdin: &'a dyn Fn() -> Option<Stdin>,
    /// What a person should know.
    pub note: &'a dyn Fn(String),
    /// The guest was started; whether it was restored.
    pub started: &'a dyn Fn(bool),
}

/// What was seen of a guest, and whether its programs had the host's root directory.
pub struct Seen {
    /// What was seen.
    pub observed: Observed,
    /// Whether they had.
    pub host_root: bool,
}

/// Longer than anybody waits.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

impl Launch<'_> {
    /// Starts the guest, hands over the job, and watches until it is over.
    ///
    /// # Errors
    /// When the host cannot do it; nothing that the guest does is an error.
    pub fn run(&self, work: &Work<'_>, mut progress: impl FnMut(Progress<'_>) -> ControlFlow<()>) -> Result<Seen> {
        let host_root = self.wants_host_root(work.note)?;
        let seen = self.once(host_root, work, &mut progress)?;
        match (&seen.end, self.root) {
            (End::NoHostRoot(why), RootChoice::Auto) => {
                (work.note)(brought_along(why));
                Ok(Seen { observed: self.once(false, work, &mut progress)?, host_root: false })
            }
            _ => Ok(Seen { observed: seen, host_root }),
        }
    }

    fn wants_host_root(&self, note: &dyn Fn(String)) -> Result<bool> {
        if self.root != RootChoice::Auto {
            return Ok(self.root == RootChoice::Host);
        }
        if !self.kernel.arch.is_host() {
            // The programs there are for this machine.
            return Ok(false);
        }
        let (name, text) = HOST_ROOT;
        match kconfig::check(self.kernel, kconfig::needs(text, name)?) {
            Checked::Missing(missing) => {
                let options: Vec<&str> = missing.iter().map(|missing| missing.need.option.as_str()).collect();
                note(brought_along(&format!("the kernel has no {}", options.join(", no "))));
                Ok(false)
            }
            // If it cannot, it says so.
            Checked::Complete | Checked::Unknown => Ok(true),
        }
    }

    fn once(
        &self,
        host_root: bool,
        work: &Work<'_>,
        mut progress: impl FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Observed> {
        let files = if host_root { Files::default() } else { (work.files)()? };
        let run = RunDir::create(&self.dirs.runs())?;
        let given = self.limit.unwrap_or(FOR_EVER);
        let deadline = Instant::now() + given;
        let started = self.backend.start(&self.spec(host_root, &files, &run, deadline), work.note)?;
        (work.started)(started.ready.is_some());
        let task = (work.task)(host_root);
        let job = Job { copy_out: self.copy_out.map(str::to_owned), ..job(&started, task)? };
        let limits = Limits { deadline, given, each_test: self.each_test };
        let mut archive = self.copy_out.map(|_| self.archive()).transpose()?;
        let keeping = |event: Progress<'_>| match (event, &mut archive) {
            (Progress::Archive(bytes), Some(archive)) => archive.add(bytes),
            (Progress::Archive(_), None) => ControlFlow::Break(()),
            (event, _) => progress(event),
        };
        let seen = supervise::run(started, &job, limits, self.log, self.interrupt, (work.stdin)(), keeping)?;
        if let Some(archive) = archive {
            (work.note)(archive.finish()?);
        }
        Ok(seen)
    }

    /// Beside the log.
    fn archive(&self) -> Result<Archive> {
        let path = self.log.with_extension("tar");
        let directory = path.parent().unwrap_or(Path::new("."));
        let file = tempfile::NamedTempFile::new_in(directory)
            .with_context(|| format!("cannot write to {}", directory.display()))?;
        Ok(Archive { path, file, bytes: 0, written: Ok(()) })
    }

    /// Looks, when a guest did not pass, whether what it was made of is still sound; what was wrong, if it was not.
    ///
    /// # Errors
    /// When it cannot look.
    pub fn verify_snapshot(&self, host_root: bool, work: &Work<'_>) -> Result<Option<String>> {
        let files = if host_root { Files::default() } else { (work.files)()? };
        let run = RunDir::create(&self.dirs.runs())?;
        self.backend.verify_snapshot(&self.spec(host_root, &files, &run, Instant::now()))
    }

    fn spec<'s>(&'s self, host_root: bool, payload: &'s Files, run: &'s RunDir, deadline: Instant) -> Spec<'s> {
        Spec {
            kernel: self.kernel,
            payload,
            run,
            cache: &self.dirs.cache,
            accel: self.accel,
            deadline,
            memory_mib: self.metadata.memory_mib,
            cpus: self.metadata.cpus,
            host_root,
            keep: self.keep,
            kernel_args: &self.metadata.kernel_args,
        }
    }
}

fn brought_along(why: &str) -> String {
    format!("{why}: programs bring their libraries along, and find nothing else of this machine")
}

/// What is copied out of a guest, on its way to a file.
struct Archive {
    path: PathBuf,
    file: tempfile::NamedTempFile,
    bytes: u64,
    written: std::io::Result<()>,
}

/// The most that is copied out of a guest, in bytes.
const LONGEST_ARCHIVE: u64 = 1 << 30;

impl Archive {
    fn add(&mut self, bytes: &[u8]) -> ControlFlow<()> {
        self.bytes += bytes.len() as u64;
        self.written = match self.bytes > LONGEST_ARCHIVE {
            true => Err(std::io::Error::other("it is more than 1 GiB")),
            false => self.file.write_all(bytes),
        };
        if self.written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    /// Says where it is.
    fn finish(self) -> Result<String> {
        let path = self.path.display();
        self.written.with_context(|| format!("cannot keep {path}"))?;
        self.file.persist(&self.path).with_context(|| format!("cannot keep {path}"))?;
        Ok(format!("kept {} KiB in {path}", self.bytes.div_ceil(1024)))
    }
}

fn job(started: &Vm, task: Task) -> Result<Job> {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Job {
        protocol: vmtest_agent::PROTOCOL,
        token: random_hex(16)?,
        payload: started.payload.clone(),
        clock_ns: u64::try_from(clock.as_nanos()).unwrap_or(u64::MAX),
        entropy: random_hex(64)?,
        root: started.root.clone(),
        task,
        copy_out: None,
    })
}

fn random_hex(bytes: usize) -> Result<String> {
    let mut random = vec![0; bytes];
    getrandom::fill(&mut random).context("the system gives no random numbers")?;
    Ok(hex::encode(random))
}
