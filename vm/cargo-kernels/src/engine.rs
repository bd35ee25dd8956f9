//! One kernel from name to verdict: obtain, check, boot, hand over the job, watch, judge.

mod isolate;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, Instant};

use anyhow::Result;
use vmtest_agent::{FactsRequest, Program, Task, TestId, Tests};

use crate::dirs::Dirs;
use crate::flags::VmArgs;
use crate::kernels::{self, Kernel, Target};
use crate::launch::{Launch, Work};
use crate::log_dir::LogDir;
use crate::metadata::Metadata;
use crate::outcome::{Case, Outcome};
use crate::payload::Payload;
use crate::text;
use crate::tools::{self, Tool};
use crate::ui::RunEvent;
use crate::verdict::{KernelReport, Verdict};
use vm_guest::Backend;
use vm_guest::accel::AccelChoice;
use vm_guest::accel::{self, Accel};
use vm_guest::interrupt::Interrupt;
use vm_guest::supervise::{Observed, Progress};
use vm_kernels::kconfig::{self, Checked};

/// What all engines of a run have in common: this machine, and when the run began.
pub struct Host<'a> {
    dirs: &'a Dirs,
    /// For finding out whether KVM works.
    qemu: PathBuf,
    /// Where console logs are kept.
    logs: LogDir,
    started: Instant,
    interrupt: &'a Interrupt,
    /// Whether it was said why KVM is not used.
    accel_note: Once,
}

impl<'a> Host<'a> {
    /// Makes a directory for the console logs of a run that began at `started`.
    ///
    /// # Errors
    /// When QEMU is missing, or the directory cannot be made.
    pub fn open(dirs: &'a Dirs, interrupt: &'a Interrupt, started: Instant) -> Result<Self> {
        let qemu = tools::find(dirs, Tool::Qemu)?;
        let logs = LogDir::create(&dirs.logs())?;
        Ok(Self { dirs, qemu, logs, started, interrupt, accel_note: Once::new() })
    }
}

impl Host<'_> {
    /// KVM or TCG; why not KVM is said to `note`, once.
    ///
    /// # Errors
    /// When what was asked for does not work.
    pub fn accel(&self, choice: AccelChoice, kernel: &Kernel, note: &dyn Fn(String)) -> Result<Accel> {
        let chosen = accel::choose(choice, &self.qemu, kernel, &self.dirs.cache)?;
        if let Some(why) = chosen.note {
            // The same for all kernels of a run, so said once.
            self.accel_note.call_once(|| note(why));
        }
        Ok(chosen.accel)
    }
}

/// Where the console of a kernel's guest is kept.
pub fn log_of(host: &Host<'_>, kernel: &str) -> PathBuf {
    with_suffix(&host.logs.path().join(file_name(kernel)), "log")
}

/// What the user may choose.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `--accel`.
    pub accel: AccelChoice,
    /// `--timeout`, in seconds.
    pub timeout_s: Option<f64>,
    /// Whether to ask the kernel about the program after the tests.
    pub facts: bool,
    /// Whether each test gets a guest of its own.
    pub isolate: bool,
    /// How often a test that fails is run again.
    pub retries: u32,
    /// Whether no test is run any more once one has failed.
    pub fail_fast: bool,
    /// A directory of each guest's that is copied out.
    pub copy_out: Option<String>,
    /// Whether a kernel's warnings are accepted.
    pub allow_kernel_warnings: bool,
    /// Whether an unavailable kernel is accepted.
    pub allow_unavailable: bool,
}

impl From<&VmArgs> for Options {
    fn from(vm: &VmArgs) -> Self {
        Self { accel: vm.accel, timeout_s: vm.timeout, ..Self::default() }
    }
}

/// Which tests are run in one guest.
#[derive(Debug, Clone, Copy)]
enum Which<'a> {
    /// All that the payload has.
    All,
    /// These.
    Only(&'a [TestId]),
    /// None: they are only listed.
    Listed,
}

/// Runs one program's tests on one kernel after the other.
pub struct Engine<'a> {
    host: &'a Host<'a>,
    /// How guests come to be.
    backend: &'a dyn Backend,
    /// What the harness knows of the program.
    metadata: &'a Metadata,
    /// The program and its tests.
    payload: &'a Payload,
    options: Options,
}

/// Where a run's events go.
pub type OnEvent<'a> = &'a (dyn Fn(RunEvent) + Sync);

/// Why there is no guest to judge.
struct Stopped {
    verdict: Verdict,
    reason: String,
    excerpt: Vec<String>,
}

