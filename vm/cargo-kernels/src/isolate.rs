//! `--isolate`: a guest for each test, so that one that breaks the kernel cannot spoil the next.

use std::time::Instant;

use vmtest_agent::TestId;

use crate::engine::{Engine, OnEvent};
use crate::event::RunEvent;
use crate::verdict::{KernelReport, Verdict};
use vm_kernels::Target;

/// Runs every test of the payload, each in a guest of its own, and makes one report of them.
pub fn run(engine: &Engine<'_>, target: &Target, on: OnEvent<'_>) -> KernelReport {
    let begun = Instant::now();
    let tests = match &engine.payload.only {
        Some(only) => only.clone(),
        None => match engine.list(target, on) {
            report if report.verdict == Verdict::Pass => report.missing,
            report => return report,
        },
    };
    let mut whole = KernelReport::unknown(target.name(), engine.guests.backend.name());
    whole.start_s = engine.guests.host.started.elapsed().as_secs_f64();
    whole.verdict = Verdict::Pass;
    for (done, test) in tests.iter().enumerate() {
        let log = engine.guests.host.log(&[target.name(), &test.name]);
        let shifted = |event| match event {
            RunEvent::Testing { current, .. } => on(RunEvent::Testing { done, total: tests.len(), current }),
            // Told once, for the first of many guests.
            RunEvent::Preparing | RunEvent::Booting | RunEvent::Restoring if done > 0 => {}
            event => on(event),
        };
        let part = engine.run_tests(target, Some(std::slice::from_ref(test)), &log, &shifted);
        let hopeless = !part.booted && part.verdict != Verdict::Pass;
        add(&mut whole, test, part);
        if hopeless {
            // The kernel cannot be had, or does not come up: it will not for the next test either.
            whole.missing.extend(tests.iter().skip(done + 1).cloned());
            break;
        }
    }
    whole.expected_tests = tests.len();
    whole.total_s = begun.elapsed().as_secs_f64();
    whole
}

/// The first test that did not pass decides the verdict of all; one whose verdict the user tolerates, if there is no
/// other.
fn add(whole: &mut KernelReport, test: &TestId, part: KernelReport) {
    let open = whole.verdict == Verdict::Pass || (whole.tolerated && !part.tolerated);
    if open && part.verdict != Verdict::Pass {
        whole.verdict = part.verdict;
        whole.reason = match part.booted {
            true => format!("in the guest of `{}`: {}", test.name, part.reason),
            false => part.reason,
        };
        whole.excerpt = part.excerpt;
        whole.tolerated = part.tolerated;
        whole.console_log = part.console_log;
    } else if whole.console_log.is_none() {
        whole.console_log = part.console_log;
    }
    whole.release = part.release.or(whole.release.take());
    whole.accel = part.accel.or(whole.accel.take());
    whole.booted |= part.booted;
    whole.fetch_s += part.fetch_s;
    whole.boot_s = sum(whole.boot_s, part.boot_s);
    whole.test_s = sum(whole.test_s, part.test_s);
    whole.facts = whole.facts.take().or(part.facts);
    whole.tests.extend(part.tests);
    whole.missing.extend(part.missing);
}

fn sum(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    a.zip(b).map(|(a, b)| a + b).or(a).or(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(verdict: Verdict, reason: &str) -> KernelReport {
        KernelReport { verdict, reason: reason.into(), booted: true, boot_s: Some(1.0), ..KernelReport::default() }
    }

    #[test]
    fn the_first_failure_decides_unless_it_is_tolerated() {
        let test = TestId { binary: "tests/t".into(), name: "a".into() };
        let tolerated = KernelReport { tolerated: true, ..part(Verdict::KernelSplat, "WARNING") };
        let mut whole = part(Verdict::Pass, "");
        for (part, verdict, is_tolerated) in [
            (tolerated, Verdict::KernelSplat, true),
            (part(Verdict::Panic, "boom"), Verdict::Panic, false),
            (part(Verdict::Fail, "other"), Verdict::Panic, false),
            (part(Verdict::Pass, ""), Verdict::Panic, false),
        ] {
            add(&mut whole, &test, part);
            assert_eq!((whole.verdict, whole.tolerated), (verdict, is_tolerated));
        }
        assert_eq!(whole.reason, "in the guest of `a`: boom");
        assert_eq!(whole.boot_s, Some(5.0));
    }
}
