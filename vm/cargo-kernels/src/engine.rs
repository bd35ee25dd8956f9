//! One kernel from name to verdict: obtain, check, boot, hand over the job, watch, classify.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use vmtest_agent::{Event, Task, TestId, Tests};

use crate::event::RunEvent;
use crate::kernels::{self, Kernel, Target};
use crate::launch::{Guests, Host, Launch, VmOptions};
use crate::metadata::Metadata;
use crate::outcome::{Case, Outcome};
use crate::payload::Payload;
use crate::text;
use crate::verdict::{KernelReport, Verdict};
use vm_guest::Backend;
use vm_guest::supervise::Observed;
use vm_kernels::kconfig;

/// How tests are run.
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub vm: VmOptions,
    /// A directory of the guest's that is copied out at the end.
    pub keep: Option<String>,
    /// How often a test that fails is run again.
    pub retries: u32,
    /// No further test is run on a kernel once one has failed there.
    pub fail_fast: bool,
    /// Each kernel is asked what it says of the program.
    pub facts: bool,
    /// That a kernel is unavailable is tolerated.
    pub allow_unavailable: bool,
    /// A splat of a kernel on which the tests passed is tolerated.
    pub allow_kernel_warnings: bool,
}

/// Runs one program's tests on one kernel after the other.
pub struct Engine<'a> {
    pub(crate) guests: Guests<'a>,
    pub(crate) payload: &'a Payload,
    options: &'a Options,
}

pub type OnEvent<'a> = &'a (dyn Fn(RunEvent) + Sync);

fn host_error(error: &anyhow::Error) -> Outcome {
    let mut reason = format!("{error:#}");
    if error.is::<kernels::modules::Damaged>() {
        reason += &format!("; `{}` drops what is damaged", crate::hint::hint("kernels verify"));
    }
    Outcome { verdict: Verdict::HostError, reason, excerpt: Vec::new() }
}

impl<'a> Engine<'a> {
    pub fn new(
        host: &'a Host<'a>,
        backend: &'a dyn Backend,
        metadata: &'a Metadata,
        payload: &'a Payload,
        options: &'a Options,
    ) -> Self {
        let (vm, copy_out) = (options.vm, options.keep.as_deref());
        Self { guests: Guests { host, backend, metadata, vm, keep: &payload.keep, copy_out }, payload, options }
    }

    /// Runs every test of the payload on one kernel. Whatever goes wrong is in the report.
    pub fn run(&self, target: &Target, on: OnEvent<'_>) -> KernelReport {
        self.run_tests(target, None, &self.guests.host.log(&[target.name()]), on)
    }

    /// Lists the payload's tests in a guest; they are those that are missing in the report.
    pub fn list(&self, target: &Target, on: OnEvent<'_>) -> KernelReport {
        self.run_tests(target, Some(&[]), &self.guests.host.log(&[target.name(), "list"]), on)
    }