impl Stopped {
    fn because(verdict: Verdict, reason: String) -> Self {
        Self { verdict, reason, excerpt: Vec::new() }
    }

    fn host(error: &anyhow::Error) -> Self {
        let hint = match error.downcast_ref::<kernels::modules::Damaged>() {
            Some(_) => format!("; `{}` drops what is damaged", crate::command::hint("verify")),
            None => String::new(),
        };
        Self::because(Verdict::HostError, format!("{error:#}{hint}"))
    }
}

impl<'a> Engine<'a> {
    /// For the tests of `payload`, in guests that come to be by way of `backend`.
    pub fn new(
        host: &'a Host<'a>,
        backend: &'a dyn Backend,
        metadata: &'a Metadata,
        payload: &'a Payload,
        options: Options,
    ) -> Self {
        Self { host, backend, metadata, payload, options }
    }

    /// How long the whole run has taken until now.
    pub fn elapsed(&self) -> Duration {
        self.host.started.elapsed()
    }

    /// Runs every test of the payload on one kernel. Whatever goes wrong is in the report.
    pub fn run(&self, target: &Target, on: OnEvent<'_>) -> KernelReport {
        let log = self.host.logs.path().join(file_name(target.name()));
        if self.options.isolate {
            return isolate::run(self, target, &log, on);
        }
        self.run_tests(target, Which::All, with_suffix(&log, "log"), on)
    }

    /// Lists the payload's tests in a guest; they are those that are missing in the report.
    pub fn list(&self, target: &Target, on: OnEvent<'_>) -> KernelReport {
        let log = self.host.logs.path().join(file_name(target.name()));
        self.run_tests(target, Which::Listed, with_suffix(&log, "list.log"), on)
    }

    /// Runs some of the payload's tests in one guest.
    fn run_tests(&self, target: &Target, which: Which<'_>, log: PathBuf, on: OnEvent<'_>) -> KernelReport {
        let begun = Instant::now();
        let mut report = KernelReport::unknown(target.name(), self.backend.name());
        report.start_s = self.elapsed().as_secs_f64();
        if let Which::Only(tests) = which {
            report.expect(tests);
        }
        if let Err(stopped) = self.attempt(target, which, log, &mut report, on) {
            report.verdict = stopped.verdict;
            report.reason = stopped.reason;
            report.excerpt = stopped.excerpt;
        }
        report.tolerated = match report.verdict {
            Verdict::Unavailable => self.options.allow_unavailable,
            Verdict::KernelSplat => self.options.allow_kernel_warnings,
            _ => false,
        };
        report.total_s = begun.elapsed().as_secs_f64();
        report
    }

    fn attempt(
        &self,
        target: &Target,
        which: Which<'_>,
        log: PathBuf,
        report: &mut KernelReport,
        on: OnEvent<'_>,
    ) -> Result<(), Stopped> {
        let begun = Instant::now();
        let kernel = target.obtain(&Fetch { on }).map_err(|unavailable| Stopped {
            verdict: Verdict::Unavailable,
            reason: unavailable.reason,
            excerpt: unavailable.attempts,
        })?;
        report.fetch_s = begun.elapsed().as_secs_f64();
        report.release.clone_from(&kernel.release);
        self.check_config(&kernel, on)?;
        if self.host.interrupt.signal().is_some() {
            return Err(Stopped::because(Verdict::HostError, "interrupted".into()));
        }
        on(RunEvent::Preparing);
        let accel = self
            .host
            .accel(self.options.accel, &kernel, &|note| on(RunEvent::Note(note)))
            .map_err(|error| Stopped::host(&error))?;
        report.accel = Some(accel.name().into());
        report.console_log = Some(log.clone());
        let (outcome, seen) =
            self.classified(&kernel, accel, which, &log, on).map_err(|error| Stopped::host(&error))?;
        record(report, outcome, seen);
        Ok(())
    }

