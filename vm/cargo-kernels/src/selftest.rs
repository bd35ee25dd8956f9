//! `cargo xtask selftest`: who tests the tests. Mutants of the program are made, one change each;
//! every one must be caught, by the test that is meant to catch it.

mod mutants;
mod sources;

use std::time::Instant;

use anyhow::{Context, Result};
use vmtest_agent::{TestId, TestResult};

use crate::backends;
use crate::dirs::Dirs;
use crate::engine::Engine;
use crate::exit;
use crate::flags;
use crate::kernels::{self, Arch};
use crate::launch::Host;
use crate::metadata::Metadata;
use crate::payload::Payload;
use crate::verdict::{KernelReport, Verdict};
use mutants::Mutant;
use vm_guest::interrupt::Interrupt;

/// Runs the command.
///
/// # Errors
/// When a mutant cannot be made or does not compile, and when a tool is missing. A mutant that
/// lives is no error: it makes the exit code 1.
pub fn run(dirs: &Dirs, flags: &flags::Selftest) -> Result<u8> {
    let metadata = Metadata::load(dirs)?;
    let mutants = mutants::load(dirs)?;
    let targets = kernels::by_arch(kernels::select(dirs, &flags.select.kernels, &flags.select.of.arches)?);
    let interrupt = Interrupt::install()?;
    let host = Host::open(dirs, &interrupt, Instant::now())?;
    let copy = sources::copy_of(dirs);
    sources::take_over_builds(dirs, &copy);

    let (mut passed, mut failed) = (0, 0);
    let original = None;
    for (arch, targets) in &targets {
        let backend = backends::open(dirs, arch, true, &interrupt)?;
        let mut tests = Vec::new();
        for mutant in std::iter::once(original).chain(mutants.iter().map(Some)) {
            let name = mutant.map_or("(none)", |mutant| &mutant.name);
            let payload = build(dirs, &copy, arch, &metadata, mutant);
            let mut payload = payload.with_context(|| format!("mutant `{name}` cannot be made"))?;
            // The others wait in vain for what a mutant does not do.
            payload.only = mutant.map(|mutant| meant(&tests, mutant));
            let options = flags::Vmtest { vm: flags.vm.clone(), ..Default::default() };
            let engine = Engine::new(&host, &*backend, &metadata, &payload, options);
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
                println!("{sign:6}  {name:20}  {:6}  {outcome}", target.name());
            }
            if let Some(signal) = interrupt.signal() {
                return Ok(exit::interrupted(signal));
            }
        }
    }
    println!("\n{passed} passed, {failed} failed");
    Ok(if failed == 0 { exit::OK } else { exit::FAILED })
}

fn build(
    dirs: &Dirs,
    copy: &Dirs,
    arch: &'static Arch,
    metadata: &Metadata,
    mutant: Option<&Mutant>,
) -> Result<Payload> {
    sources::restore(dirs, copy)?;
    if let Some(mutant) = mutant {
        mutant.apply(&copy.project)?;
    }
    Payload::build(copy, arch, metadata, &flags::Vmtest::default())
}

/// Of these tests, those that are meant to catch a mutant.
fn meant(tests: &[TestId], mutant: &Mutant) -> Vec<TestId> {
    tests.iter().filter(|test| mutant.caught_by.contains(&test.name)).cloned().collect()
}

/// Whether the tests that are meant to catch a mutant did.
fn caught(report: &KernelReport, mutant: &Mutant) -> (bool, String) {
    let failed: Vec<&str> = report
        .tests
        .iter()
        .filter(|outcome| outcome.result != TestResult::Passed)
        .map(|outcome| outcome.test.name.as_str())
        .collect();
    let missed: Vec<&str> = mutant.caught_by.iter().map(String::as_str).filter(|test| !failed.contains(test)).collect();
    if report.verdict != Verdict::Fail || !report.missing.is_empty() {
        return (false, format!("not caught: {}", summary(report)));
    }
    if missed.is_empty() {
        (true, format!("caught by {}", failed.join(", ")))
    } else {
        (false, format!("not caught by {}, only by {}", missed.join(", "), failed.join(", ")))
    }
}

fn summary(report: &KernelReport) -> String {
    match report.reason.as_str() {
        "" => report.verdict.word().to_owned(),
        reason => format!("{}: {reason}", report.verdict.word()),
    }
}

#[cfg(test)]
mod tests {
    use vmtest_agent::TestOutcome;

    use super::*;

    fn report(verdict: Verdict, results: &[(&str, TestResult)]) -> KernelReport {
        let mut report = KernelReport::unknown("6.1", "snapshot");
        report.verdict = verdict;
        report.tests = results
            .iter()
            .map(|(name, result)| TestOutcome {
                test: TestId { binary: "tests/t".into(), name: (*name).into() },
                result: result.clone(),
                attempts: 1,
                seconds: 0.1,
                output: String::new(),
                dropped_bytes: 0,
            })
            .collect();
        report
    }

    fn mutant() -> Mutant {
        Mutant {
            name: "m".into(),
            file: "f".into(),
            find: "x".into(),
            replace: "y".into(),
            caught_by: vec!["a".into()],
        }
    }

    #[test]
    fn a_mutant_is_caught_by_its_own_test_only() {
        let failed = TestResult::Failed { code: 101 };
        let by_a = report(Verdict::Fail, &[("a", failed.clone()), ("b", TestResult::Passed)]);
        assert!(caught(&by_a, &mutant()).0);
        let by_b = report(Verdict::Fail, &[("a", TestResult::Passed), ("b", failed)]);
        let (as_it_should_be, outcome) = caught(&by_b, &mutant());
        assert!(!as_it_should_be);
        assert_eq!(outcome, "not caught by a, only by b");
    }

    #[test]
    fn a_mutant_that_lives_or_whose_guest_died_is_not_caught() {
        assert!(!caught(&report(Verdict::Pass, &[("a", TestResult::Passed)]), &mutant()).0);
        let failed = TestResult::Failed { code: 101 };
        assert!(!caught(&report(Verdict::HostError, &[("a", failed)]), &mutant()).0);
    }
}
