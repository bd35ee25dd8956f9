//! `cargo xtask selftest`: who tests the tests. Mutants of the program are made, one change each;
//! every one must be caught, by the test that is meant to catch it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use vmtest_agent::TestId;
use walkdir::{DirEntry, WalkDir};

use crate::dirs::Dirs;
use crate::engine::{Engine, Options};
use crate::error::Error;
use crate::exit;
use crate::kernels::{self, Arch};
use crate::launch::Host;
use crate::metadata::Metadata;
use crate::payload::{Chosen, Payload};
use crate::report::words;
use crate::verdict::{KernelReport, Verdict};
use crate::{backends, flags, text, ui};
use vm_guest::interrupt::Interrupt;
use vm_kernels::lock::{self, How};

/// What is never part of the sources.
const LEFT_OUT: &[&str] = &["target", ".git", "result"];

/// One change to the program, and who has to notice.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Mutant {
    /// What is wrong with it.
    name: String,
    /// The file that is changed, relative to the workspace.
    file: PathBuf,
    /// A text that stands exactly once in the file.
    find: String,
    /// What takes its place.
    replace: String,
    /// The tests that must fail.
    caught_by: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mutants {
    mutant: Vec<Mutant>,
}

/// Runs the command. A mutant that lives makes the exit code 1.
pub fn run(dirs: &Dirs, flags: &flags::KernelArgs) -> Result<u8> {
    let metadata = Metadata::load(dirs)?;
    let mutants = load(dirs)?;
    let targets = kernels::by_arch(kernels::select(dirs, &flags.kernels, &flags.of.arches)?);
    let interrupt = Interrupt::install()?;
    let host = Host::open(dirs, &interrupt, Instant::now())?;
    let (mut passed, mut failed) = (0, 0);
    let options = Options { vm: flags.vm.options(), ..Options::default() };
    for (arch, targets) in &targets {
        let backend = backends::open(dirs, arch, true, &interrupt)?;
        let mut tests: Vec<TestId> = Vec::new();
        // First the program as it is.
        for mutant in std::iter::once(None).chain(mutants.iter().map(Some)) {
            let name = mutant.map_or("(none)", |mutant| &mutant.name);
            let payload = build(dirs, arch, &metadata, mutant);
            let mut payload = payload.with_context(|| format!("mutant `{name}` cannot be made"))?;
            // The others wait in vain for what a mutant does not do.
            let meant =
                |mutant: &Mutant| tests.iter().filter(|test| mutant.caught_by.contains(&test.name)).cloned().collect();
            payload.only = mutant.map(meant);
            let engine = Engine::new(&host, &*backend, &metadata, &payload, &options);
            for target in targets {
                let report = engine.run(target, &|_| {});
                let (as_it_should_be, outcome) = match mutant {
                    None => (report.verdict == Verdict::Pass, summary(&report)),
                    Some(mutant) => caught(&report, mutant),
                };
                if mutant.is_none() {
                    tests = report.tests.into_iter().map(|outcome| outcome.test).collect();
                }
                *(if as_it_should_be { &mut passed } else { &mut failed }) += 1;
                let sign = if as_it_should_be { "ok" } else { "NOT OK" };
                ui::print(&format!("{sign:6}  {name:20}  {:6}  {}\n", target.name(), text::line(&outcome)))?;
            }
            if let Some(signal) = interrupt.signal() {
                return Ok(exit::interrupted(signal));
            }
        }
    }
    ui::print(&format!("\n{passed} passed, {failed} failed\n"))?;
    Ok(if failed == 0 { exit::OK } else { exit::FAILED })
}

fn load(dirs: &Dirs) -> Result<Vec<Mutant>> {
    let path = dirs.project.join("vm/mutants.toml");
    let text = fs::read_to_string(&path).with_context(|| {
        format!("cannot read {}, which lists the changes of the program that its tests must catch", path.display())
    })?;
    let mutants: Mutants =
        toml::from_str(&text).map_err(|error| Error::usage(format!("{}: {error}", path.display())))?;
    Ok(mutants.mutant)
}

