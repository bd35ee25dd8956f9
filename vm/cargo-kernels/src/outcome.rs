//! From what was seen of a guest to a verdict: pure, so that every case is a test.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use vmtest_agent::{TestId, TestResult};

use crate::metadata::Metadata;
use crate::report::words::{self, signal_name};
use crate::text::test_name;
use crate::verdict::Verdict::{
    self, Fail, Hang, HostError, KernelSplat, NoBoot, Panic, Pass, Unsupported, WrongKernel,
};
use vm_guest::supervise::{End, Observed};
use vm_kernels::Kernel;

/// How many lines of evidence are shown.
const EXCERPT: usize = 12;
/// How much of a reason is kept, in characters: part of it may be the guest's own words.
const REASON: usize = 1000;
/// How much of a reason is kept for the first splat, in characters.
const SPLAT: usize = 300;
/// What the kernel prints of a process that it killed for want of memory (mm/oom_kill.c).
const OUT_OF_MEMORY: &str = "Out of memory: Killed process";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub verdict: Verdict,
    /// One sentence; empty for a pass.
    pub reason: String,
    pub excerpt: Vec<String>,
}

/// What has to be known besides what was seen.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    pub kernel: &'a Kernel,
    /// The tests that were asked for; if none is named, all that the guest lists.
    pub tests: Option<&'a [TestId]>,
    pub metadata: &'a Metadata,
}

impl<'a> Case<'a> {
    /// Of a command, which has no tests.
    pub fn of_command(kernel: &'a Kernel, metadata: &'a Metadata) -> Self {
        Self { kernel, tests: Some(&[]), metadata }
    }

    /// The verdict. A pass needs every expected test's own report of success, and nothing else.
    pub fn classify(&self, seen: &Observed) -> Outcome {
        self.broken_off(seen).or_else(|| self.failed_tests(seen)).or_else(|| self.splat(seen)).unwrap_or(Outcome {
            verdict: Pass,
            reason: String::new(),
            excerpt: vec![],
        })
    }

    /// Why the job did not come to its end, if it did not, whatever the job was.
    pub fn broken_off(&self, seen: &Observed) -> Option<Outcome> {
        self.panic(seen)
            .or_else(|| Some(conclude(WrongKernel, wrong_kernel(self.kernel, seen)?, vec![])))
            .or_else(|| self.cut_short(seen))
    }

    fn panic(&self, seen: &Observed) -> Option<Outcome> {
        let words = seen.console.panic.as_ref()?;
        let reason = format!("the kernel panicked {}: {words}{}", self.when(seen), and_splat(seen));
        Some(conclude(Panic, reason, first(&seen.console.context)))
    }

    fn cut_short(&self, seen: &Observed) -> Option<Outcome> {
        let (when, how_far) = (self.when(seen), self.how_far(seen));
        let (booted, limit) = (seen.ready.is_some(), seen.limit.as_secs_f64());
        let (verdict, reason) = match &seen.end {
            End::Finished | End::Panicked => return None,
            End::Interrupted => return Some(conclude(HostError, "interrupted".to_owned(), vec![])),
            End::ProcessExited { program, status, qemu_ran } => {
                (HostError, how_it_exited(program, *status, *qemu_ran, &when))
            }
            End::Deadline if booted && self.is_command() => {
                (Hang, format!("not finished within {limit} s; --timeout gives it more"))
            }
            End::Deadline if booted => (Hang, format!("not finished within {limit} s: the guest hung {when}")),
            End::Deadline => (NoBoot, format!("nothing was heard of the agent within {limit} s; {how_far}")),
            End::GuestShutdown if booted => (Fail, format!("the guest shut down, or its agent was killed, {when}")),
            End::GuestShutdown => (NoBoot, format!("the guest shut down before the agent was up; {how_far}")),
            End::NoHostRoot(why) => (Unsupported, format!("programs cannot have the host's root directory: {why}")),
            End::AgentFailed(why) => (HostError, format!("the agent could not do its job: {why}")),
            End::ProtocolError(what) => {
                (Fail, format!("someone other than the agent wrote on the agent's line {when}: {what}"))
            }
        };
        let tail = &seen.console.tail;
        let last = tail[tail.len().saturating_sub(EXCERPT)..].to_vec();
        Some(conclude(verdict, reason + &and_splat(seen), last))
    }

