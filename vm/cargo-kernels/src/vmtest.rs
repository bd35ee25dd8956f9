//! `cargo xtask vmtest`: the tests on every kernel that was asked for, and one table at the end.

mod watch;

use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use anyhow::Result;

use crate::backends;
use crate::dirs::Dirs;
use crate::engine::{Engine, Host, Options};
use crate::exit;
use crate::flags;
use crate::kernels::{self, Target};
use crate::metadata::Metadata;
use crate::payload::Payload;
use crate::report::{self, RunReport};
use crate::setup;
use crate::ui::{self, RunEvent, Screen};
use crate::verdict::KernelReport;
use vm_guest::Backend;
use vm_guest::interrupt::Interrupt;

/// Runs the command.
///
/// # Errors
/// On wrong usage, when the program does not compile, and when a tool is missing. What happens to
/// a kernel is not an error but a verdict.
pub fn run(dirs: &Dirs, flags: &flags::Vmtest) -> Result<u8> {
    if flags.setup {
        setup::ensure(dirs)?;
    }
    let metadata = Metadata::load(dirs)?;
    if flags.list {
        return list(dirs, &metadata, flags);
    }
    let targets = share(kernels::select(dirs, &flags.select.kernels)?, flags.partition);
    if targets.is_empty() {
        eprintln!("this share of the kernels is empty: there is nothing to run");
    }
    if let Some(dir) = &flags.report {
        report::prepare(dir)?;
    }
    let interrupt = Interrupt::install()?;
    let backend = backends::open(dirs, flags.warm || flags.isolate, &interrupt)?;
    let session = Session { dirs, flags, metadata, targets, interrupt: &interrupt, backend };
    if flags.watch {
        return watch::run(&session);
    }
    let run = session.round()?;
    Ok(interrupt.signal().map_or_else(|| run.exit_code(), exit::interrupted))
}

fn list(dirs: &Dirs, metadata: &Metadata, flags: &flags::Vmtest) -> Result<u8> {
    for test in &Payload::build(dirs, metadata, &flags.test_args)?.tests {
        let _ = writeln!(io::stdout(), "{}", test.name);
    }
    Ok(exit::OK)
}

/// All that stays the same while the program changes.
struct Session<'a> {
    dirs: &'a Dirs,
    flags: &'a flags::Vmtest,
    metadata: Metadata,
    targets: Vec<Target>,
    interrupt: &'a Interrupt,
    backend: Box<dyn Backend + 'a>,
}

impl Session<'_> {
    /// Builds what has changed, runs every kernel, and shows and writes what came of it.
    fn round(&self) -> Result<RunReport> {
        let flags = self.flags;
        let started = Instant::now();
        let payload = Payload::build(self.dirs, &self.metadata, &flags.test_args)?;
        let host = Host::open(self.dirs, self.interrupt, started)?;
        let options = Options {
            facts: flags.facts || flags.report.is_some(),
            isolate: flags.isolate,
            allow_kernel_warnings: flags.allow_kernel_warnings,
            allow_unavailable: flags.allow_unavailable,
            ..Options::from(&flags.vm)
        };
        let engine = Engine::new(&host, &*self.backend, &self.metadata, &payload, options);
        let run = matrix(&engine, &self.targets, jobs(flags.jobs));
        // A reader that went away is no reason to give no reports and no exit code.
        let _ = write!(io::stdout(), "{}", ui::table(&run, flags.facts));
        if let Some(dir) = &flags.report {
            report::write(dir, &run)?;
        }
        Ok(run)
    }
}

/// Runs every kernel, as many side by side as `jobs`, and shows how it goes.
pub fn matrix(engine: &Engine<'_>, targets: &[Target], jobs: usize) -> RunReport {
    let started = SystemTime::now();
    let names: Vec<String> = targets.iter().map(|target| target.name().to_owned()).collect();
    let screen = Screen::new(&names);
    let next = AtomicUsize::new(0);
    let reports: Vec<Mutex<Option<KernelReport>>> =
        targets.iter().map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..jobs.min(targets.len()) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(target) = targets.get(index) else { return };
                    let report = engine.run(target, &|event| screen.event(index, event));
                    screen.event(index, RunEvent::Finished(Box::new(report.clone())));
                    *reports[index].lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
                }
            });
        }
    });
    // Its live lines must be gone before anything else is printed.
    drop(screen);
    RunReport {
        program: engine.program().to_owned(),
        started,
        total_s: engine.elapsed().as_secs_f64(),
        kernels: reports
            .into_iter()
            .filter_map(|report| report.into_inner().unwrap_or_else(PoisonError::into_inner))
            .collect(),
    }
}

/// How many kernels run at once: what was asked for, else one per core.
pub fn jobs(asked: Option<u16>) -> usize {
    asked.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from)
}

/// The M-th of N shares: every N-th kernel, so that shares are of about the same length.
fn share(targets: Vec<Target>, partition: Option<flags::Partition>) -> Vec<Target> {
    let Some(partition) = partition else { return targets };
    let (index, count) = (partition.index as usize - 1, partition.count as usize);
    targets.into_iter().skip(index).step_by(count).collect()
}
