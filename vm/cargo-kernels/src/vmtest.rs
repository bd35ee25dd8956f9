//! `cargo xtask vmtest`: the tests on every kernel that was asked for, and one table at the end.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::time::{Instant, SystemTime};

use anyhow::{Result, ensure};

use crate::dirs::Dirs;
use crate::engine::Engine;
use crate::error::Error;
use crate::event::RunEvent;
use crate::exit;
use crate::kernels::{self, Arch, Target};
use crate::launch::Host;
use crate::metadata::Metadata;
use crate::payload::Payload;
use crate::report;
use crate::report::words::all_tests;
use crate::ui::{self, Screen};
use crate::verdict::{KernelReport, RunReport, Verdict};
use crate::{backends, flags, isolate, parallel, setup, watch};
use vm_guest::Backend;
use vm_guest::interrupt::Interrupt;
use vmtest_agent::TestId;

/// Runs the command. What happens to a kernel is not an error but a verdict.
pub fn run(dirs: &Dirs, flags: &flags::Vmtest) -> Result<u8> {
    if flags.setup {
        setup::ensure(dirs, &[])?;
    }
    let metadata = flags.guest.over(Metadata::load(dirs)?);
    // What is wrong with the lists of options is wrong before anything is built.
    kernels::needs(dirs, &metadata.kconfig)?;
    if flags.facts && metadata.facts().is_none() {
        return Err(Error::usage("--facts needs `program` and `ready-line` in metadata.kernels of Cargo.toml"));
    }
    let asked = &flags.select.kernels;
    let names = if asked.is_empty() { &metadata.kernels } else { asked };
    let selected = kernels::select(dirs, names, &flags.select.of.arches)?;
    // Every N-th kernel, so that shares are of about the same length.
    let (share, count) = flags.partition.unwrap_or((1, 1));
    let targets: Vec<Target> = selected.into_iter().skip(share - 1).step_by(count).collect();
    if targets.is_empty() {
        eprintln!("this share of the kernels is empty: there is nothing to run");
    }
    if let Some(dir) = &flags.report {
        report::prepare(dir)?;
    }
    let interrupt = Interrupt::install()?;
    let snapshot = flags.warm || flags.isolate || flags.list;
    let arches = kernels::by_arch(targets.clone()).into_iter().map(|(arch, _)| arch);
    let backends = arches.map(|arch| Ok((arch, backends::open(dirs, arch, snapshot, &interrupt)?)));
    let backends = backends.collect::<Result<_>>()?;
    let session = Session { dirs, flags, metadata, targets, interrupt: &interrupt, backends };
    if flags.list {
        return session.list();
    }
    if flags.watch {
        return watch::run(dirs, &interrupt, || session.round().map(drop));
    }
    let run = session.round()?;
    Ok(interrupt.signal().map_or_else(|| exit::of_run(&run), exit::interrupted))
}

/// All that stays the same while the program changes.
struct Session<'a> {
    dirs: &'a Dirs,
    flags: &'a flags::Vmtest,
    metadata: Metadata,
    targets: Vec<Target>,
    interrupt: &'a Interrupt,
    /// For each architecture that a kernel is for.
    backends: Vec<(&'static Arch, Box<dyn Backend + 'a>)>,
}

