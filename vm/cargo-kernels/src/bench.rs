//! `cargo xtask bench`: the time to a verdict, each way of getting there beside a bare QEMU boot.
//!
//! The ways take turns, so that whatever else the machine does falls on all of them. Each does the
//! same job, the first test alone.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::dirs::Dirs;
use crate::engine::{Engine, Options};
use crate::kernels::{self, Target};
use crate::launch::Host;
use crate::metadata::Metadata;
use crate::payload::{Chosen, Payload};
use crate::ui::{self, grid};
use crate::verdict::Standing;
use crate::{backends, cross, exit, flags, text};
use vm_guest::Backend;
use vm_guest::bare::Bare;
use vm_guest::interrupt::Interrupt;

/// Runs the command, whose exit code says nothing of how long anything took.
pub fn run(dirs: &Dirs, flags: &flags::Bench) -> Result<u8> {
    let targets = kernels::select(dirs, &flags.select.kernels, &flags.select.of.arches)?;
    let interrupt = Interrupt::install()?;
    let metadata = Metadata::load(dirs)?;
    let host = Host::open(dirs, &interrupt, Instant::now())?;
    let options = Options { allow_kernel_warnings: true, vm: flags.select.vm.options(), ..Options::default() };
    let mut code = exit::OK;
    for (arch, targets) in kernels::by_arch(targets) {
        let bare = Bare { qemu: cross::qemu(dirs, arch)?, programs: cross::programs(dirs, arch)? };
        let mut payload = Payload::build(dirs, arch, &metadata, &Chosen::default())?;
        let [boot, restore] = [false, true].map(|snapshot| backends::open(dirs, arch, snapshot, &interrupt));
        let (boot, restore) = (boot?, restore?);
        // As the first kernel's guest lists them.
        let target = targets.first().context("no kernel was named")?;
        let report = Engine::new(&host, &*restore, &metadata, &payload, &options).list(target, &|_| {});
        let first = report.missing.into_iter().next();
        let first = first.with_context(|| format!("{} lists no test: {}", target.name(), report.reason))?;
        payload.only = Some(vec![first]);
        let engines = [&bare as &dyn Backend, &*boot, &*restore]
            .map(|backend| (backend.name(), Engine::new(&host, backend, &metadata, &payload, &options)));
        for target in &targets {
            match measure(&engines, target, flags.rounds) {
                Ok(measured) if flags.json => ui::print(&(measured.json() + "\n"))?,
                Ok(measured) => ui::print(&(measured.text() + "\n"))?,
                Err(error) => {
                    eprintln!("{}: {}", target.name(), text::block(&format!("{error:#}")));
                    code = exit::NOT_RUN;
                }
            }
            if let Some(signal) = interrupt.signal() {
                return Ok(exit::interrupted(signal));
            }
        }
    }
    Ok(code)
}

/// Every way on one kernel, in turns; from the kernel's name to the verdict, everything built.
fn measure(engines: &[(&'static str, Engine<'_>)], target: &Target, rounds: u16) -> Result<Measured> {
    let mut ways: Vec<_> = engines.iter().map(|(name, _)| (*name, Vec::new())).collect();
    let mut accel = None;
    // The round before the first fills caches, and saves the guest that is restored later.
    for round in 0..=rounds {
        match round {
            0 => eprintln!("{}: warming up", target.name()),
            _ => eprintln!("{}: round {round} of {rounds}", target.name()),
        }
        for ((name, engine), (_, seconds)) in engines.iter().zip(&mut ways) {
            let begun = Instant::now();
            let report = engine.run(target, &|_| {});
            let time = begun.elapsed();
            if report.standing() != Standing::Passed {
                bail!("{name}: {}: {}", report.verdict, report.reason);
            }
            seconds.extend((round > 0).then_some(time.as_secs_f64()));
            accel = report.accel;
        }
    }
    ways.iter_mut().for_each(|(_, seconds)| seconds.sort_by(f64::total_cmp));
    Ok(Measured { kernel: target.name().to_owned(), accel: accel.unwrap_or_default(), ways })
}

struct Measured {
    kernel: String,
    accel: String,
    /// How long each way took, in seconds, sorted.
    ways: Vec<(&'static str, Vec<f64>)>,
}

impl Measured {
    /// The time in the middle, or between the two that are.
    fn median(&self, way: &str) -> Option<f64> {
        let (_, seconds) = self.ways.iter().find(|(name, _)| *name == way)?;
        let (low, high) = (seconds.len().checked_sub(1)? / 2, seconds.len() / 2);
        Some((seconds[low] + seconds[high]) / 2.0)
    }

    fn json(&self) -> String {
        let [baseline_s, boot_s, snapshot_s] = ["baseline", "boot", "snapshot"].map(|way| self.median(way));
        let (kernel, accel) = (&self.kernel, &self.accel);
        json!({ "kernel": kernel, "accel": accel, "baseline_s": baseline_s, "boot_s": boot_s, "snapshot_s": snapshot_s })
            .to_string()
    }

    fn text(&self) -> String {
        let mut table =
            grid::grid(&["way", "median s", "least", "most", "x baseline", "runs"], 1..6, grid::Looks::default());
        for (way, seconds) in &self.ways {
            let median = self.median(way);
            let ratio = median.zip(self.median("baseline")).map(|(median, baseline)| median / baseline);
            let numbers = [median, seconds.first().copied(), seconds.last().copied(), ratio];
            let numbers = numbers.map(|number| number.map_or("-".into(), |number| format!("{number:.2}")));
            table.add_row([(*way).into()].into_iter().chain(numbers).chain([seconds.len().to_string()]));
        }
        format!("{} ({})\n{}", self.kernel, self.accel, grid::text(table))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_has_spread_and_ratio_json_null_if_not_measured() {
        let ways = vec![("baseline", vec![2.0, 2.5, 3.0]), ("snapshot", vec![0.1, 0.4, 0.5, 0.9])];
        let measured = Measured { kernel: "6.12".into(), accel: "tcg".into(), ways };
        let expected =
            json!({ "kernel": "6.12", "accel": "tcg", "baseline_s": 2.5, "boot_s": null, "snapshot_s": 0.45 });
        assert_eq!(serde_json::from_str::<serde_json::Value>(&measured.json()).unwrap(), expected);
        let text = measured.text();
        let rows: Vec<Vec<&str>> = text.lines().skip(3).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0], ["baseline", "2.50", "2.00", "3.00", "1.00", "3"]);
        assert_eq!(rows[1], ["snapshot", "0.45", "0.10", "0.90", "0.18", "4"]);
    }
}
