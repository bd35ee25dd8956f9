//! From what was seen of a guest to a verdict: pure, so that every case is a test.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use vmtest_agent::{TestId, TestOutcome, TestResult};

use crate::text::test_name;
use crate::verdict::Verdict;
use vm_guest::supervise::{End, Observed};
use vm_kernels::{Expected, Kernel};

/// How many lines of evidence are shown.
const EXCERPT: usize = 12;
/// How much of a reason is kept, in characters: part of it may be the guest's own words.
const REASON: usize = 1000;
/// What the kernel prints of a process that it killed for want of memory (mm/oom_kill.c).
const OUT_OF_MEMORY: &str = "Out of memory: Killed process";
/// How much of it is kept for the first splat, in characters.
const SPLAT: usize = 300;

/// A verdict and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The answer.
    pub verdict: Verdict,
    /// One sentence; empty for a pass.
    pub reason: String,
    /// A few lines that show it.
    pub excerpt: Vec<String>,
}

/// What the judge has to know besides what was seen.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    /// The kernel that was asked for.
    pub kernel: &'a Kernel,
    /// The tests that were asked for; if none is named, all that the guest lists.
    pub tests: Option<&'a [TestId]>,
    /// The guest's memory in MiB.
    pub memory_mib: u32,
    /// Further kernel parameters that it was given.
    pub kernel_args: &'a [String],
}

