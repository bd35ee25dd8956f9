//! What was measured, as a table and as JSON.

use std::time::Duration;

use comfy_table::Cell;
use serde::Serialize;

use crate::ui::grid::{self, right};

/// The baseline's name.
pub const BASELINE: &str = "baseline";

/// Everything measured on one kernel.
#[derive(Debug)]
pub struct Measured {
    /// The pin's name, or the path.
    pub kernel: String,
    /// `kvm` or `tcg`.
    pub accel: &'static str,
    /// One for each way.
    pub series: Vec<Series>,
}

/// How long one way took, again and again.
#[derive(Debug)]
pub struct Series {
    name: &'static str,
    seconds: Vec<f64>,
}

/// The medians, in seconds.
#[derive(Debug, Serialize)]
struct Json<'a> {
    kernel: &'a str,
    accel: &'a str,
    floor_s: Option<f64>,
    boot_s: Option<f64>,
    snapshot_s: Option<f64>,
}

impl Series {
    /// Nothing measured yet.
    pub fn new(name: &'static str) -> Self {
        Self { name, seconds: Vec::new() }
    }

    /// Takes a time.
    pub fn add(&mut self, time: Duration) {
        self.seconds.push(time.as_secs_f64());
        self.seconds.sort_by(f64::total_cmp);
    }

    /// The time in the middle, or between the two that are.
    fn median(&self) -> Option<f64> {
        let (low, high) = (self.seconds.len().checked_sub(1)? / 2, self.seconds.len() / 2);
        Some((self.seconds[low] + self.seconds[high]) / 2.0)
    }
}

impl Measured {
    fn median(&self, name: &str) -> Option<f64> {
        self.series.iter().find(|series| series.name == name)?.median()
    }

    /// One object on one line.
    pub fn json(&self) -> String {
        let json = Json {
            kernel: &self.kernel,
            accel: self.accel,
            floor_s: self.median(BASELINE),
            boot_s: self.median("boot"),
            snapshot_s: self.median("snapshot"),
        };
        // It has nothing that JSON has not.
        serde_json::to_string(&json).unwrap_or_default()
    }

    /// For a person.
    pub fn text(&self) -> String {
        let mut table = grid::grid(&["way", "median s", "least", "most", "x baseline", "runs"], None);
        let baseline = self.median(BASELINE);
        for series in &self.series {
            let (median, seconds) = (series.median(), &series.seconds);
            let ratio = median.zip(baseline).map(|(median, baseline)| median / baseline);
            let numbers = [median, seconds.first().copied(), seconds.last().copied(), ratio];
            let numbers = numbers.map(|number| number.map_or("-".into(), |number| format!("{number:.2}")));
            let cells = numbers.map(right).into_iter().chain([right(seconds.len())]);
            table.add_row([Cell::new(series.name)].into_iter().chain(cells));
        }
        format!("{} ({})\n{}", self.kernel, self.accel, grid::text(table))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn series(name: &'static str, milliseconds: &[u64]) -> Series {
        let mut series = Series::new(name);
        milliseconds.iter().for_each(|&ms| series.add(Duration::from_millis(ms)));
        series
    }

    fn measured() -> Measured {
        let series = vec![series(BASELINE, &[3000, 2000, 2500]), series("snapshot", &[400, 500, 900, 100])];
        Measured { kernel: "6.12".into(), accel: "tcg", series }
    }

    #[test]
    fn json_has_medians_and_null_for_what_was_not_measured() {
        assert_eq!(
            measured().json(),
            r#"{"kernel":"6.12","accel":"tcg","floor_s":2.5,"boot_s":null,"snapshot_s":0.45}"#
        );
    }

    #[test]
    fn the_table_has_spread_and_ratio() {
        let text = measured().text();
        let row = |name: &str| -> Vec<String> {
            let line = text.lines().find(|line| line.trim().starts_with(name)).unwrap();
            line.split_whitespace().map(str::to_owned).collect()
        };
        assert_eq!(row("baseline"), ["baseline", "2.50", "2.00", "3.00", "1.00", "3"]);
        assert_eq!(row("snapshot"), ["snapshot", "0.45", "0.10", "0.90", "0.18", "4"]);
    }
}
