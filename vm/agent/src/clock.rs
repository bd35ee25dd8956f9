//! The guest's wall clock, which a saved state stopped at some time in the past.

use anyhow::{Context, Result};
use nix::sys::time::{TimeSpec, TimeValLike};
use nix::time::{ClockId, clock_gettime, clock_settime};

/// Sets the wall clock, in nanoseconds since the Unix epoch.
pub fn set(since_epoch_ns: u64) -> Result<()> {
    let ns = i64::try_from(since_epoch_ns).context("the job's time is out of range")?;
    clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::nanoseconds(ns)).context("cannot set the clock")
}

/// Seconds since the kernel started.
pub fn uptime_s() -> Result<f64> {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).context("cannot read the boot clock")?;
    Ok(now.num_nanoseconds() as f64 / 1e9)
}