    /// Runs the tests in a guest, and in another one if the first turns out to have been unsound: that one has the whole
    /// time again, since the first one's does not count.
    fn classified(
        &self,
        kernel: &Kernel,
        accel: Accel,
        which: Which<'_>,
        log: &Path,
        on: OnEvent<'_>,
    ) -> Result<(Outcome, Observed)> {
        let launch = Launch {
            dirs: self.host.dirs,
            interrupt: self.host.interrupt,
            backend: self.backend,
            kernel,
            accel,
            metadata: self.metadata,
            root: self.metadata.root,
            keep: &self.payload.keep,
            limit: Some(self.options.timeout_s.map_or(
                accel.default_timeout() + Duration::from_secs_f64(self.metadata.test_timeout_s),
                Duration::from_secs_f64,
            )),
            each_test: match self.options.timeout_s {
                Some(_) => Duration::ZERO,
                None => accel.for_each_test(),
            },
            log,
            copy_out: self.options.copy_out.as_deref(),
        };
        let case = Case {
            kernel,
            tests: match which {
                Which::Only(tests) => Some(tests),
                Which::Listed => Some(&[]),
                Which::All => None,
            },
            memory_mib: self.metadata.memory_mib,
            kernel_args: &self.metadata.kernel_args,
        };
        let work = Work {
            task: &|host_root| Task::Tests(self.tests(which, host_root)),
            files: &|| self.payload.brought_along().cloned(),
            stdin: &|| None,
            note: &|text| on(RunEvent::Note(text)),
            started: &|restored| on(if restored { RunEvent::Restoring } else { RunEvent::Booting }),
        };
        let seen = launch.run(&work, reporting(on))?;
        let outcome = case.classify(&seen.observed);
        if outcome.verdict == Verdict::Pass || self.host.interrupt.signal().is_some() {
            return Ok((outcome, seen.observed));
        }
        let why = launch.verify_snapshot(seen.host_root, &work).unwrap_or_else(|error| {
            // That is no reason to lose what was seen.
            on(RunEvent::Note(format!("cannot tell whether the guest was sound: {error:#}")));
            None
        });
        // QEMU 7.2's emulation now and then leaves rubbish in the flags register of a guest that goes on: the kernel
        // panics within milliseconds. What the program does, or the kernel, it does in the second guest as well.
        let is_early = outcome.verdict == Verdict::Panic && seen.observed.listed.is_none();
        let early =
            (is_early && self.backend.name() == "snapshot" && accel == Accel::Tcg).then(|| outcome.reason.clone());
        let Some(why) = why.or(early) else { return Ok((outcome, seen.observed)) };
        on(RunEvent::Note(format!("{why}: what came of it does not count, running again")));
        let seen = launch.run(&work, reporting(on))?.observed;
        Ok((case.classify(&seen), seen))
    }

    fn tests(&self, which: Which<'_>, host_root: bool) -> Tests {
        let binaries = self.payload.binaries.iter();
        let facts = self.payload.facts.clone().filter(|_| self.options.facts);
        let only = match which {
            Which::Only(tests) => Some(tests.to_vec()),
            Which::All | Which::Listed => self.payload.only.clone(),
        };
        let in_root = |program: &Program| match host_root {
            true => program.clone(),
            false => Payload::minimal(program),
        };
        Tests {
            binaries: binaries.map(|(id, program)| (id.clone(), in_root(program))).collect(),
            only,
            list: matches!(which, Which::Listed),
            timeout_s: self.metadata.test_timeout_s,
            retries: self.options.retries,
            fail_fast: self.options.fail_fast,
            facts: facts.map(|facts| FactsRequest { program: in_root(&facts.program), ..facts }),
        }
    }

    fn check_config(&self, kernel: &Kernel, on: OnEvent<'_>) -> Result<(), Stopped> {
        let dirs = self.host.dirs;
        let own = self.metadata.kconfig_paths(dirs);
        let mut needs = kernels::needs(dirs, &own).map_err(|error| Stopped::host(&error))?;
        for (name, text) in [vm_guest::KCONFIG, kernel.arch.kconfig].into_iter().chain(self.backend.kconfig()) {
            needs.extend(kconfig::needs(text, name).map_err(|error| Stopped::host(&error))?);
        }
        match kconfig::check(kernel, needs) {
            Checked::Complete => Ok(()),
            Checked::Unknown => {
                on(RunEvent::Note("its configuration could not be found: booting will show what it lacks".into()));
                Ok(())
            }
            Checked::Missing(missing) => {
                let options: Vec<String> = missing.iter().map(ToString::to_string).collect();
                Err(Stopped {
                    verdict: Verdict::Unsupported,
                    reason: "the kernel was built without options that are needed".into(),
                    excerpt: options,
                })
            }
        }
    }
}

/// Tells of each test.
fn reporting(on: OnEvent<'_>) -> impl FnMut(Progress<'_>) -> ControlFlow<()> {
    let (mut done, mut total) = (0, 0);
    move |progress| {
        let current = match progress {
            Progress::Listed(count) => {
                total = count;
                None
            }
            Progress::Started(test) => Some(text::test_name(test)),
            Progress::Finished => {
                done += 1;
                None
            }
            _ => {
                return ControlFlow::Continue(());
            }
        };
        on(RunEvent::Testing { done, total, current });
        ControlFlow::Continue(())
    }
}

