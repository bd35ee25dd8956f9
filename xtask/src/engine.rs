//! One kernel from name to verdict: obtain, check, boot, hand over the job, watch, judge.

mod isolate;

use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use vmtest_agent::{Job, TestId};

use crate::exit::Exit;
use crate::flags::AccelChoice;
use crate::interrupt::Interrupt;
use crate::judge::{Case, Judgement};
use crate::kernels::kconfig::{self, Checked};
use crate::kernels::{self, Kernel, Target};
use crate::metadata::Metadata;
use crate::paths;
use crate::payload::Payload;
use crate::ui::RunEvent;
use crate::verdict::{KernelReport, Verdict};
use crate::vm::accel::{self, Accel};
use crate::vm::rundir::RunDir;
use crate::vm::supervise::{self, Limits, Observed, Progress};
use crate::vm::{Lane, Spec};

/// What all kernels of a run have in common.
pub struct Engine<'a> {
    /// How guests come to be.
    pub lane: &'a dyn Lane,
    /// The QEMU program, for finding out whether KVM works.
    pub qemu: PathBuf,
    /// What the harness knows of the program.
    pub metadata: &'a Metadata,
    /// The program and its tests.
    pub payload: &'a Payload,
    /// `--accel`.
    pub accel: AccelChoice,
    /// `--timeout`, in seconds.
    pub timeout_s: Option<f64>,
    /// Whether to ask the kernel about the program after the tests.
    pub facts: bool,
    /// Whether each test gets a guest of its own.
    pub isolate: bool,
    /// Whether a kernel's warnings are accepted.
    pub allow_kernel_warnings: bool,
    /// Whether an unavailable kernel is accepted.
    pub allow_unavailable: bool,
    /// Where console logs are kept.
    pub logs: PathBuf,
    /// When the whole run began.
    pub started: Instant,
    /// Ctrl-C.
    pub interrupt: &'a Interrupt,
    /// Whether it was said why KVM is not used.
    pub accel_note: Once,
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
            Some(_) => "; `cargo xtask kernels verify` drops what is damaged",
            None => "",
        };
        Self::because(Verdict::HostError, format!("{error:#}{hint}"))
    }
}