    fn is_command(&self) -> bool {
        self.tests == Some(&[])
    }

    fn tests<'s>(&'s self, seen: &'s Observed) -> &'s [TestId] {
        self.tests.or(seen.listed.as_deref()).unwrap_or_default()
    }

    fn when(&self, seen: &Observed) -> String {
        match (&seen.running, &seen.ready) {
            (Some(test), _) => format!("while `{}` ran", test_name(test)),
            (None, None) => "before the agent was up".into(),
            (None, Some(_)) if self.is_command() => "before it was done".into(),
            (None, Some(_)) if seen.outcomes.is_empty() => "before the first test".into(),
            (None, Some(_)) => {
                format!("after {} of {} tests", seen.outcomes.len(), self.tests(seen).len())
            }
        }
    }

    fn how_far(&self, seen: &Observed) -> String {
        let memory = format!("the guest has {} MiB of memory", self.metadata.memory_mib);
        match seen.console.tail.last() {
            Some(line) => format!("the kernel got as far as: {line} ({memory})"),
            None => format!("the kernel printed nothing at all ({memory})"),
        }
    }

    fn failed_tests(&self, seen: &Observed) -> Option<Outcome> {
        let tests = self.tests(seen);
        if tests.is_empty() && self.tests.is_none() {
            return Some(conclude(Fail, format!("no test was selected{}", and_splat(seen)), vec![]));
        }
        let passed = seen.outcomes.iter().filter(|outcome| outcome.result == TestResult::Passed);
        let passed: BTreeSet<&TestId> = passed.map(|outcome| &outcome.test).collect();
        let failed: Vec<&TestId> = tests.iter().filter(|test| !passed.contains(test)).collect();
        let first_failed = *failed.first()?;
        let outcome = seen.outcomes.iter().find(|outcome| outcome.test == *first_failed);
        let how = outcome.map_or("did not run".into(), words::sentence);
        let more = match failed.len() - 1 {
            0 => String::new(),
            more => format!(", and {more} more of {} tests", tests.len()),
        };
        let memory = match seen.console.tail.iter().any(|line| line.contains(OUT_OF_MEMORY)) {
            true => format!("; the guest's {} MiB of memory were used up (--memory)", self.metadata.memory_mib),
            false => String::new(),
        };
        let reason = format!("`{}` {how}{more}{memory}{}", test_name(first_failed), and_splat(seen));
        Some(conclude(Fail, reason, first(&seen.console.context)))
    }

    /// What the kernel reported, in the words of its first line.
    pub fn first_splat(&self, seen: &Observed) -> Option<String> {
        let words = seen.console.splats.first().cloned();
        words.or_else(|| only_tainted(seen.tainted, &self.metadata.kernel_args))
    }

    fn splat(&self, seen: &Observed) -> Option<Outcome> {
        let words = self.first_splat(seen)?;
        let reason = format!("the tests passed, but the kernel reported: {words} (--allow-kernel-warnings accepts it)");
        Some(conclude(KernelSplat, reason, first(&seen.console.context)))
    }
}

/// A splat of which no line was recognized: the console's level can be changed, by the guest or by the user.
fn only_tainted(tainted: u64, kernel_args: &[String]) -> Option<String> {
    let (_, letter, meaning) = TAINTS.iter().find(|(bit, ..)| tainted >> bit & 1 == 1)?;
    // The last one counts; warnings are of level 4, and only lower ones than the console's are printed
    // (kernel/printk/printk.c, CONSOLE_LOGLEVEL_QUIET).
    let level = |arg: &String| match arg.as_str() {
        "quiet" => Some(4),
        "debug" | "ignore_loglevel" => Some(10),
        other => other.strip_prefix("loglevel=")?.parse::<u32>().ok(),
    };
    let last = kernel_args.iter().filter_map(|arg| Some((arg, level(arg)?))).next_back();
    let where_to = match last {
        Some((arg, ..5)) => format!("kernel parameter `{arg}` keeps warnings from the console"),
        _ => "no line of the console was recognized as it".to_owned(),
    };
    Some(format!("{meaning} (taint flag {letter}); {where_to}"))
}

