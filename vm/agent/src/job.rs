//! One job, from the first word to the last.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use vmtest_agent::{Event, Job, PROTOCOL};

use crate::channel::Channel;
use crate::machine::Machine;
use crate::run_tests::Runner;
use crate::{clock, entropy, facts, modules, taint, unpack};

/// Says that the guest is ready, waits for the job, does it. An error is one of the channel's;
/// whatever else goes wrong is reported to the host.
pub fn serve(channel: &mut Channel, machine: &mut Machine) -> Result<()> {
    channel.send(ready()?)?;
    let done = channel.receive_job().and_then(|job| perform(&job, machine, channel));
    let last = match done {
        Ok(()) => Event::Finished,
        Err(error) => Event::Failed { reason: explain(&error, &machine.errors) },
    };
    channel.send(last)?;
    channel.drain()
}

fn ready() -> Result<Event> {
    let name = nix::sys::utsname::uname().context("cannot read the kernel's release")?;
    Ok(Event::Ready {
        protocol: PROTOCOL,
        release: name.release().to_string_lossy().into_owned(),
        uptime_s: clock::uptime_s()?,
    })
}

fn perform(job: &Job, machine: &mut Machine, channel: &mut Channel) -> Result<()> {
    clock::set(job.clock_ns)?;
    entropy::feed(&job.entropy)?;
    if let Err(error) = modules::share() {
        machine.errors.push(format!("{error:#}"));
    }
    let payload = unpack::directory(&job.payload, machine.ivshmem.as_ref())?;
    run(job, &payload, channel)
}

fn run(job: &Job, payload: &Path, channel: &mut Channel) -> Result<()> {
    let timeout = Duration::try_from_secs_f64(job.test_timeout_s)
        .map_err(|_| anyhow!("{} is no time limit for a test", job.test_timeout_s))?;
    let runner = Runner { payload, env: &job.env, timeout };
    for test in &job.tests {
        channel.send(Event::TestStarted(test.clone()))?;
        channel.send(Event::TestFinished(runner.run(test)))?;
    }
    channel.send(Event::Tainted { flags: taint::flags() })?;
    if let Some(request) = &job.facts {
        channel.send(Event::Facts(facts::collect(request, &runner)))?;
    }
    Ok(())
}

fn explain(error: &anyhow::Error, errors: &[String]) -> String {
    let mut reason = format!("{error:#}");
    if !errors.is_empty() {
        reason += &format!(" (while the guest came up: {})", errors.join("; "));
    }
    reason
}