impl Engine<'_> {
    /// Runs every test of the payload on one kernel. Whatever goes wrong is in the report.
    pub fn run(&self, target: &Target, on: OnEvent<'_>) -> KernelReport {
        let tests = &self.payload.tests;
        let log = self.logs.join(file_name(target.name()));
        if self.isolate {
            return isolate::run(self, target, &log, on);
        }
        self.run_tests(target, tests, with_suffix(&log, "log"), on)
    }

    /// Runs some of the payload's tests in one guest.
    fn run_tests(
        &self,
        target: &Target,
        tests: &[TestId],
        log: PathBuf,
        on: OnEvent<'_>,
    ) -> KernelReport {
        let begun = Instant::now();
        let mut report = KernelReport::unknown(target.name(), self.lane.name());
        report.start_s = self.started.elapsed().as_secs_f64();
        report.expected_tests = tests.len();
        if let Err(stopped) = self.attempt(target, tests, log, &mut report, on) {
            report.verdict = stopped.verdict;
            report.reason = stopped.reason;
            report.excerpt = stopped.excerpt;
        }
        let outcomes = &report.tests;
        let ran = |test: &TestId| outcomes.iter().any(|outcome| outcome.test == *test);
        report.missing = tests.iter().filter(|test| !ran(test)).cloned().collect();
        report.tolerated = match report.verdict {
            Verdict::Unavailable => self.allow_unavailable,
            Verdict::KernelComplaint => self.allow_kernel_warnings,
            _ => false,
        };
        report.total_s = begun.elapsed().as_secs_f64();
        report
    }

    fn attempt(
        &self,
        target: &Target,
        tests: &[TestId],
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
        if self.interrupt.signal().is_some() {
            return Err(Stopped::because(Verdict::HostError, "interrupted".into()));
        }
        on(RunEvent::Preparing);
        let accel = self.choose_accel(&kernel, on)?;
        report.accel = Some(accel.name().into());
        report.console_log = Some(log.clone());
        let timeout_s = self.timeout_s.unwrap_or_else(|| accel.default_timeout().as_secs_f64());
        let (judgement, seen) = self
            .judged(&kernel, accel, timeout_s, tests, &log, on)
            .map_err(|error| Stopped::host(&error))?;
        record(report, judgement, seen);
        Ok(())
    }

    /// Runs the tests in a guest, and in another one if the first turns out to have been unsound.
    fn judged(
        &self,
        kernel: &Kernel,
        accel: Accel,
        timeout_s: f64,
        tests: &[TestId],
        log: &Path,
        on: OnEvent<'_>,
    ) -> Result<(Judgement, Observed)> {
        let case = Case { kernel, tests, timeout_s, memory_mib: self.metadata.memory_mib };
        let seen = self.boot(kernel, accel, timeout_s, tests, log, on)?;
        let judgement = case.judge(&seen);
        if judgement.verdict == Verdict::Pass || self.interrupt.signal().is_some() {
            return Ok((judgement, seen));
        }
        let Some(why) = self.lane.blame(&self.spec(kernel, accel, &RunDir::create()?))? else {
            return Ok((judgement, seen));
        };
        on(RunEvent::Note(format!("{why}: what came of it does not count, running again")));
        let seen = self.boot(kernel, accel, timeout_s, tests, log, on)?;
        Ok((case.judge(&seen), seen))
    }

    fn check_config(&self, kernel: &Kernel, on: OnEvent<'_>) -> Result<(), Stopped> {
        let mut fragments = self.metadata.kconfig_paths();
        fragments.push(paths::workspace().join(self.lane.kconfig()));
        let needs = kernels::needs(&fragments).map_err(|error| Stopped::host(&error))?;
        match kconfig::check(kernel, needs) {
            Checked::Complete => Ok(()),
            Checked::Unknown => {
                on(RunEvent::Note(
                    "its configuration could not be found: booting will show what it lacks".into(),
                ));
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

    fn choose_accel(&self, kernel: &Kernel, on: OnEvent<'_>) -> Result<Accel, Stopped> {
        let chosen = accel::choose(self.accel, &self.qemu, &kernel.image)
            .map_err(|error| Stopped::host(&error))?;
        if let Some(note) = chosen.note {
            // The same for all kernels of a run, so said once.
            self.accel_note.call_once(|| on(RunEvent::Note(note)));
        }
        Ok(chosen.accel)
    }

    fn boot(
        &self,
        kernel: &Kernel,
        accel: Accel,
        timeout_s: f64,
        tests: &[TestId],
        log: &Path,
        on: OnEvent<'_>,
    ) -> Result<Observed> {
        let run = RunDir::create()?;
        let spec = self.spec(kernel, accel, &run);
        let started = self.lane.start(&spec, &|text| on(RunEvent::Note(text)))?;
        on(RunEvent::Booting);
        let job = self.job(started.payload.clone(), tests)?;
        let limits = Limits { total: Duration::from_secs_f64(timeout_s) };
        let (total, mut done) = (tests.len(), 0);
        supervise::run(started, &job, limits, log, self.interrupt, |progress| {
            let current = match progress {
                Progress::Testing => None,
                Progress::Started(test) => Some(test.name.clone()),
                Progress::Finished => {
                    done += 1;
                    None
                }
            };
            on(RunEvent::Testing { done, total, current });
        })
    }

    fn spec<'s>(&'s self, kernel: &'s Kernel, accel: Accel, run: &'s RunDir) -> Spec<'s> {
        Spec {
            kernel,
            payload: self.payload,
            run,
            accel,
            memory_mib: self.metadata.memory_mib,
            kernel_args: &self.metadata.kernel_args,
        }
    }

    fn job(&self, payload: vmtest_agent::Payload, tests: &[TestId]) -> Result<Job> {
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Job {
            protocol: vmtest_agent::PROTOCOL,
            token: random_hex(16)?,
            payload,
            clock_ns: u64::try_from(clock.as_nanos()).unwrap_or(u64::MAX),
            entropy: random_hex(64)?,
            env: self.payload.env.clone(),
            tests: tests.to_vec(),
            test_timeout_s: self.metadata.test_timeout_s,
            facts: self.facts.then(|| self.payload.facts.clone()),
        })
    }
}

fn record(report: &mut KernelReport, judgement: Judgement, seen: Observed) {
    let Judgement { verdict, reason, excerpt } = judgement;
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

fn random_hex(bytes: usize) -> Result<String> {
    let mut random = vec![0; bytes];
    getrandom::fill(&mut random).context("the system gives no random numbers")?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Makes the directory for this run's console logs, and removes those of runs long past.
///
/// # Errors
/// When it cannot be created.
pub fn log_dir() -> Result<PathBuf> {
    const KEPT: usize = 20;
    let logs = paths::target().join("vmtest/logs");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let own = logs.join(format!("{}-{}", now.as_millis(), std::process::id()));
    std::fs::create_dir_all(&own)
        .map_err(|error| Exit::not_run(format!("cannot create {}: {error}", own.display())))?;
    let entries = std::fs::read_dir(&logs).into_iter().flatten().flatten();
    let mut old: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    old.sort();
    for dir in old.iter().take(old.len().saturating_sub(KEPT)) {
        let _ = std::fs::remove_dir_all(dir);
    }
    Ok(own)
}