    /// Runs tests in one guest: those of the payload if nothing is said, else these; of an empty slice they are only listed.
    pub fn run_tests(&self, target: &Target, tests: Option<&[TestId]>, log: &Path, on: OnEvent<'_>) -> KernelReport {
        let begun = Instant::now();
        let mut report = KernelReport::unknown(target.name(), self.guests.backend.name());
        report.start_s = self.guests.host.started.elapsed().as_secs_f64();
        report.expect(tests.unwrap_or_default());
        let outcome = self.attempt(target, tests, log, &mut report, on).unwrap_or_else(|error| host_error(&error));
        (report.verdict, report.reason, report.excerpt) = (outcome.verdict, outcome.reason, outcome.excerpt);
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
        tests: Option<&[TestId]>,
        log: &Path,
        report: &mut KernelReport,
        on: OnEvent<'_>,
    ) -> Result<Outcome> {
        let begun = Instant::now();
        let kernel = match target.obtain(&Fetch(on)) {
            Ok(kernel) => kernel,
            Err(kernels::obtain::Unavailable { reason, attempts, .. }) => {
                return Ok(Outcome { verdict: Verdict::Unavailable, reason, excerpt: attempts });
            }
        };
        report.fetch_s = begun.elapsed().as_secs_f64();
        report.release.clone_from(&kernel.release);
        let excerpt = self.lacking(&kernel, on)?;
        if !excerpt.is_empty() {
            let reason = "the kernel was built without options that are needed".into();
            return Ok(Outcome { verdict: Verdict::Unsupported, reason, excerpt });
        }
        ensure!(self.guests.host.interrupt.signal().is_none(), "interrupted");
        on(RunEvent::Preparing);
        let note = |text| on(RunEvent::Note(text));
        let launch = self.guests.launch(&kernel, log, Task::Tests(self.tests(tests)), &note)?;
        report.accel = Some(launch.accel.name().into());
        report.console_log = Some(log.to_owned());
        let case = Case { kernel: &kernel, tests, metadata: self.guests.metadata };
        let launch = Launch {
            limit: launch.accel.default_timeout() + Duration::from_secs_f64(self.guests.metadata.test_timeout_s),
            each_test: launch.accel.for_each_test(),
            files: &|| self.payload.brought_along().cloned(),
            started: &|restored| on(if restored { RunEvent::Restoring } else { RunEvent::Booting }),
            is_in_doubt: &|seen| case.classify(seen).verdict != Verdict::Pass,
            ..launch
        };
        let seen = launch.run(reporting(on))?;
        let outcome = case.classify(&seen);
        record(report, seen);
        Ok(outcome)
    }

    fn tests(&self, tests: Option<&[TestId]>) -> Tests {
        let list = tests.is_some_and(<[_]>::is_empty);
        let wants_facts = !list && self.options.facts;
        let only = tests.filter(|_| !list).map(<[_]>::to_vec);
        Tests {
            binaries: self.payload.binaries.clone(),
            only: only.or_else(|| self.payload.only.clone()),
            list,
            timeout_s: self.guests.metadata.test_timeout_s,
            retries: self.options.retries,
            fail_fast: self.options.fail_fast,
            facts: self.payload.facts.clone().filter(|_| wants_facts),
        }
    }

    /// The options that are needed and that the kernel was built without.
    fn lacking(&self, kernel: &Kernel, on: OnEvent<'_>) -> Result<Vec<String>> {
        let dirs = self.guests.host.dirs;
        let mut needs = kernels::needs(dirs, &self.guests.metadata.kconfig)?;
        for (name, text) in [vm_guest::KCONFIG, kernel.arch.kconfig].into_iter().chain(self.guests.backend.kconfig()) {
            needs.extend(kconfig::needs(text, name)?);
        }
        let missing = kconfig::missing(kernel, needs);
        if missing.is_none() {
            on(RunEvent::Note("its configuration could not be found: booting will show what it lacks".into()));
        }
        Ok(missing.unwrap_or_default().into_iter().map(|(_, wrong)| wrong).collect())
    }
}

fn reporting(on: OnEvent<'_>) -> impl FnMut(&Event) -> ControlFlow<()> {
    let (mut done, mut total) = (0, 0);
    move |event| {
        let mut current = None;
        match event {
            Event::Listed(tests) => (done, total) = (0, tests.len()),
            Event::TestStarted(test) => current = Some(text::test_name(test)),
            Event::TestFinished(_) => done += 1,
            _ => return ControlFlow::Continue(()),
        }
        on(RunEvent::Testing { done, total, current });
        ControlFlow::Continue(())
    }
}

fn record(report: &mut KernelReport, seen: Observed) {
    report.booted = seen.ready.is_some();
    report.release = seen.ready.map(|ready| ready.release).or(report.release.take());
    report.boot_s = seen.boot.map(|boot| boot.as_secs_f64());
    report.test_s = seen.test.map(|test| test.as_secs_f64());
    report.facts = seen.facts;
    report.tests = seen.outcomes;
    if let Some(tests) = seen.listed {
        report.expect(&tests);
    }
}

struct Fetch<'a>(OnEvent<'a>);

impl kernels::Progress for Fetch<'_> {
    fn bytes(&self, done: u64, total: Option<u64>) {
        self.0(RunEvent::Fetching { done, total });
    }

    fn note(&self, text: &str) {
        self.0(RunEvent::Note(text.to_owned()));
    }
}