impl Case<'_> {
    /// The verdict. A pass needs every expected test's own report of success, and nothing else.
    pub fn classify(&self, seen: &Observed) -> Outcome {
        self.panic(seen)
            .or_else(|| self.wrong_kernel(seen))
            .or_else(|| self.cut_short(seen))
            .or_else(|| self.failed_tests(seen))
            .or_else(|| self.splat(seen))
            .unwrap_or(Outcome { verdict: Verdict::Pass, reason: String::new(), excerpt: vec![] })
    }

    fn panic(&self, seen: &Observed) -> Option<Outcome> {
        let words = seen.console.panic.as_ref()?;
        let reason = format!("the kernel panicked {}: {words}{}", self.when(seen), and_splat(seen));
        Some(conclude(Verdict::Panic, reason, first(&seen.console.context)))
    }

    fn wrong_kernel(&self, seen: &Observed) -> Option<Outcome> {
        let release = &seen.ready.as_ref()?.release;
        if self.kernel.expected.accepts(release) {
            return None;
        }
        let wanted = match &self.kernel.expected {
            Expected::Exact(exact) => exact.clone(),
            Expected::Series(prefix) => format!("{prefix}*"),
            Expected::Any => return None,
        };
        let reason =
            format!("booted {release}, not {wanted}: check the pin `{}` in vm/kernels/kernels.toml", self.kernel.name);
        Some(conclude(Verdict::WrongKernel, reason, vec![]))
    }

    fn cut_short(&self, seen: &Observed) -> Option<Outcome> {
        let tail = || last(&seen.console.tail);
        let when = self.when(seen);
        let (verdict, reason) = match (&seen.end, &seen.ready) {
            (End::Finished | End::Panicked, _) => return None,
            (End::Interrupted, _) => (Verdict::HostError, "interrupted".to_owned()),
            (End::ProcessExited { program, status, qemu_ran }, _) => {
                (Verdict::HostError, how_it_exited(program, *status, *qemu_ran, &when))
            }
            (End::Deadline, None) => (
                Verdict::NoBoot,
                format!("nothing was heard of the agent within {} s; {}", seen.limit.as_secs_f64(), self.how_far(seen)),
            ),
            (End::GuestShutdown, None) => {
                (Verdict::NoBoot, format!("the guest shut down before the agent was up; {}", self.how_far(seen)))
            }
            (End::NoHostRoot(why), _) => {
                (Verdict::Unsupported, format!("programs cannot have the host's root directory: {why}"))
            }
            (End::AgentFailed(why), _) => (Verdict::HostError, format!("the agent could not do its job: {why}")),
            (End::ProtocolError(what), _) => {
                (Verdict::Fail, format!("someone other than the agent wrote on the agent's line {when}: {what}"))
            }
            (End::Deadline, Some(_)) => {
                (Verdict::Hang, format!("not finished within {} s: the guest hung {when}", seen.limit.as_secs_f64()))
            }
            (End::GuestShutdown, Some(_)) => {
                (Verdict::Fail, format!("the guest shut down, or its agent was killed, {when}"))
            }
        };
        Some(conclude(verdict, reason + &and_splat(seen), tail()))
    }

    fn tests<'s>(&'s self, seen: &'s Observed) -> &'s [TestId] {
        self.tests.or(seen.listed.as_deref()).unwrap_or_default()
    }

    fn when(&self, seen: &Observed) -> String {
        match (&seen.running, &seen.ready) {
            (Some(test), _) => format!("while `{}` ran", test_name(test)),
            (None, None) => "before the agent was up".into(),
            (None, Some(_)) if seen.outcomes.is_empty() => "before the first test".into(),
            (None, Some(_)) => {
                format!("after {} of {} tests", seen.outcomes.len(), self.tests(seen).len())
            }
        }
    }

    fn how_far(&self, seen: &Observed) -> String {
        let memory = format!("the guest has {} MiB of memory", self.memory_mib);
        match seen.console.tail.last() {
            Some(line) => format!("the kernel got as far as: {line} ({memory})"),
            None => format!("the kernel printed nothing at all ({memory})"),
        }
    }

    fn failed_tests(&self, seen: &Observed) -> Option<Outcome> {
        let passed: BTreeSet<&TestId> = seen
            .outcomes
            .iter()
            .filter(|outcome| outcome.result == TestResult::Passed)
            .map(|outcome| &outcome.test)
            .collect();
        let tests = self.tests(seen);
        if tests.is_empty() && self.tests.is_none() {
            let reason = format!("no test was selected{}", and_splat(seen));
            return Some(conclude(Verdict::Fail, reason, vec![]));
        }
        let failed: Vec<&TestId> = tests.iter().filter(|test| !passed.contains(test)).collect();
        let first_failed = failed.first()?;
        let outcome = seen.outcomes.iter().find(|outcome| outcome.test == **first_failed);
        let how = outcome.map_or("did not run".into(), how_it_failed);
        let more = match failed.len() - 1 {
            0 => String::new(),
            more => format!(", and {more} more of {} tests", tests.len()),
        };
        let memory = match seen.console.tail.iter().any(|line| line.contains(OUT_OF_MEMORY)) {
            true => {
                format!("; the guest's {} MiB of memory were used up (--memory)", self.memory_mib)
            }
            false => String::new(),
        };
        let reason = format!("`{}` {how}{more}{memory}{}", test_name(first_failed), and_splat(seen));
        Some(conclude(Verdict::Fail, reason, first(&seen.console.context)))
    }

    fn splat(&self, seen: &Observed) -> Option<Outcome> {
        let words = seen.console.splats.first().cloned();
        let words = words.or_else(|| self.only_tainted(seen.tainted))?;
        let reason = format!("the tests passed, but the kernel reported: {words} (--allow-kernel-warnings accepts it)");
        Some(conclude(Verdict::KernelSplat, reason, first(&seen.console.context)))
    }

    /// A splat of which no line was recognized: the console's level can be changed, by the guest or by the user.
    fn only_tainted(&self, tainted: u64) -> Option<String> {
        let (_, letter, meaning) = TAINTS.iter().find(|(bit, ..)| tainted >> bit & 1 == 1)?;
        // The last one counts; warnings are of level 4, and only lower ones than the console's are printed
        // (kernel/printk/printk.c, CONSOLE_LOGLEVEL_QUIET).
        let level = |arg: &String| match arg.as_str() {
            "quiet" => Some(4),
            "debug" | "ignore_loglevel" => Some(10),
            other => other.strip_prefix("loglevel=")?.parse::<u32>().ok(),
        };
        let last = self.kernel_args.iter().filter_map(|arg| Some((arg, level(arg)?))).next_back();
        let where_to = match last {
            Some((arg, ..5)) => format!("kernel parameter `{arg}` keeps warnings from the console"),
            _ => "no line of the console was recognized as it".to_owned(),
        };
        Some(format!("{meaning} (taint flag {letter}); {where_to}"))
    }
}

