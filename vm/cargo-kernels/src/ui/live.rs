//! Progress on a terminal: one line a kernel that changes in place, gone when the table comes.

use std::fmt::Write;
use std::sync::Once;
use std::time::Duration;

use console::{Alignment, pad_str, style};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::event::RunEvent;
use crate::report::words;
use crate::text;
use crate::verdict::Standing;
use vm_kernels::Progress;

const WAITING: &str = "  {prefix:.bold} {wide_msg:.dim}";
const RUNNING: &str = "{spinner:.cyan} {prefix:.bold} {elapsed_s:>7} {wide_msg}";
const FINISHED: &str = "{prefix} {wide_msg}";

/// How often a live line moves, so that one sees that it is alive.
const TICK: Duration = Duration::from_millis(120);
/// The widest a kernel's name may be; of a longer one, a path, the end is shown.
const NAME_WIDTH: usize = 24;

pub struct Live {
    lines: MultiProgress,
    /// Of each kernel its line, and whether that runs.
    bars: Vec<(ProgressBar, Once)>,
}

impl Live {
    pub fn new(names: &[String], target: ProgressDrawTarget) -> Self {
        let lines = MultiProgress::with_draw_target(target);
        let names: Vec<String> = names.iter().map(|name| text::end(&text::line(name), NAME_WIDTH)).collect();
        let width = names.iter().map(|name| console::measure_text_width(name)).max().unwrap_or(0);
        let bar = |name: &String| {
            let prefix = pad_str(name, width, Alignment::Left, None).into_owned();
            let bar = ProgressBar::new_spinner().with_style(line_style(WAITING)).with_prefix(prefix);
            let bar = lines.add(bar.with_message("waiting"));
            bar.tick();
            (bar, Once::new())
        };
        let bars = names.iter().map(bar).collect();
        Self { lines, bars }
    }

    pub fn event(&self, index: usize, event: RunEvent) {
        let (bar, running) = &self.bars[index];
        match &event {
            RunEvent::Note(_) => {
                // An error here is a terminal that went away; the run goes on without it.
                let _ = self.lines.println(format!("{}: {event}", bar.prefix().trim_end()));
            }
            RunEvent::Finished(report) => {
                let mark = style(words::mark(report));
                let mark = match report.standing() {
                    Standing::Passed => mark.green(),
                    Standing::NotRun if report.tolerated => mark.yellow(),
                    _ => mark.red(),
                };
                bar.disable_steady_tick();
                bar.set_style(line_style(FINISHED));
                bar.set_prefix(format!("{mark} {}", style(bar.prefix()).bold()));
                bar.finish_with_message(event.to_string());
            }
            _ => {
                running.call_once(|| {
                    bar.reset_elapsed();
                    bar.set_style(line_style(RUNNING));
                    bar.enable_steady_tick(TICK);
                });
                bar.set_message(event.to_string());
            }
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // Not MultiProgress::clear: a line that is dropped afterwards would draw all of them again.
        self.bars.iter().for_each(|(bar, _)| bar.finish_and_clear());
    }
}

/// How the getting of one kernel goes, on standard error: a live line on a terminal, elsewhere each note is a line.
pub struct Line(ProgressBar);

impl Line {
    /// For the kernel of this name, until it is dropped.
    pub fn new(name: &str) -> Self {
        let bar = ProgressBar::new_spinner().with_prefix(name.to_owned()).with_style(line_style(RUNNING));
        bar.enable_steady_tick(TICK);
        Self(bar)
    }
}

impl Progress for Line {
    fn bytes(&self, done: u64, total: Option<u64>) {
        self.0.set_message(RunEvent::Fetching { done, total }.to_string());
    }

    fn note(&self, text: &str) {
        if self.0.is_hidden() {
            eprintln!("{}: {text}", self.0.prefix());
        }
        self.0.set_message(text.to_owned());
    }

    fn working_on(&self, step: &str) {
        self.0.set_message(step.to_owned());
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A style with the key `elapsed_s`, for one of the templates above.
fn line_style(template: &'static str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
        .tick_chars("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏ ")
        .with_key("elapsed_s", |state: &ProgressState, out: &mut dyn Write| {
            let _ = write!(out, "{:.1} s", state.elapsed().as_secs_f64());
        })
}