impl Session<'_> {
    /// Prints the tests that the first kernel's guest lists.
    fn list(&self) -> Result<u8> {
        let (Some(target), Some((arch, backend))) = (self.targets.first(), self.backends.first()) else {
            return Ok(exit::OK);
        };
        let payload = Payload::build(self.dirs, arch, &self.metadata, &self.flags.chosen())?;
        let host = Host::open(self.dirs, self.interrupt, Instant::now())?;
        let options = self.flags.options();
        let engine = Engine::new(&host, &**backend, &self.metadata, &payload, &options);
        let report = engine.list(target, &|_| {});
        ensure!(report.verdict == Verdict::Pass, "kernel {}: {}", target.name(), report.reason);
        let several = payload.binaries.len() > 1;
        for test in &report.missing {
            let binary = if several { format!("{} ", test.binary) } else { String::new() };
            let _ = writeln!(io::stdout(), "{binary}{}", test.name);
        }
        Ok(exit::OK)
    }

    /// Builds what has changed, runs every kernel, and shows and writes what came of it.
    fn round(&self) -> Result<RunReport> {
        let (flags, options, chosen) = (self.flags, self.flags.options(), self.flags.chosen());
        let started = Instant::now();
        let payloads = self.backends.iter().map(|(arch, _)| Payload::build(self.dirs, arch, &self.metadata, &chosen));
        let payloads = payloads.collect::<Result<Vec<_>>>()?;
        let host = Host::open(self.dirs, self.interrupt, started)?;
        let engines = self.backends.iter().zip(&payloads).map(|((arch, backend), payload)| {
            (*arch, Engine::new(&host, &**backend, &self.metadata, payload, &options))
        });
        let engines: Vec<_> = engines.collect();
        let engine_of = |target: &Target| engines.iter().find(|(arch, _)| *arch == target.arch());
        let runs = self.targets.iter().filter_map(|target| Some((target, &engine_of(target)?.1)));
        let (began, kernels) = (SystemTime::now(), matrix(&runs.collect::<Vec<_>>(), flags));
        // What the tests are of.
        let directory = || self.dirs.project.file_name().map(|it| it.to_string_lossy().into_owned());
        let program = self.metadata.program.clone().or_else(directory).unwrap_or_default();
        let mut run = RunReport { program, started: began, total_s: started.elapsed().as_secs_f64(), kernels };
        let broke =
            |verdict| matches!(verdict, Verdict::Panic | Verdict::Hang | Verdict::KernelSplat | Verdict::HostError);
        let nothing = |kernel: &KernelReport| kernel.booted && kernel.expected_tests == 0 && !broke(kernel.verdict);
        if !run.kernels.is_empty() && run.kernels.iter().all(nothing) {
            return Err(Error::usage(match chosen.test_args.join(" ").as_str() {
                "" => "there are no tests in what cargo built".to_owned(),
                filter => format!("no test matches `{filter}`; `--list` shows them all"),
            }));
        }
        let mut said = ui::table(&run, flags.facts);
        let packages: BTreeSet<&str> = payloads.iter().flat_map(|it| &it.doc_tests).map(String::as_str).collect();
        if !packages.is_empty() {
            let packages = packages.into_iter().collect::<Vec<_>>().join(", ");
            said += &format!("not run: documentation tests of {packages}\n");
        }
        let printed = ui::print(&said);
        if let Some(dir) = &flags.report {
            report::write(dir, &mut run)?;
        }
        printed.map(|()| run)
    }
}

/// Runs every kernel with the engine of its architecture, as many side by side as was asked for, and shows how it goes.
fn matrix(runs: &[(&Target, &Engine<'_>)], flags: &flags::Vmtest) -> Vec<KernelReport> {
    let names: Vec<String> = runs.iter().map(|(target, _)| target.name().to_owned()).collect();
    let screen = Screen::new(&names);
    let mut kernels = parallel::map(runs, parallel::jobs(flags.jobs), |index, (target, engine)| {
        let on = |event| screen.event(index, event);
        let report = if flags.isolate { isolate::run(engine, target, &on) } else { engine.run(target, &on) };
        screen.event(index, RunEvent::Finished(Box::new(report.clone())));
        report
    });
    // Its live lines must be gone before anything else is printed.
    drop(screen);
    // A kernel whose guest never came to list its tests misses those of the others.
    let known = kernels.iter().max_by_key(|kernel| kernel.expected_tests);
    let known: Vec<TestId> = known.map(|it| all_tests(it).cloned().collect()).unwrap_or_default();
    for kernel in kernels.iter_mut().filter(|kernel| kernel.expected_tests == 0) {
        kernel.expect(&known);
    }
    kernels
}
