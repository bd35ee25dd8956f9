//! One job, from the first word to the last.

use anyhow::{Context, Result};
use vmtest_agent::{Event, Job, PROTOCOL, Ready, Task, Tests};

use crate::channel::Channel;
use crate::machine::Machine;
use crate::root::NoHostRoot;
use crate::{clock, command, copy_out, entropy, facts, root, run_tests, taint};

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
    Ok(Event::Ready(Ready { protocol: PROTOCOL, release, uptime_s: clock::uptime_s()? }))
}

fn perform(job: &Job, machine: &mut Machine, channel: &mut Channel) -> Result<()> {
    clock::set(job.clock_ns)?;
    entropy::feed(&job.entropy)?;
    root::enter(job, machine)?;
    match &job.task {
        Task::Tests(tests) => run_tests::perform(tests, channel)?,
        Task::Command(program) => {
            let ended = command::run(program, channel)?;
            channel.send(Event::Ended(ended))?;
        }
    }
    if let Some(directory) = &job.copy_out {
        copy_out::send(directory, channel)?;
    }
    channel.send(Event::Tainted { flags: taint::flags() })?;
    match &job.task {
        Task::Tests(Tests { facts: Some(request), .. }) => channel.send(Event::Facts(facts::collect(request))),
        _ => Ok(()),
    }
}

fn explain(error: &anyhow::Error, errors: &[String]) -> String {
    let mut reason = format!("{error:#}");
    if !errors.is_empty() {
        reason += &format!(" (while the guest came up: {})", errors.join("; "));
    }
    reason
}