/// The first splat, as the end of a reason that is another's.
fn and_splat(seen: &Observed) -> String {
    let first = seen.console.splats.first();
    first.map_or(String::new(), |words| {
        format!("; the kernel printed: {}", words.chars().take(SPLAT).collect::<String>())
    })
}

/// Taint flags that a kernel sets when something is wrong with it: bit, letter, meaning
/// (Documentation/admin-guide/tainted-kernels.rst). The others tell of modules and settings.
const TAINTS: &[(u32, char, &str)] = &[
    (4, 'M', "the processor reported a machine check"),
    (5, 'B', "a bad page was found"),
    (7, 'D', "there was an oops or a BUG"),
    (9, 'W', "there was a warning"),
    (14, 'L', "there was a soft lockup"),
];

fn how_it_failed(outcome: &TestOutcome) -> String {
    match &outcome.result {
        TestResult::Passed => "passed".into(),
        TestResult::Failed { code: 101 } => "failed".into(),
        TestResult::Failed { code } => format!("failed with exit status {code}"),
        TestResult::Killed { signal } => format!("was killed by {}", signal_name(*signal)),
        TestResult::TimedOut => format!("was still running after {:.0} s", outcome.seconds),
        TestResult::NotStarted { reason } => format!("did not run: {reason}"),
    }
}

/// Which of the host's programs ended, and how. Whatever ends QEMU also ends `vng`, which then exits.
fn how_it_exited(program: &str, status: ExitStatus, qemu_ran: bool, when: &str) -> String {
    match status.signal() {
        Some(signal) => format!("{program} was killed by {} {when}", signal_name(signal)),
        None if qemu_ran => format!(
            "QEMU died {when}, and not because the guest wanted it to: it crashed, was killed, or \
             the host has no memory left ({program}: {status})"
        ),
        None => format!("{program} ended before QEMU was up: {status}"),
    }
}

fn signal_name(number: i32) -> String {
    let signal = nix::sys::signal::Signal::try_from(number);
    signal.map_or_else(|_| format!("signal {number}"), |signal| signal.to_string())
}

/// A long reason loses its middle: the first splat is at its end.
fn conclude(verdict: Verdict, reason: String, excerpt: Vec<String>) -> Outcome {
    let length = reason.chars().count();
    let reason = match length > REASON {
        true => {
            let start = reason.chars().take(REASON - SPLAT);
            start.chain(['…']).chain(reason.chars().skip(length - SPLAT)).collect()
        }
        false => reason,
    };
    Outcome { verdict, reason, excerpt }
}

fn first(lines: &[String]) -> Vec<String> {
    lines.iter().take(EXCERPT).cloned().collect()
}

