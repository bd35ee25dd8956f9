//! `cargo xtask agree`: whether a kernel has one verdict, however its guest came to be. The same tests are run in booted
//! and in restored guests, again and again; the first verdict of a case is what all others are held against.

use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context, Result};
use vmtest_agent::TestResult;

use crate::dirs::Dirs;
use crate::engine::{Engine, Host, Options};
use crate::kernels::{self, Arch, Target};
use crate::metadata::Metadata;
use crate::payload::{Choice, Payload};
use crate::verdict::{KernelReport, Verdict};
use crate::{backends, exit};
use vm_guest::Backend;
use vm_guest::interrupt::Interrupt;

use crate::{flags, selftest};

/// Kernel parameters with which a kernel complains before the agent is up: of a directory in /sys that has no parent, and
/// with nothing but the mark of a warning.
const AT_BOOT: [(&str, &str); 2] =
    [("warns at boot", "initcall_blacklist=mm_sysfs_init"), ("tainted at boot", "sysctl.kernel.tainted=512")];

/// A test of the package that misbehaves, in which the kernel complains.
const UNDER_TEST: (&str, &str) = ("warns under test", "fatal::makes_the_kernel_warn");

/// Something to have a verdict on.
struct Case {
    name: String,
    metadata: Metadata,
    payload: Rc<Payload>,
    rounds: u16,
}

/// Runs the command.
///
/// # Errors
/// When something does not compile, and when a tool is missing. Disagreement is no error: it makes the exit code 1.
pub fn run(dirs: &Dirs, flags: &flags::Agree) -> Result<u8> {
    let targets = kernels::select(dirs, &flags.select.kernels, &flags.select.arches)?;
    let interrupt = Interrupt::install()?;
    let host = Host::open(dirs, &interrupt, Instant::now())?;
    let (mut runs, mut disagreements) = (0, 0);
    for (arch, targets) in kernels::by_arch(targets) {
        let open = |warm| backends::open(dirs, arch, warm, &interrupt);
        let (booted, restored) = (open(false)?, open(true)?);
        let agreement = Agreement {
            flags,
            backends: [("booted", &*booted), ("restored", &*restored)],
            host: &host,
            interrupt: &interrupt,
        };
        cases(dirs, arch, flags, |case| {
            for target in &targets {
                if interrupt.signal().is_some() {
                    break;
                }
                let verdicts = agreement.verdicts(case, target);
                runs += verdicts.len();
                disagreements += report(&case.name, target.name(), &verdicts);
            }
        })?;
    }
    if let Some(signal) = interrupt.signal() {
        return Ok(exit::interrupted(signal));
    }
    println!("{runs} runs, {disagreements} disagree");
    Ok(if disagreements == 0 { exit::OK } else { exit::FAILED })
}

/// Builds each case and hands it on. Mutants are run once each way: it is the building that takes time.
fn cases(dirs: &Dirs, arch: &'static Arch, flags: &flags::Agree, mut on: impl FnMut(&Case)) -> Result<()> {
    let metadata = Metadata::load(dirs)?;
    let payload = Rc::new(Payload::build(dirs, arch, &metadata, &Choice::default())?);
    let rounds = flags.rounds;
    on(&Case { name: "the program".into(), metadata: metadata.clone(), payload: payload.clone(), rounds });
    for (name, parameter) in AT_BOOT {
        let mut metadata = metadata.clone();
        metadata.kernel_args.push(parameter.into());
        on(&Case { name: name.into(), metadata, payload: payload.clone(), rounds });
    }
    let (name, test) = UNDER_TEST;
    let misbehaving = Metadata {
        cargo_args: ["--release", "--package", "misbehave"].map(str::to_owned).into(),
        features: Vec::new(),
        program: None,
        ..metadata.clone()
    };
    let only = ["--ignored", "--exact", test].map(str::to_owned);
    let choice = Choice { tests: &only, ..Choice::default() };
    let payload = Rc::new(Payload::build(dirs, arch, &misbehaving, &choice)?);
    on(&Case { name: name.into(), metadata: misbehaving, payload, rounds });
    selftest::each_mutant(dirs, arch, &metadata, |name, payload| {
        let name = format!("mutant {name}");
        on(&Case { name, metadata: metadata.clone(), payload: Rc::new(payload), rounds: 1 });
    })
    .context("a mutant cannot be made")
}

struct Agreement<'a> {
    flags: &'a flags::Agree,
    backends: [(&'static str, &'a dyn Backend); 2],
    host: &'a Host<'a>,
    interrupt: &'a Interrupt,
}

impl Agreement<'_> {
    /// What was said in each round, in both kinds of guest; how the guest came to be, and what was said. Of a kernel that
    /// cannot be had nothing is asked twice.
    fn verdicts(&self, case: &Case, target: &Target) -> Vec<(String, String)> {
        let mut verdicts = Vec::new();
        for round in 1..=case.rounds {
            for (kind, backend) in self.backends {
                let report = self.engine(case, backend).run(target, &|_| {});
                if self.interrupt.signal().is_some() {
                    return verdicts;
                }
                if report.verdict == Verdict::Unavailable {
                    eprintln!("{}: {}", target.name(), summary(&report));
                    return verdicts;
                }
                verdicts.push((format!("{kind}, round {round}"), summary(&report)));
            }
        }
        verdicts
    }

    fn engine<'e>(&'e self, case: &'e Case, backend: &'e dyn Backend) -> Engine<'e> {
        let options = Options::from(&self.flags.vm);
        Engine::new(self.host, backend, &case.metadata, &case.payload, options)
    }
}

/// The verdict and the tests that did not pass. The reasons' own words differ by addresses and times.
fn summary(report: &KernelReport) -> String {
    let failed = report.tests.iter().filter(|outcome| outcome.result != TestResult::Passed);
    let failed = failed.map(|outcome| outcome.test.name.as_str());
    let missing = report.missing.iter().map(|test| test.name.as_str());
    let mut tests: Vec<&str> = failed.chain(missing).collect();
    tests.sort_unstable();
    format!("{}{}", report.verdict.word(), tests.iter().map(|it| format!(" {it}")).collect::<String>())
}

/// Prints what differs from the first verdict; how much does.
fn report(case: &str, kernel: &str, verdicts: &[(String, String)]) -> usize {
    let Some((first, expected)) = verdicts.first() else { return 0 };
    eprintln!("{kernel}: {case}: {} runs: {expected}", verdicts.len());
    let others: Vec<_> = verdicts.iter().filter(|(_, verdict)| verdict != expected).collect();
    for (how, verdict) in &others {
        println!("{kernel}: {case}: {first}: {expected}; but {how}: {verdict}");
    }
    others.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verdict_that_is_not_the_first_is_a_disagreement() {
        let said = |words: &[&str]| -> Vec<(String, String)> {
            words.iter().map(|word| ("booted".to_owned(), (*word).to_owned())).collect()
        };
        assert_eq!(report("c", "k", &said(&["pass", "pass", "fail a", "hang"])), 2);
        assert_eq!(report("c", "k", &said(&["fail a", "fail a"])), 0);
        assert_eq!(report("c", "k", &[]), 0);
    }
}