fn build(dirs: &Dirs, arch: &'static Arch, metadata: &Metadata, mutant: Option<&Mutant>) -> Result<Payload> {
    // Both are kept between runs, so that cargo compiles only what a mutant changes. The target directory is not the
    // project's own: a run of the real program beside this one must not find a mutant.
    let copies = dirs.target.join("vmtest/selftest");
    let copy = Dirs { project: copies.join("workspace"), target: copies.join("target"), cache: dirs.cache.clone() };
    if !copy.target.exists() {
        let new = copies.join("new");
        // Only time is lost where this fails.
        let taken = take_over_builds(&dirs.target, &new, arch).and_then(|()| Ok(fs::rename(&new, &copy.target)?));
        taken.or_else(|_| kernels::cache::remove_all(&new))?;
    }
    mirror(&dirs.project, &copy.project)?;
    if let Some(mutant) = mutant {
        let path = copy.project.join(&mutant.file);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", mutant.file.display()))?;
        fs::write(&path, mutant.mutate(&text)?).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Payload::build(&copy, arch, metadata, &Chosen::default())
}

/// Begins with what cargo has built of the project's dependencies, which are the copy's, too.
fn take_over_builds(from: &Path, to: &Path, arch: &Arch) -> Result<()> {
    // Every release build holds this, and leaves half of something while it goes on.
    let lock = lock::existing(&from.join("release/.cargo-lock"), How::NonBlockingLockShared)?;
    let _lock = lock.context("another build goes on")?;
    kernels::cache::remove_all(to)?;
    fs_err::create_dir_all(to)?;
    let mut cp = Command::new("cp");
    cp.args(["--archive", "--reflink=auto"]).args(["release", arch.target].map(|name| from.join(name))).arg(to);
    ensure!(cp.stderr(Stdio::null()).status()?.success(), "it was not copied");
    Ok(())
}

impl Mutant {
    fn mutate(&self, text: &str) -> Result<String> {
        let (file, find, count) = (self.file.display(), &self.find, text.matches(&self.find).count());
        let what = "what vm/mutants.toml wants to replace";
        ensure!(count == 1, "{what} stands {count} times in {file}, and must stand once:\n{find}");
        Ok(text.replacen(find, &self.replace, 1))
    }
}

/// Makes a directory as another is. Files that are as they should be are left alone, since cargo looks at their times.
fn mirror(from: &Path, to: &Path) -> Result<()> {
    let is_source = |entry: &DirEntry| entry.depth() != 1 || LEFT_OUT.iter().all(|name| entry.file_name() != *name);
    for entry in WalkDir::new(from).into_iter().filter_entry(is_source) {
        let entry = entry?;
        let copy = to.join(entry.path().strip_prefix(from)?);
        let failed = || format!("cannot copy {}", entry.path().display());
        if entry.file_type().is_dir() {
            fs::create_dir_all(&copy).with_context(failed)?;
        } else if entry.file_type().is_file() {
            let wanted = fs::read(entry.path()).with_context(failed)?;
            if !fs::read(&copy).is_ok_and(|found| found == wanted) {
                fs::write(&copy, wanted).with_context(failed)?;
            }
        }
    }
    for entry in WalkDir::new(to).contents_first(true) {
        let entry = entry?;
        if !from.join(entry.path().strip_prefix(to)?).exists() {
            kernels::cache::remove_all(entry.path())?;
        }
    }
    Ok(())
}

fn caught(report: &KernelReport, mutant: &Mutant) -> (bool, String) {
    if report.verdict != Verdict::Fail || !report.missing.is_empty() {
        return (false, format!("not caught: {}", summary(report)));
    }
    let failed: Vec<&str> = words::failures(report).map(|outcome| &*outcome.test.name).collect();
    let missed: Vec<&str> = mutant.caught_by.iter().map(String::as_str).filter(|test| !failed.contains(test)).collect();
    match missed.is_empty() {
        true => (true, format!("caught by {}", failed.join(", "))),
        false => (false, format!("not caught by {}, only by {}", missed.join(", "), failed.join(", "))),
    }
}

fn summary(report: &KernelReport) -> String {
    match report.reason.as_str() {
        "" => report.verdict.to_string(),
        reason => format!("{}: {reason}", report.verdict),
    }
}

#[cfg(test)]
mod tests {
    use vmtest_agent::TestResult;

    use super::*;
    use crate::report::sample;

    #[test]
    fn mutant_is_caught_by_own_test_not_by_dead_guest() {
        let mutant = "name = 'm'\nfile = 'f'\nfind = 'a'\nreplace = 'b'\ncaught-by = ['mine']";
        let mutant: Mutant = toml::from_str(mutant).unwrap();
        let failed = || TestResult::Failed { code: 101 };
        for (verdict, mine, other, expected) in [
            (Verdict::Fail, failed(), TestResult::Passed, (true, "caught by mine")),
            (Verdict::Fail, TestResult::Passed, failed(), (false, "not caught by mine, only by other")),
            (Verdict::Pass, TestResult::Passed, TestResult::Passed, (false, "not caught: pass")),
            (Verdict::HostError, failed(), TestResult::Passed, (false, "not caught: host-error")),
        ] {
            let tests = vec![sample::outcome("mine", mine, ""), sample::outcome("other", other, "")];
            let report = KernelReport { verdict, tests, ..KernelReport::default() };
            let (as_it_should_be, outcome) = caught(&report, &mutant);
            assert_eq!((as_it_should_be, &*outcome), expected);
        }
        assert_eq!(mutant.mutate("xax").unwrap(), "xbx");
        assert!(mutant.mutate("aa").unwrap_err().to_string().contains("stands 2 times"));
    }

    #[test]
    fn every_mutant_can_be_made_of_the_program_as_it_is() {
        let dirs = Dirs::find().unwrap();
        for mutant in load(&dirs).unwrap() {
            let text = fs::read_to_string(dirs.project.join(&mutant.file)).unwrap();
            assert_ne!(mutant.mutate(&text).unwrap(), text, "{}", mutant.name);
            assert!(!mutant.caught_by.is_empty(), "{}", mutant.name);
        }
    }

    #[test]
    fn a_copy_is_restored_file_by_file() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("src")).unwrap();
        fs::create_dir_all(from.join("target")).unwrap();
        fs::write(from.join("src/a"), "a").unwrap();
        fs::write(from.join("b"), "b").unwrap();
        mirror(&from, &to).unwrap();
        let untouched = fs::metadata(to.join("b")).unwrap().modified().unwrap();
        fs::write(to.join("src/a"), "mutated").unwrap();
        fs::write(to.join("src/stranger"), "").unwrap();

        mirror(&from, &to).unwrap();

        assert_eq!(fs::read_to_string(to.join("src/a")).unwrap(), "a");
        assert_eq!(fs::metadata(to.join("b")).unwrap().modified().unwrap(), untouched);
        assert!(!to.join("src/stranger").exists());
        assert!(!to.join("target").exists());
    }
}
