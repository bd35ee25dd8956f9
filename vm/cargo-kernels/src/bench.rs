//! `cargo xtask bench`: the time to a verdict, each way of getting there beside a bare QEMU boot.
//!
//! The ways take turns, so that whatever else the machine does falls on all of them. Each does the
//! same job, the first test alone; the tools that are only there to compare with run `uname -r`.

mod others;
mod table;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::backends;
use crate::cross;
use crate::dirs::Dirs;
use crate::engine::{Engine, Host, Options};
use crate::exit;
use crate::flags;
use crate::kernels::{self, Arch, Kernel, Silent, Target};
use crate::metadata::Metadata;
use crate::payload::{Choice, Payload};
use crate::ui::RunEvent;
use crate::verdict::Standing;
use others::Other;
use table::{Measured, Series};
use vm_guest::Backend;
use vm_guest::accel::Accel;
use vm_guest::bare::Bare;
use vm_guest::interrupt::Interrupt;
use vm_guest::rundir::RunDir;
use vmtest_agent::TestId;

/// Runs the command.
///
/// # Errors
/// On wrong usage, when a tool is missing, and when a run that is to be timed fails. How long
/// anything took is never an error.
pub fn run(dirs: &Dirs, flags: &flags::Bench) -> Result<u8> {
    let targets = kernels::select(dirs, &flags.select.kernels, &flags.select.arches)?;
    let interrupt = Interrupt::install()?;
    let mut code = exit::OK;
    for (arch, targets) in kernels::by_arch(targets) {
        code = code.max(of_arch(dirs, flags, arch, &targets, &interrupt)?);
    }
    Ok(code)
}

fn of_arch(
    dirs: &Dirs,
    flags: &flags::Bench,
    arch: &'static Arch,
    targets: &[Target],
    interrupt: &Interrupt,
) -> Result<u8> {
    let metadata = Metadata::load(dirs)?;
    let host = Host::open(dirs, interrupt, Instant::now())?;
    let restore = backends::open(dirs, arch, true, interrupt)?;
    let mut payload = Payload::build(dirs, arch, &metadata, &Choice::default())?;
    payload.only = Some(vec![first_test(&host, &*restore, &metadata, &payload, targets)?]);
    let bare = Bare { qemu: cross::qemu(dirs, arch)?, programs: cross::programs(dirs, arch)? };
    let bench = Bench {
        dirs,
        flags,
        host: &host,
        interrupt,
        metadata,
        payload,
        backends: [Box::new(bare), backends::open(dirs, arch, false, interrupt)?, restore],
        // They start this machine's kernels.
        others: if arch.is_host() { Other::on_path(dirs) } else { Vec::new() },
    };
    let mut code = exit::OK;
    for target in targets {
        match bench.measure(target) {
            Ok(measured) if flags.json => println!("{}", measured.json()),
            Ok(measured) => println!("{}", measured.text()),
            Err(error) => {
                eprintln!("{}: {error:#}", target.name());
                code = exit::NOT_RUN;
            }
        }
        if let Some(signal) = interrupt.signal() {
            return Ok(exit::interrupted(signal));
        }
    }
    Ok(code)
}

fn first_test(
    host: &Host<'_>,
    backend: &dyn Backend,
    metadata: &Metadata,
    payload: &Payload,
    targets: &[Target],
) -> Result<TestId> {
    let target = targets.first().context("no kernel was named")?;
    let engine = Engine::new(host, backend, metadata, payload, Options::default());
    let report = engine.list(target, &|_| {});
    let first = report.missing.into_iter().next();
    first.with_context(|| format!("{} lists no test: {}", target.name(), report.reason))
}

struct Bench<'a> {
    dirs: &'a Dirs,
    flags: &'a flags::Bench,
    host: &'a Host<'a>,
    interrupt: &'a Interrupt,
    metadata: Metadata,
    payload: Payload,
    /// The baseline, cold, warm.
    backends: [Box<dyn Backend + 'a>; 3],
    others: Vec<Other>,
}

impl Bench<'_> {
    /// Every way on one kernel, in turns.
    fn measure(&self, target: &Target) -> Result<Measured> {
        let kernel = target.obtain(&Silent)?;
        let accel = self.host.accel(self.flags.vm.accel, &kernel, &|_| {})?;
        let mut series: Vec<Series> = self
            .backends
            .iter()
            .map(|backend| backend.name())
            .chain(self.others.iter().map(Other::name))
            .map(Series::new)
            .collect();
        let (ours, theirs) = series.split_at_mut(self.backends.len());
        // The round before the first fills caches, and saves the guest that is restored later.
        for round in 0..=self.flags.rounds {
            self.progress(target, round);
            let count = round > 0;
            for (backend, series) in self.backends.iter().zip(&mut *ours) {
                series.add(count, self.verdict(&**backend, target)?);
            }
            for (other, series) in self.others.iter().zip(&mut *theirs) {
                if series.is_hopeless() {
                    continue;
                }
                match self.uname(other, &kernel, accel) {
                    Ok(time) => series.add(count, time),
                    Err(error) => {
                        series.fail();
                        let fate = if series.is_hopeless() { "is left out" } else { "failed, which is not counted" };
                        eprintln!("{}: {} {fate}: {error:#}", target.name(), other.name());
                    }
                }
            }
            if self.interrupt.signal().is_some() {
                bail!("interrupted");
            }
        }
        Ok(Measured { kernel: target.name().to_owned(), accel: accel.name(), series })
    }

    fn progress(&self, target: &Target, round: u16) {
        let what = match round {
            0 => "warming up".to_owned(),
            _ => format!("round {round} of {}", self.flags.rounds),
        };
        eprintln!("{}: {what}", target.name());
    }

    /// From the kernel's name to the verdict, everything built.
    fn verdict(&self, backend: &dyn Backend, target: &Target) -> Result<Duration> {
        let options = Options { allow_kernel_warnings: true, ..Options::from(&self.flags.vm) };
        let engine = Engine::new(self.host, backend, &self.metadata, &self.payload, options);
        let begun = Instant::now();
        let report = engine.run(target, &|_: RunEvent| {});
        let time = begun.elapsed();
        if report.standing() != Standing::Passed {
            bail!("{}: {}: {}", backend.name(), report.verdict.word(), report.reason);
        }
        Ok(time)
    }

    /// From another tool's start to its end.
    fn uname(&self, other: &Other, kernel: &Kernel, accel: Accel) -> Result<Duration> {
        let run = RunDir::create(&self.dirs.runs())?;
        let limit = self.flags.vm.timeout.map_or(accel.default_timeout(), Duration::from_secs_f64);
        let begun = Instant::now();
        let output = other.uname(kernel, accel, run.path(), limit)?;
        let time = begun.elapsed();
        let release = output.lines().map(str::trim).find(|line| kernel.expected.accepts(line));
        release.with_context(|| format!("it printed no release of this kernel's: {}", output.trim().escape_debug()))?;
        Ok(time)
    }
}
