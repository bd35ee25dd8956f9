//! `cargo xtask bench`: the time to a verdict, each way of getting there beside a bare QEMU boot.
//!
//! The ways take turns, so that whatever else the machine does falls on all of them. Each does the
//! same job, the first test alone.

mod table;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::backends;
use crate::cross;
use crate::dirs::Dirs;
use crate::engine::Engine;
use crate::exit;
use crate::flags;
use crate::kernels::{self, Arch, Silent, Target};
use crate::launch::Host;
use crate::metadata::Metadata;
use crate::payload::Payload;
use crate::ui::RunEvent;
use crate::verdict::Standing;
use table::{Measured, Series};
use vm_guest::Backend;
use vm_guest::bare::Bare;
use vm_guest::interrupt::Interrupt;
use vmtest_agent::TestId;

/// Runs the command.
///
/// # Errors
/// On wrong usage, when a tool is missing, and when a run that is to be timed fails. How long
/// anything took is never an error.
pub fn run(dirs: &Dirs, flags: &flags::Bench) -> Result<u8> {
    let targets = kernels::select(dirs, &flags.select.kernels, &flags.select.of.arches)?;
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
    let mut payload = Payload::build(dirs, arch, &metadata, &flags::Vmtest::default())?;
    payload.only = Some(vec![first_test(&host, &*restore, &metadata, &payload, targets)?]);
    let bare = Bare { qemu: cross::qemu(dirs, arch)?, programs: cross::programs(dirs, arch)? };
    let bench = Bench {
        flags,
        host: &host,
        interrupt,
        metadata,
        payload,
        backends: [Box::new(bare), backends::open(dirs, arch, false, interrupt)?, restore],
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
    let engine = Engine::new(host, backend, metadata, payload, flags::Vmtest::default());
    let report = engine.list(target, &|_| {});
    let first = report.missing.into_iter().next();
    first.with_context(|| format!("{} lists no test: {}", target.name(), report.reason))
}

struct Bench<'a> {
    flags: &'a flags::Bench,
    host: &'a Host<'a>,
    interrupt: &'a Interrupt,
    metadata: Metadata,
    payload: Payload,
    /// The baseline, cold, warm.
    backends: [Box<dyn Backend + 'a>; 3],
}

impl Bench<'_> {
    /// Every way on one kernel, in turns.
    fn measure(&self, target: &Target) -> Result<Measured> {
        let kernel = target.obtain(&Silent)?;
        let accel = self.host.accel(self.flags.vm.accel, &kernel, &|_| {})?;
        let mut series: Vec<Series> = self.backends.iter().map(|backend| Series::new(backend.name())).collect();
        // The round before the first fills caches, and saves the guest that is restored later.
        for round in 0..=self.flags.rounds {
            match round {
                0 => eprintln!("{}: warming up", target.name()),
                _ => eprintln!("{}: round {round} of {}", target.name(), self.flags.rounds),
            }
            for (backend, series) in self.backends.iter().zip(&mut series) {
                let time = self.verdict(&**backend, target)?;
                if round > 0 {
                    series.add(time);
                }
            }
            if self.interrupt.signal().is_some() {
                bail!("interrupted");
            }
        }
        Ok(Measured { kernel: target.name().to_owned(), accel: accel.name(), series })
    }

    /// From the kernel's name to the verdict, everything built.
    fn verdict(&self, backend: &dyn Backend, target: &Target) -> Result<Duration> {
        let options = flags::Vmtest { allow_kernel_warnings: true, vm: self.flags.vm.clone(), ..Default::default() };
        let engine = Engine::new(self.host, backend, &self.metadata, &self.payload, options);
        let begun = Instant::now();
        let report = engine.run(target, &|_: RunEvent| {});
        let time = begun.elapsed();
        if report.standing() != Standing::Passed {
            bail!("{}: {}: {}", backend.name(), report.verdict.word(), report.reason);
        }
        Ok(time)
    }
}
