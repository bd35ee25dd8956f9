//! `cargo kernels load`: what every kernel's verifier says of BPF objects. They are loaded in guests, never here.

mod baseline;
mod class;
mod guest;
mod object;
mod report;
mod rows;

use std::time::Instant;

use anyhow::Result;
use vm_guest::interrupt::Interrupt;
use vmtest_loader::Job;

use crate::dirs::Dirs;
use crate::exit::{self, Exit};
use crate::kernels;
use crate::launch::Host;
use crate::metadata::{Metadata, RootChoice};
use crate::{backends, flags, parallel, ui};

use guest::{Brought, Guests};
use object::Object;
use rows::{LoadResult, Rows};

/// Loads the objects on every kernel, and shows, writes and compares what came of it.
pub fn run(dirs: &Dirs, flags: &flags::Load) -> Result<u8> {
    let started = Instant::now();
    let objects = read(flags)?;
    let before = flags.baseline.as_deref().map(baseline::read).transpose()?;
    let targets = kernels::select(dirs, &flags.select.kernels, &flags.select.of.arches)?;
    let interrupt = Interrupt::install()?;
    let job = Job {
        objects: Vec::new(),
        programs: flags.programs.clone(),
        autoload: flags.autoload.clone(),
        set: flags.set.clone(),
        log: flags.log.unwrap_or(0).into(),
    };
    let host = Host::open(dirs, &interrupt, started)?;
    let metadata = Metadata { root: RootChoice::Minimal, ..Metadata::load(dirs)? };
    let (mut names, mut answers) = (Vec::new(), Vec::new());
    for (arch, targets) in kernels::by_arch(targets) {
        let guests = Guests {
            host: &host,
            backend: &*backends::open(dirs, arch, true, &interrupt)?,
            brought: &Brought::new(dirs, arch, &objects, job.clone())?,
            vm: &flags.select.vm,
            metadata: &metadata,
        };
        answers.extend(parallel::map(&targets, parallel::jobs(flags.jobs), |_, target| {
            guests.ask(target).map_err(|error| format!("{error:#}"))
        }));
        names.extend(targets.iter().map(|target| target.name().to_owned()));
    }
    if let Some(signal) = interrupt.signal() {
        return Ok(exit::interrupted(signal));
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let rows = Rows::new(&objects, &names, &answers, &flags.optional);
    every_name_is_known(&rows, flags)?;
    conclude(&rows, flags, before.as_ref(), started)
}

fn read(flags: &flags::Load) -> Result<Vec<Object>> {
    let mut objects = Vec::new();
    for path in &flags.objects {
        let found = match object::read(path) {
            Err(why) if why.ends_with(object::NO_PROGRAM) && flags.objects.len() > 1 => {
                eprintln!("{why}: left out");
                continue;
            }
            found => found.map_err(Exit::usage)?,
        };
        for mut object in found {
            if objects.iter().any(|other: &Object| other.name == object.name) {
                object.name = path.display().to_string();
            }
            objects.push(object);
        }
    }
    Ok(objects)
}

/// A misspelt name must not look like a program that loads.
fn every_name_is_known(rows: &Rows, flags: &flags::Load) -> Result<()> {
    // Without a list no kernel has answered, which is said elsewhere.
    if rows.programs.is_empty() {
        return Ok(());
    }
    if let Some((name, _)) = flags.set.iter().find(|(name, _)| !rows.variables.contains(name)) {
        return Err(Exit::usage(format!("there is no global variable `{name}`")));
    }
    let named = flags.programs.iter().chain(&flags.autoload).chain(&flags.optional);
    match named.into_iter().find(|name| !rows.programs.contains(*name)) {
        Some(name) => {
            let all: Vec<&str> = rows.programs.iter().map(String::as_str).collect();
            Err(Exit::usage(format!("there is no program `{name}`; there are {}", all.join(", "))))
        }
        None => Ok(()),
    }
}

fn conclude(rows: &Rows, flags: &flags::Load, before: Option<&baseline::Baseline>, started: Instant) -> Result<u8> {
    let changes = before.map(|before| before.compare(rows, flags.max_growth));
    let mut text = match flags.json {
        true => report::json(rows)?,
        false => report::table(rows, flags.log.is_some(), started.elapsed()),
    };
    // With `--json` the other words go to standard error.
    let mut words = String::new();
    for change in changes.iter().flatten() {
        words += &format!("{}\n", change.line);
    }
    if flags.minimum {
        words += &match rows.minimum() {
            Some(kernel) => format!("The oldest kernel on which every program loads: {kernel}\n"),
            None => "There is no kernel at hand on which every program loads.\n".into(),
        };
    }
    match flags.json {
        true => eprint!("{words}"),
        false => text += &words,
    }
    let printed = ui::print(&text);
    if let Some(dir) = &flags.report {
        report::write(dir, rows)?;
    }
    if let Some(file) = &flags.save {
        baseline::save(file, rows)?;
    }
    printed?;
    let refused = rows.all.iter().any(|row| row.result == LoadResult::Refused);
    let worse = match &changes {
        Some(changes) => changes.iter().any(|change| change.worse),
        None => refused && !(flags.minimum && rows.minimum().is_some()),
    };
    Ok(match (worse, rows.not_run.is_empty() || flags.minimum) {
        (true, _) => exit::FAILED,
        (false, true) if !rows.all.is_empty() => exit::OK,
        _ => exit::NOT_RUN,
    })
}