fn record(report: &mut KernelReport, outcome: Outcome, seen: Observed) {
    let Outcome { verdict, reason, excerpt } = outcome;
    report.verdict = verdict;
    report.reason = reason;
    report.excerpt = excerpt;
    report.booted = seen.ready.is_some();
    if let Some(ready) = seen.ready {
        report.release = Some(ready.release);
    }
    report.boot_s = seen.boot.map(|boot| boot.as_secs_f64());
    report.test_s = seen.test.map(|test| test.as_secs_f64());
    report.facts = seen.facts;
    report.tests = seen.outcomes;
    if let Some(tests) = seen.listed {
        report.expect(&tests);
    }
}

struct Fetch<'a> {
    on: OnEvent<'a>,
}

impl kernels::Progress for Fetch<'_> {
    fn bytes(&self, done: u64, total: Option<u64>) {
        (self.on)(RunEvent::Fetching { done, total });
    }

    fn note(&self, text: &str) {
        (self.on)(RunEvent::Note(text.to_owned()));
    }
}

/// A path with an extension added to whatever dots its name has.
fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// A kernel's name as part of a file's: a path becomes one word.
fn file_name(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    name.trim_matches('/').chars().map(|c| if plain(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::net::UnixStream;
    use std::sync::Mutex;

    use command_fds::{CommandFdExt, FdMapping};

    use super::*;
    use crate::kernels::Expected;
    use vm_guest::process::{Supervised, SupervisedCommand};
    use vm_guest::{Link, Spec, Vm};

    /// Its guests say nothing, and nobody can tell whether they were sound.
    struct Unsound(Mutex<u32>);

    impl Backend for Unsound {
        fn name(&self) -> &'static str {
            "unsound"
        }

        fn start(&self, _spec: &Spec<'_>, _note: &dyn Fn(String)) -> Result<Vm> {
            *self.0.lock().unwrap() += 1;
            let (guest, host) = UnixStream::pair()?;
            let mut command = SupervisedCommand::new("sleep")?;
            command.arg("1000");
            command.fd_mappings(vec![FdMapping { parent_fd: guest.into(), child_fd: 3 }])?;
            Ok(Vm {
                process: Supervised::spawn(command)?,
                console: vec![],
                channel: Link::Connected(host),
                qmp: None,
                payload: vmtest_agent::Payload::Memory { bytes: 0 },
                root: vmtest_agent::Root::Minimal { keep: vec![] },
                ready: None,
            })
        }

        fn verify_snapshot(&self, _spec: &Spec<'_>) -> Result<Option<String>> {
            anyhow::bail!("its memory was changed")
        }
    }

    #[test]
    fn a_verdict_stands_when_its_guest_cannot_be_looked_at() {
        let logs = tempfile::tempdir().unwrap();
        let backend = Unsound(Mutex::new(0));
        let dirs = Dirs { target: logs.path().join("target"), cache: logs.path().to_owned(), ..Dirs::find().unwrap() };
        let (metadata, payload) = (Metadata::load(&dirs).unwrap(), Payload::default());
        let interrupt = Interrupt::default();
        let host = Host {
            dirs: &dirs,
            qemu: "qemu".into(),
            logs: LogDir::create(logs.path()).unwrap(),
            started: Instant::now(),
            interrupt: &interrupt,
            accel_note: Once::new(),
        };
        let engine =
            Engine::new(&host, &backend, &metadata, &payload, Options { timeout_s: Some(0.1), ..Options::default() });
        let kernel = Kernel {
            name: "k".into(),
            arch: kernels::Arch::host(),
            image: "/boot/k".into(),
            sha256: None,
            modules: None,
            expected: Expected::Any,
            release: None,
            config: None,
            source: "path".into(),
        };
        let notes = Mutex::new(Vec::new());
        let on = |event| {
            if let RunEvent::Note(note) = event {
                notes.lock().unwrap().push(note);
            }
        };
        let log = logs.path().join("log");
        let (outcome, _) = engine.classified(&kernel, Accel::Tcg, Which::All, &log, &on).expect("the verdict is lost");
        assert_eq!(outcome.verdict, Verdict::NoBoot, "{}", outcome.reason);
        let expected = "cannot tell whether the guest was sound: its memory was changed";
        assert_eq!(*notes.lock().unwrap(), [expected]);
        assert_eq!(backend.0.into_inner().unwrap(), 1);
    }
}
