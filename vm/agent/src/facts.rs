//! What the kernel says of the program, while the program runs.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use vmtest_agent::{Facts, FactsRequest, ProgramFacts};

use crate::bpf::{self, ProgramInfo};
use crate::process::{self, Stop, Watched};

/// Told this, the agent's program does nothing: something to execute that is there in any guest.
pub const DO_NOTHING: &str = "do-nothing";

/// Time that each BPF program takes is counted while this is 1 (since 5.1).
const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// How long the program may take to be ready, and again to end. Nothing but facts is lost when it takes longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many programs are executed for events to be counted over.
const EXECVES: u32 = 20;

/// Program types (`enum bpf_prog_type`: kprobe, tracepoint, perf event) that are attached to a perf event: by
/// `ioctl(PERF_EVENT_IOC_SET_BPF)` before 5.15, by a link since.
const PERF_EVENT_TYPES: [u32; 3] = [2, 5, 7];

/// Starts the program, looks at it, stops it. Facts that cannot be had are absent.
pub fn collect(request: &FactsRequest) -> Facts {
    let btf = Path::new("/sys/kernel/btf/vmlinux").exists();
    // Absent without CONFIG_BPF_JIT; 2 adds debugging output.
    let jit = fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").ok().map(|value| value.trim() != "0");
    let mut facts = Facts { btf: Some(btf), jit, ..Facts::default() };
    if let Err(error) = observe(request, &mut facts) {
        facts.error = Some(format!("{}: {error}", request.program.argv.join(" ")));
    }
    facts
}

fn observe(request: &FactsRequest, facts: &mut Facts) -> io::Result<()> {
    let before: BTreeSet<u32> = bpf::programs()?.into_iter().collect();
    let started = Instant::now();
    let mut process = Watched::start(process::command(&request.program)?)?;
    let ready = wait_for_line(&mut process, &request.ready_line, started + PATIENCE);
    facts.load_s = ready.is_ok().then(|| started.elapsed().as_secs_f64());
    let programs = ready.and_then(|()| look(&before));
    process.signal(Signal::SIGTERM);
    process.run(Instant::now() + PATIENCE, |_, _| ControlFlow::Continue(()))?;
    facts.programs = programs?;
    Ok(())
}

fn wait_for_line(process: &mut Watched, needle: &str, deadline: Instant) -> io::Result<()> {
    let mut seen = Vec::new();
    let stop = process.follow(deadline, |_, bytes| {
        seen.extend_from_slice(bytes);
        if String::from_utf8_lossy(&seen).contains(needle) {
            return ControlFlow::Break(());
        }
        // It may have come in part.
        seen.drain(..seen.len().saturating_sub(needle.len()));
        ControlFlow::Continue(())
    })?;
    match stop {
        Stop::Satisfied => Ok(()),
        Stop::Ended => Err(io::Error::other(format!("it ended without printing {needle:?}"))),
        Stop::Deadline => Err(io::Error::other(format!("it did not print {needle:?} in time"))),
    }
}

/// Looks at every BPF program that was not there before.
fn look(before: &BTreeSet<u32>) -> io::Result<Vec<ProgramFacts>> {
    let new = bpf::programs()?.into_iter().filter(|id| !before.contains(id));
    // One that cannot be opened has gone: a probe of libbpf's, most likely.
    let programs: Vec<_> = new.filter_map(|id| bpf::open_program(id).ok()).collect();
    let counted = count_runs()?;
    let links = bpf::linked_programs();
    programs.iter().map(|program| Ok(describe(&bpf::program_info(program)?, &links, counted))).collect()
}

/// Causes events while the kernel counts them. Says whether it does.
fn count_runs() -> io::Result<bool> {
    let Ok(former) = fs::read_to_string(STATISTICS) else { return Ok(false) };
    fs::write(STATISTICS, "1")?;
    // A program that does nothing: this one, told so.
    let execve = |_| Command::new("/proc/self/exe").arg(DO_NOTHING).stdin(Stdio::null()).status().map(drop);
    let executed = (0..EXECVES).try_for_each(execve);
    fs::write(STATISTICS, former.trim())?;
    executed.map(|()| true)
}

/// Of what the kernel says; `links` are the programs that links refer to.
fn describe(info: &ProgramInfo, links: &[u32], counted: bool) -> ProgramFacts {
    // A kernel that does not know a number, or a program without machine code, leaves 0.
    let known = |number: u32| (number > 0).then_some(number.into());
    let attached =
        if links.contains(&info.id) { Some("link") } else { PERF_EVENT_TYPES.contains(&info.kind).then_some("ioctl") };
    let mean = || (info.run_count > 0).then(|| info.run_time_ns as f64 / info.run_count as f64);
    let name = info.name.split(|byte| *byte == 0).next().unwrap_or_default();
    ProgramFacts {
        name: String::from_utf8_lossy(name).into_owned(),
        verified_insns: known(info.verified_insns),
        xlated_bytes: known(info.xlated_bytes),
        jited_bytes: known(info.jited_bytes),
        event_ns: counted.then(mean).flatten(),
        events: counted.then_some(info.run_count),
        attached: attached.map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_does_not_tell_is_absent() {
        let info = ProgramInfo { id: 7, kind: 5, name: *b"hello\0padding...", ..ProgramInfo::default() };
        let facts = describe(&info, &[], false);
        let expected = ProgramFacts { name: "hello".into(), attached: Some("ioctl".into()), ..Default::default() };
        assert_eq!(facts, expected);
        let info = ProgramInfo { verified_insns: 3, run_count: 4, run_time_ns: 10, ..info };
        let facts = describe(&info, &[7], true);
        assert_eq!((facts.verified_insns, facts.events, facts.event_ns), (Some(3), Some(4), Some(2.5)));
        assert_eq!(facts.attached.as_deref(), Some("link"));
    }
}
