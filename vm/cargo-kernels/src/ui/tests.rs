//! What a screen shows of a run, on a terminal and in a log.

use indicatif::{InMemoryTerm, ProgressDrawTarget};

use super::Screen;
use super::grid::Looks;
use super::live::Live;
use super::table::render;
use crate::event::RunEvent;
use crate::report::sample::{self, assert_golden};
use crate::verdict::KernelReport;

/// A run of two kernels, with what a guest may try in every place where its words get in.
fn a_run() -> Vec<(usize, RunEvent)> {
    let reason = "`\x1b[2Jtwo_tracers`\r\n6.1: pass".into();
    let failing = KernelReport { reason, ..sample::failing("6.1") };
    vec![
        (1, RunEvent::Fetching { done: 0, total: Some(64 << 20) }),
        (1, RunEvent::Fetching { done: 1 << 20, total: Some(64 << 20) }),
        (0, RunEvent::Finished(Box::new(sample::unavailable("5.4")))),
        (1, RunEvent::Note("KVM does not work here (no sign of life in 5 s): using TCG".into())),
        (1, RunEvent::Preparing),
        (1, RunEvent::Booting),
        (1, RunEvent::Testing { done: 0, total: 8, current: None }),
        (1, RunEvent::Testing { done: 3, total: 8, current: Some("two_\x1b[31mtracers\n6.1: pass".into()) }),
        (1, RunEvent::Finished(Box::new(failing))),
    ]
}

#[test]
fn without_a_terminal_each_phase_is_one_plain_line() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let screen = Screen::plain(&["5.4".into(), "6.1".into()], Box::new(file.reopen().unwrap()));
    for (index, event) in a_run() {
        screen.event(index, event);
    }
    assert_golden(&std::fs::read_to_string(file).unwrap(), "ui/testdata/plain.txt");
}

#[test]
fn live_line_per_kernel_changes_in_place() {
    let term = InMemoryTerm::new(10, 80);
    let live = Live::new(&["5.4".into(), "6.1".into()], ProgressDrawTarget::term_like(Box::new(term.clone())));
    assert_eq!(term.contents(), "  5.4 waiting\n  6.1 waiting");

    let mut events = a_run();
    let last = events.pop().unwrap();
    for (index, event) in events {
        live.event(index, event);
    }
    let text = term.contents();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "6.1: KVM does not work here (no sign of life in 5 s): using TCG");
    assert!(lines[1].starts_with("– 5.4 unavailable in 0.3 s: none of its sources"), "{text}");
    assert!(lines[2].ends_with(" s testing 3/8 two_tracers 6.1: pass"), "{text}");
    assert_eq!(lines.len(), 3, "{text}");

    live.event(last.0, last.1);
    let text = term.contents();
    assert!(text.ends_with("✗ 6.1 fail 2/4 in 7.9 s: `two_tracers` 6.1: pass"), "{text}");

    drop(live);
    assert_eq!(term.contents(), "6.1: KVM does not work here (no sign of life in 5 s): using TCG");
}

#[test]
fn final_table_at_80_columns_colours_only_verdicts() {
    let logs = tempfile::tempdir().unwrap();
    let [plain, coloured] = [false, true].map(|colour| {
        let text = render(&sample::run(logs.path()), true, Looks { width: Some(80), colour });
        text.replace(&logs.path().display().to_string(), "LOGS")
    });
    assert_golden(&plain, "ui/testdata/table.txt");
    assert!(coloured.contains("\x1b[38;5;2mpass"), "{coloured}");
    assert!(coloured.contains("\x1b[38;5;1mfail"), "{coloured}");
    assert_eq!(console::strip_ansi_codes(&coloured), plain);
}

#[test]
fn narrow_terminal_wraps_and_quotes_guest_lines() {
    let logs = tempfile::tempdir().unwrap();
    let mut run = sample::hostile(logs.path());
    run.kernels[0].console_log = None;
    let forged = "8 passed, 0 failed";
    run.kernels[0].tests[0].output = format!("{}{}{forged}", "<script>\n".repeat(12), " ".repeat(40 - 4));
    let text = render(&run, false, Looks { width: Some(40), colour: false });
    assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
    assert!(text.contains("  │ … 1 line before\n  │ <script>\n"), "{text}");
    assert!(text.lines().all(|line| console::measure_text_width(line) <= 40), "{text}");
    assert!(!text.lines().any(|line| line.starts_with(forged)), "{text}");
}