/// Why what was booted is not this kernel.
fn wrong_kernel(kernel: &Kernel, seen: &Observed) -> Option<String> {
    let release = &seen.ready.as_ref().filter(|ready| !kernel.expected.accepts(&ready.release))?.release;
    let Kernel { expected, name, .. } = kernel;
    Some(format!("booted {release}, not {expected}: the `release` of the pin `{name}` is wrong, or its source is"))
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

#[cfg(test)]
mod tests {
    use vmtest_agent::{PROTOCOL, Ready, TestOutcome};

    use super::*;
    use crate::report::sample::{self, test_id};
    use vm_guest::console::Console;

    fn outcome(name: &str, result: TestResult) -> TestOutcome {
        sample::outcome(name, result, "")
    }

    fn console(text: &str) -> Console {
        let mut console = Console::default();
        console.feed(text.as_bytes());
        console
    }

    /// A run in which both tests passed.
    fn passed() -> Observed {
        Observed {
            outcomes: vec![outcome("a", TestResult::Passed), outcome("b", TestResult::Passed)],
            listed: Some(vec![test_id("a"), test_id("b")]),
            limit: std::time::Duration::from_secs(60),
            end: End::Finished,
            ready: Some(Ready { protocol: PROTOCOL, release: "5.15.1".into(), uptime_s: 1.0 }),
            ..Observed::default()
        }
    }

    fn classify(seen: &Observed, metadata: &Metadata) -> Outcome {
        let kernel = Kernel { expected: vm_kernels::Expected::Series("5.15.".into()), ..vm_kernels::fake::kernel() };
        Case { kernel: &kernel, tests: None, metadata }.classify(seen)
    }

    #[track_caller]
    fn check(seen: &Observed, verdict: Verdict, words: &str) -> Outcome {
        let outcome = classify(seen, &Metadata::default());
        assert_eq!(outcome.verdict, verdict, "{outcome:?}");
        assert!(outcome.reason.contains(words), "{outcome:?}");
        outcome
    }

    fn ended(end: End) -> Observed {
        Observed { end, running: Some(test_id("b")), ..passed() }
    }

    #[test]
    fn a_pass_is_every_expected_test_s_own_success() {
        check(&passed(), Pass, "");
        let a = || outcome("a", TestResult::Passed);
        // Of a job that finished; the same test twice does not stand for another.
        for outcomes in [vec![a()], vec![a(), a()]] {
            check(&Observed { outcomes, ..passed() }, Fail, "`b` did not run");
        }
        for (result, words) in [
            (TestResult::Failed { code: 3 }, "`a` failed with exit status 3"),
            (TestResult::Killed { signal: 11 }, "SIGSEGV"),
            (TestResult::TimedOut, "still running after 0 s"),
            (TestResult::NotStarted { reason: "no such file".into() }, "no such file"),
        ] {
            let outcomes = vec![outcome("a", result)];
            check(&Observed { outcomes: outcomes.clone(), ..passed() }, Fail, ", and 1 more of 2 tests");
            let outcomes = [outcomes, vec![outcome("b", TestResult::Passed)]].concat();
            check(&Observed { outcomes, ..passed() }, Fail, words);
        }
    }

    /// Even when all tests passed.
    #[test]
    fn early_end_is_no_pass_and_is_explained() {
        let ready = Some(Ready { protocol: 1, release: "5.150.1".into(), uptime_s: 1.0 });
        check(&Observed { ready, ..passed() }, WrongKernel, "booted 5.150.1, not 5.15.x");

        let exited = |status, qemu_ran| {
            let status = ExitStatus::from_raw(status);
            End::ProcessExited { program: "vng".into(), status, qemu_ran }
        };
        for (end, verdict, words) in [
            (End::Deadline, Hang, "within 60 s: the guest hung while `b` ran"),
            (End::GuestShutdown, Fail, "while `b` ran"),
            (End::ProtocolError("no token".into()), Fail, "someone other than the agent"),
            (exited(9, true), HostError, "vng was killed by SIGKILL while `b` ran"),
            (exited(0xff00, true), HostError, "QEMU died while `b` ran"),
            (exited(0x0100, false), HostError, "vng ended before QEMU was up: exit status: 1"),
        ] {
            check(&ended(end), verdict, words);
        }
        for (end, words) in [
            (End::Deadline, "got as far as: tsc: Fast TSC calibration failed (the guest has 512 MiB"),
            (End::GuestShutdown, "shut down before"),
        ] {
            let console = console("[ 0.1] tsc: Fast TSC calibration failed\n");
            check(&Observed { end, console, ..Observed::default() }, NoBoot, words);
        }
        let outcome = check(&ended(End::AgentFailed("ä".repeat(100_000))), HostError, "the agent could not");
        assert_eq!(outcome.reason.chars().count(), REASON + 1, "a reason in the guest's words stays short");
    }

    #[test]
    fn splat_overrides_pass_and_is_added_to_other_verdicts() {
        const OOPS: &str = "[ 1.0] Unable to handle kernel paging request at virtual address 1\n";
        const PANIC: &str = "[ 1.1] Kernel panic - not syncing: sysrq triggered crash\n";
        const OUT_OF_MEMORY: &str = "[ 3.0] Out of memory: Killed process 7 (a) total-vm:1kB\n";
        const WARNING: &str = "[ 1.0] WARNING: CPU: 0 PID: 7 at kernel/bpf/core.c:1 f+0x1/0x2\n";
        let killed = || Observed { outcomes: vec![outcome("a", TestResult::Killed { signal: 9 })], ..passed() };
        let all = || ended(End::Finished);
        for (seen, text, verdict, words) in [
            (all(), PANIC, Panic, "while `b` ran: Kernel panic - not syncing: sysrq"),
            (all(), &format!("{OOPS}{PANIC}"), Panic, "Unable to handle"),
            (ended(End::Deadline), OOPS, Hang, "the kernel printed: Unable to handle kernel paging"),
            (killed(), OOPS, Fail, "`a` was killed by SIGKILL"),
            (killed(), OOPS, Fail, "the kernel printed: Unable to handle kernel paging"),
            (killed(), OUT_OF_MEMORY, Fail, "512 MiB of memory were used up (--memory)"),
            (all(), WARNING, KernelSplat, "kernel/bpf/core.c:1"),
        ] {
            check(&Observed { console: console(text), ..seen }, verdict, words);
        }
        let excerpt = check(&Observed { console: console(OOPS), ..passed() }, KernelSplat, "").excerpt;
        assert_eq!(excerpt, ["Unable to handle kernel paging request at virtual address 1"]);
    }

    #[test]
    fn taint_without_console_line_is_splat() {
        const OUT_OF_TREE_MODULE: u64 = 1 << 12;
        check(&Observed { tainted: OUT_OF_TREE_MODULE, ..passed() }, Pass, "");
        let seen = Observed { tainted: 1 << 9 | OUT_OF_TREE_MODULE, ..passed() };
        check(&seen, KernelSplat, "there was a warning (taint flag W)");
        for (kernel_args, words) in [
            (&["quiet"][..], "parameter `quiet` keeps warnings"),
            (&["loglevel=3"], "`loglevel=3` keeps"),
            (&["loglevel=7"], "no line of the console"),
            (&["loglevel=10"], "no line of the console"),
            (&["quiet", "loglevel=7"], "no line of the console"),
        ] {
            let kernel_args = kernel_args.iter().map(ToString::to_string).collect();
            let reason = classify(&seen, &Metadata { kernel_args, ..Metadata::default() }).reason;
            assert!(reason.contains(words), "{reason}");
        }
    }
}
