//! One job, from the first word to the last.

use std::fs;

use anyhow::{Context, Error, Result};
use nix::sys::time::{TimeSpec, TimeValLike};
use nix::time::{ClockId, clock_gettime, clock_settime};
use vmtest_agent::{Event, Job, PROTOCOL, Ready, Task, Tests};

use crate::channel::Channel;
use crate::machine::Machine;
use crate::root::NoHostRoot;
use crate::{command, copy_out, entropy, facts, root, run_tests};

/// Says that the guest is ready, waits for the job, does it. An error is one of the channel's;
/// whatever else goes wrong is reported to the host.
pub fn serve(channel: &mut Channel, machine: &mut Machine) -> Result<()> {
    channel.send(ready()?)?;
    let done = channel.receive_job().and_then(|job| perform(&job, machine, channel));
    let last = match done {
        Ok(()) => Event::Finished,
        Err(error) if error.is::<NoHostRoot>() => Event::NoHostRoot { reason: format!("{error:#}") },
        Err(error) => Event::Failed { reason: explain(&error, &machine.errors) },
    };
    channel.send(last)?;
    channel.drain()
}

fn ready() -> Result<Event> {
    let name = nix::sys::utsname::uname().context("cannot read the kernel's release")?;
    let release = name.release().to_string_lossy().into_owned();
    let uptime = clock_gettime(ClockId::CLOCK_BOOTTIME).context("cannot read the boot clock")?;
    Ok(Event::Ready(Ready { protocol: PROTOCOL, release, uptime_s: uptime.num_nanoseconds() as f64 / 1e9 }))
}

fn perform(job: &Job, machine: &mut Machine, channel: &mut Channel) -> Result<()> {
    set_clock(job.clock_ns)?;
    entropy::feed(&job.entropy)?;
    root::enter(job, machine)?;
    match &job.task {
        Task::Tests(tests) => run_tests::perform(tests, channel)?,
        Task::Command(program) => {
            channel.send(Event::Started)?;
            let ended = command::run(program, channel)?;
            channel.send(Event::Ended(ended))?;
        }
    }
    if let Some(directory) = &job.copy_out {
        copy_out::send(directory, channel)?;
    }
    channel.send(Event::Tainted { flags: taint_flags() })?;
    match &job.task {
        Task::Tests(Tests { facts: Some(request), .. }) => channel.send(Event::Facts(facts::collect(request))),
        _ => Ok(()),
    }
}

fn set_clock(since_epoch_ns: u64) -> Result<()> {
    let ns = i64::try_from(since_epoch_ns).context("the job's time is out of range")?;
    clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::nanoseconds(ns)).context("cannot set the clock")
}

/// What the kernel remembers of its own errors, whether it showed them on its console or not
/// (Documentation/admin-guide/tainted-kernels.rst); none where it does not tell.
fn taint_flags() -> u64 {
    let text = fs::read_to_string("/proc/sys/kernel/tainted").unwrap_or_default();
    text.trim().parse().unwrap_or_default()
}

fn explain(error: &Error, errors: &[Error]) -> String {
    let mut reason = format!("{error:#}");
    if !errors.is_empty() {
        let errors: Vec<String> = errors.iter().map(|error| format!("{error:#}")).collect();
        reason += &format!(" (while the guest came up: {})", errors.join("; "));
    }
    reason
}