fn last(lines: &[String]) -> Vec<String> {
    lines[lines.len().saturating_sub(EXCERPT)..].to_vec()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::PathBuf;

    use vmtest_agent::{PROTOCOL, Ready};

    use super::*;
    use vm_guest::console::Console;

    fn id(name: &str) -> TestId {
        TestId { binary: "tests/trace".into(), name: name.into() }
    }

    fn outcome(name: &str, result: TestResult) -> TestOutcome {
        let output = "one\ntwo".to_owned();
        TestOutcome { test: id(name), result, attempts: 1, seconds: 1.5, output, dropped_bytes: 0 }
    }

    fn console(text: &str) -> Console {
        let mut console = Console::default();
        console.feed(text.as_bytes(), |_| {});
        console
    }

    /// A run in which both tests passed.
    fn passed() -> Observed {
        Observed {
            ready: Some(Ready { protocol: PROTOCOL, release: "5.15.1".into(), uptime_s: 1.0 }),
            boot: None,
            test: None,
            outcomes: vec![outcome("a", TestResult::Passed), outcome("b", TestResult::Passed)],
            listed: Some(vec![id("a"), id("b")]),
            ended: None,
            running: None,
            facts: None,
            tainted: 0,
            limit: std::time::Duration::from_secs(60),
            console: Console::default(),
            end: End::Finished,
        }
    }

    fn kernel() -> Kernel {
        Kernel {
            arch: vm_kernels::Arch::host(),
            name: "5.15".into(),
            image: PathBuf::new(),
            sha256: None,
            modules: None,
            expected: Expected::Series("5.15.".into()),
            release: None,
            config: None,
            source: "path".into(),
        }
    }

    fn judge(seen: &Observed) -> Outcome {
        let kernel = kernel();
        let kernel_args = &[];
        Case { kernel: &kernel, tests: None, memory_mib: 512, kernel_args }.classify(seen)
    }

    #[track_caller]
    fn check(seen: &Observed, verdict: Verdict, words: &str) {
        let outcome = judge(seen);
        assert_eq!(outcome.verdict, verdict, "{outcome:?}");
        assert!(outcome.reason.contains(words), "{outcome:?}");
    }

    #[test]
    fn every_expected_test_passed() {
        check(&passed(), Verdict::Pass, "");
    }

    #[test]
    fn a_test_that_was_killed_for_want_of_memory_is_told_so() {
        let outcomes = vec![outcome("a", TestResult::Killed { signal: 9 }), outcome("b", TestResult::Passed)];
        let console = console("[ 3.0] Out of memory: Killed process 7 (a) total-vm:1kB\n");
        let words = "512 MiB of memory were used up (--memory)";
        check(&Observed { outcomes, console, ..passed() }, Verdict::Fail, words);
    }

    #[test]
    fn a_job_that_finished_without_one_of_its_tests_is_no_pass() {
        let outcomes = vec![outcome("a", TestResult::Passed)];
        check(&Observed { outcomes, ..passed() }, Verdict::Fail, "`b` did not run");
    }

    #[test]
    fn the_same_test_twice_does_not_stand_for_another() {
        let outcomes = vec![outcome("a", TestResult::Passed), outcome("a", TestResult::Passed)];
        check(&Observed { outcomes, ..passed() }, Verdict::Fail, "`b` did not run");
    }

    #[test]
    fn each_way_of_failing_is_told() {
        for (result, words) in [
            (TestResult::Failed { code: 101 }, "`a` failed"),
            (TestResult::Failed { code: 3 }, "exit status 3"),
            (TestResult::Killed { signal: 11 }, "SIGSEGV"),
            (TestResult::TimedOut, "still running after"),
            (TestResult::NotStarted { reason: "no such file".into() }, "no such file"),
        ] {
            let outcomes = vec![outcome("a", result), outcome("b", TestResult::Passed)];
            check(&Observed { outcomes, ..passed() }, Verdict::Fail, words);
        }
    }

    #[test]
    fn of_several_failed_tests_the_first_is_named_and_the_others_are_counted() {
        let outcomes = vec![outcome("a", TestResult::Failed { code: 101 })];
        let outcome = judge(&Observed { outcomes, ..passed() });
        assert!(outcome.reason.ends_with("and 1 more of 2 tests"), "{}", outcome.reason);
    }

    #[test]
    fn a_panic_outweighs_everything_even_a_finished_job() {
        let console = console("[ 1.0] Kernel panic - not syncing: sysrq triggered crash\n");
        let seen = Observed { running: Some(id("b")), console, ..passed() };
        check(&seen, Verdict::Panic, "while `b` ran: Kernel panic - not syncing: sysrq");
    }

    #[test]
    fn another_release_is_never_a_pass() {
        let ready = Some(Ready { protocol: 1, release: "5.150.1".into(), uptime_s: 1.0 });
        check(&Observed { ready, ..passed() }, Verdict::WrongKernel, "booted 5.150.1, not 5.15.*");
    }

    #[test]
    fn a_guest_that_never_spoke_did_not_boot_and_its_last_line_is_told() {
        let console = console("[ 0.1] tsc: Fast TSC calibration failed\n");
        let silent = Observed { ready: None, outcomes: vec![], console, ..passed() };
        let deadline = Observed { end: End::Deadline, ..silent };
        check(&deadline, Verdict::NoBoot, "got as far as: tsc: Fast TSC calibration failed");
        check(&deadline, Verdict::NoBoot, "512 MiB");
        check(&Observed { end: End::GuestShutdown, ..deadline }, Verdict::NoBoot, "shut down before");
    }

    #[test]
    fn a_guest_that_stopped_answering_hangs_in_the_test_that_ran() {
        let seen = Observed { end: End::Deadline, running: Some(id("b")), ..passed() };
        check(&seen, Verdict::Hang, "within 60 s: the guest hung while `b` ran");
    }

    #[test]
    fn a_guest_that_shut_down_in_a_test_fails_it() {
        let outcomes = vec![outcome("a", TestResult::Passed)];
        let running = Some(id("b"));
        let seen = Observed { end: End::GuestShutdown, outcomes, running, ..passed() };
        check(&seen, Verdict::Fail, "while `b` ran");
    }

    #[test]
    fn a_program_of_the_hosts_that_ended_is_named_with_its_end() {
        for (status, qemu_ran, words) in [
            (9, true, "vng was killed by SIGKILL while `b` ran"),
            (0xff00, true, "QEMU died while `b` ran"),
            (0x0100, false, "vng ended before QEMU was up: exit status: 1"),
        ] {
            let status = ExitStatus::from_raw(status);
            let end = End::ProcessExited { program: "vng".into(), status, qemu_ran };
            let seen = Observed { end, running: Some(id("b")), ..passed() };
            check(&seen, Verdict::HostError, words);
        }
    }

    #[test]
    fn a_stranger_on_the_channel_is_no_pass_even_when_all_tests_passed() {
        let end = End::ProtocolError("a message without this run's token".into());
        check(&Observed { end, ..passed() }, Verdict::Fail, "someone other than the agent");
    }

    #[test]
    fn a_reason_in_the_guests_words_stays_short() {
        let end = End::AgentFailed("ä".repeat(100_000));
        let outcome = judge(&Observed { end, ..passed() });
        assert_eq!(outcome.reason.chars().count(), REASON + 1);
    }

    #[test]
    fn a_warning_spoils_a_pass() {
        let console = console("[ 1.0] WARNING: CPU: 0 PID: 7 at kernel/bpf/core.c:1 f+0x1/0x2\n");
        let seen = Observed { console, ..passed() };
        check(&seen, Verdict::KernelSplat, "kernel/bpf/core.c:1");
    }

    #[test]
    fn a_warning_that_was_kept_from_the_console_is_known_by_its_taint() {
        const OUT_OF_TREE_MODULE: u64 = 1 << 12;
        let seen = Observed { tainted: 1 << 9 | OUT_OF_TREE_MODULE, ..passed() };
        check(&seen, Verdict::KernelSplat, "there was a warning (taint flag W)");
        check(&Observed { tainted: OUT_OF_TREE_MODULE, ..passed() }, Verdict::Pass, "");
    }

    #[test]
    fn a_failed_test_outweighs_a_warning_and_both_are_told() {
        let console = console("[ 1.0] BUG: sleeping function called from invalid context\n");
        let outcomes = vec![outcome("a", TestResult::TimedOut)];
        let seen = Observed { console, outcomes, ..passed() };
        check(&seen, Verdict::Fail, "`a` was still running");
        check(&seen, Verdict::Fail, "the kernel printed: BUG: sleeping function");
        let excerpt = judge(&seen).excerpt;
        assert_eq!(excerpt, ["BUG: sleeping function called from invalid context"]);
    }

    #[test]
    fn a_panic_and_a_hang_name_the_splat_before_them() {
        let text = "[ 1.0] Unable to handle kernel paging request at virtual address 1\n";
        let hung = Observed { end: End::Deadline, console: console(text), ..passed() };
        check(&hung, Verdict::Hang, "the kernel printed: Unable to handle kernel paging");
        let panicked = console(&format!("{text}[ 1.1] Kernel panic - not syncing: Oops\n"));
        check(&Observed { console: panicked, ..passed() }, Verdict::Panic, "Unable to handle");
    }

    #[test]
    fn a_parameter_that_hides_warnings_is_named() {
        let case = |kernel_args: &[String]| {
            let kernel = kernel();
            let case = Case { kernel: &kernel, tests: None, memory_mib: 1, kernel_args };
            case.only_tainted(1 << 9).unwrap()
        };
        assert!(case(&["quiet".into()]).contains("parameter `quiet` keeps warnings"));
        assert!(case(&["loglevel=3".into()]).contains("`loglevel=3` keeps"));
        for shown in [vec!["loglevel=7".into()], vec!["loglevel=10".into()], vec!["quiet".into(), "loglevel=7".into()]]
        {
            assert!(case(&shown).contains("no line of the console"), "{shown:?}");
        }
    }
}
