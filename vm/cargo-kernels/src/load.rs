//! `cargo kernels load`: what every kernel's verifier says of BPF objects. They are loaded in guests, never here.

mod baseline;
mod class;
mod guest;
mod object;
mod report;
mod rows;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use vm_guest::interrupt::Interrupt;
use vmtest_loader::Job;

use crate::dirs::Dirs;
use crate::error::Error;
use crate::exit;
use crate::launch::{Guests, Host};
use crate::metadata::{Metadata, RootChoice};
use crate::{backends, flags, kernels, parallel, text, ui};

use guest::Brought;
use object::Object;
use rows::{LoadResult, Rows};

pub fn run(dirs: &Dirs, flags: &flags::Load) -> Result<u8> {
    let started = Instant::now();
    let objects = read(&flags.objects)?;
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
    let mut answers = Vec::new();
    for (arch, targets) in kernels::by_arch(targets) {
        let backend = &*backends::open(dirs, arch, true, &interrupt)?;
        let brought = Brought::new(dirs, arch, &objects, job.clone())?;
        let vm = flags.select.vm.options();
        let guests = Guests { host: &host, backend, metadata: &metadata, vm, keep: &[], copy_out: None };
        answers.extend(parallel::map(&targets, parallel::jobs(flags.jobs), |_, target| {
            (target.name().to_owned(), brought.ask(guests, target))
        }));
    }
    if let Some(signal) = interrupt.signal() {
        return Ok(exit::interrupted(signal));
    }
    let rows = Rows::new(&objects, &answers, &flags.optional);
    every_name_is_known(&rows, flags)?;
    conclude(&rows, flags, before.as_ref(), started)
}

fn read(paths: &[PathBuf]) -> Result<Vec<Object>> {
    let mut objects: Vec<Object> = Vec::new();
    for path in paths {
        let found = match object::read(path) {
            Err(why) if why.ends_with(object::NO_PROGRAM) && paths.len() > 1 => {
                eprintln!("{}: left out", text::line(&why));
                continue;
            }
            found => found.map_err(Error::usage)?,
        };
        for mut object in found {
            object.name = text::line(&object.name);
            if objects.iter().any(|other| other.name == object.name) {
                object.name = text::line(&path.with_file_name(&object.name).to_string_lossy());
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
        return Err(Error::usage(format!("there is no global variable `{name}`")));
    }
    let named = flags.programs.iter().chain(&flags.autoload).chain(&flags.optional);
    match named.into_iter().find(|name| !rows.programs.contains(*name)) {
        Some(name) => {
            let all: Vec<&str> = rows.programs.iter().map(String::as_str).collect();
            Err(Error::usage(format!("there is no program `{name}`; there are {}", all.join(", "))))
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
    let mut words: String = changes.iter().flatten().map(|change| format!("{}\n", change.line)).collect();
    if changes.as_ref().is_some_and(|changes| changes.iter().all(|change| !change.worse)) {
        words += "Nothing is worse than the baseline.\n";
    }
    if flags.minimum {
        words += &match rows.minimum() {
            Some(kernel) => format!("The oldest kernel on which every program loads: {kernel}\n"),
            None => "There is no kernel, of those that could be run, on which every program loads.\n".into(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_of_one_name_get_their_paths() {
        let directory = tempfile::tempdir().unwrap();
        let sample = object::tests::sample(object::tests::EXIT);
        let program = [b"\x7fELF\x02\x01\x01 a program", &sample[..], &sample].concat();
        let paths = ["a", "b"].map(|name| directory.path().join(name).join("prog\x1b[1mram"));
        for path in &paths {
            std::fs::create_dir(path.parent().unwrap()).unwrap();
            std::fs::write(path, &program).unwrap();
        }
        let names: Vec<String> = read(&paths).unwrap().into_iter().map(|object| object.name).collect();
        let second = |index| directory.path().join(format!("b/program#{index}")).display().to_string();
        assert_eq!(names, ["program#0".into(), "program#1".into(), second(0), second(1)]);
    }
}
