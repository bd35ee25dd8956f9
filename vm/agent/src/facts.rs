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

use crate::bpf::{self, Program};
use crate::process::{self, Stop, Watched};

/// Time that each BPF program takes is counted while this is 1 (since 5.1).
const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// How long the program may take to be ready, and again to end. Nothing but facts is lost when it takes longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many programs are executed for events to be counted over.
const EXECVES: u32 = 20;

/// Starts the program, looks at it, stops it. Facts that cannot be had are absent.
pub fn collect(request: &FactsRequest) -> Facts {
    let mut facts = Facts { btf: Some(has_btf()), jit: jit(), ..Facts::default() };
    if let Err(error) = observe(request, &mut facts) {
        facts.error = Some(format!("{}: {error}", request.program.argv.join(" ")));
    }
    facts
}

fn has_btf() -> bool {
    Path::new("/sys/kernel/btf/vmlinux").exists()
}

fn jit() -> Option<bool> {
    // Absent without CONFIG_BPF_JIT; 2 adds debugging output.
    let value = fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").ok()?;
    Some(value.trim() != "0")
}

fn observe(request: &FactsRequest, facts: &mut Facts) -> io::Result<()> {
    let before: BTreeSet<u32> = bpf::programs()?.into_iter().collect();
    let started = Instant::now();
    let mut process = Watched::start(process::command(&request.program)?)?;
    let ready = wait_for_line(&mut process, &request.ready_line, started + PATIENCE);
    facts.load_s = ready.is_ok().then(|| started.elapsed().as_secs_f64());
    let programs = ready.and_then(|()| look(&before));
    process.signal(Signal::SIGTERM);
    process.follow(Instant::now() + PATIENCE, |_, _| ControlFlow::Continue(()))?;
    process.finish(|_, _| {})?;
    facts.programs = programs?;
    Ok(())
}

/// Waits until the program prints a line with `needle` in it.
fn wait_for_line(process: &mut Watched, needle: &str, deadline: Instant) -> io::Result<()> {
    let mut line = Vec::new();
    let stop = process.follow(deadline, |_, bytes| {
        let mut pieces = bytes.split_inclusive(|byte| *byte == b'\n');
        let found = pieces.any(|piece| {
            line.extend_from_slice(piece);
            let found = String::from_utf8_lossy(&line).contains(needle);
            if piece.ends_with(b"\n") {
                line.clear();
            }
            found
        });
        if found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
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
    let mut programs: Vec<Program> = new.filter_map(|id| Program::open(id).ok()).collect();
    let counted = count_runs()?;
    programs.iter_mut().try_for_each(Program::refresh)?;
    let links = bpf::linked_programs();
    Ok(programs.iter().map(|program| describe(program, &links, counted)).collect())
}

/// Causes events while the kernel counts them. Says whether it does.
fn count_runs() -> io::Result<bool> {
    let Ok(former) = fs::read_to_string(STATISTICS) else { return Ok(false) };
    fs::write(STATISTICS, "1")?;
    let executed = (0..EXECVES).try_for_each(|_| execve());
    fs::write(STATISTICS, former.trim())?;
    executed.map(|()| true)
}

/// Executes a program that does nothing: this one, told so.
fn execve() -> io::Result<()> {
    let mut command = Command::new("/proc/self/exe");
    command.arg(crate::DO_NOTHING).stdin(Stdio::null()).stdout(Stdio::null());
    command.status().map(drop)
}

fn describe(program: &Program, links: &[u32], counted: bool) -> ProgramFacts {
    let runs = program.runs().filter(|_| counted);
    ProgramFacts {
        name: program.name(),
        verified_insns: program.verified_insns(),
        xlated_bytes: program.xlated_bytes(),
        jited_bytes: program.jited_bytes(),
        event_ns: runs.filter(|(count, _)| *count > 0).map(|(count, nanoseconds)| nanoseconds as f64 / count as f64),
        events: runs.map(|(count, _)| count),
        attached: program.attached(links).map(str::to_owned),
    }
}
