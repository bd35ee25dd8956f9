//! report.html as a reader sees it, in headless Chromium: on a desk and on a phone, by day and by night.
//!
//! The page is put into two frames, as wide as a desktop's window and as a phone; testdata/measure.js looks at both.
//! `cargo xtask test` runs these where there is a Chromium, and names them where there is none.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use super::{html, sample};
use crate::verdict::RunReport;

/// A desktop's window and a phone, in CSS pixels.
const WIDTHS: [u32; 2] = [1280, 390];
/// What WCAG 2 asks of text.
const LEAST_CONTRAST: f64 = 4.5;

#[test]
#[ignore = "needs chromium: apt-get install chromium, then cargo test -p cargo-kernels in_chromium -- --ignored"]
fn report_renders_in_chromium_wide_and_narrow() {
    let logs = tempfile::tempdir().unwrap();
    for dark in [false, true] {
        for (seen, width) in look(&sample::run(logs.path()), dark).iter().zip(WIDTHS) {
            let number = |key: &str| seen[key].as_f64().unwrap();
            assert!(number("scroll_width") <= width.into(), "the page is wider than the screen: {seen}");
            assert_eq!(number("page_luminance") < 0.1, dark, "{seen}");
            assert!(number("least_contrast") >= LEAST_CONTRAST, "{seen}");
            assert_eq!((number("cells_without_a_mark"), number("bars_outside")), (0.0, 0.0), "{seen}");
            assert!(number("bars") > 0.0, "{seen}");
            // A click on a failed test's mark shows its output.
            assert_eq!((&seen["output_visible_before"], &seen["output_visible_after"]), (&false.into(), &true.into()));
        }
    }
}

#[test]
#[ignore = "needs chromium: apt-get install chromium, then cargo test -p cargo-kernels in_chromium -- --ignored"]
fn nothing_a_guest_wrote_runs_in_chromium() {
    let logs = tempfile::tempdir().unwrap();
    for (seen, width) in look(&sample::hostile(logs.path()), false).iter().zip(WIDTHS) {
        assert_eq!(seen["scripts_and_resources"], 0, "{seen}");
        assert!(seen["text"].as_str().unwrap().contains(sample::MARKUP), "{seen}");
        assert!(seen["scroll_width"].as_u64().unwrap() <= width.into(), "{seen}");
    }
}

/// What is seen of a run's page at each of [`WIDTHS`].
fn look(run: &RunReport, dark: bool) -> Vec<Value> {
    let dir = tempfile::tempdir().unwrap();
    let (page, frames) = (dir.path().join("report.html"), dir.path().join("frames.html"));
    fs::write(&page, html::render(run).unwrap()).unwrap();
    let frame = |width| format!("<iframe width={width} height=800 src=\"file://{}\"></iframe>", page.display());
    let style = "<style>:root { color-scheme: light dark } body { margin: 0 } iframe { border: 0 }</style>";
    let (iframes, script) = (WIDTHS.map(frame).concat(), include_str!("testdata/measure.js"));
    let outer = format!("<!doctype html><meta charset=\"utf-8\">{style}<body>{iframes}<script>{script}</script>");
    fs::write(&frames, outer).unwrap();

    let names = ["chromium", "chromium-browser", "google-chrome"];
    let program = names.into_iter().find_map(crate::tools::program_on_path);
    let output = assert_cmd::Command::new(program.expect("Chromium is on PATH: apt-get install chromium"))
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .arg(format!("--user-data-dir={}", dir.path().join("profile").display()))
        .arg(format!("--blink-settings=preferredColorScheme={}", if dark { 0 } else { 1 }))
        // So that the outer page may look into its frames; the budget gives measure.js's promises time to be kept.
        .args(["--allow-file-access-from-files", "--virtual-time-budget=10000", "--dump-dom"])
        .arg(format!("file://{}", frames.display()))
        .timeout(Duration::from_secs(120))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let dom = String::from_utf8(output.stdout).unwrap();
    let result = dom.split("<pre id=\"result\">").nth(1).and_then(|rest| rest.split('<').next());
    let encoded = result.unwrap_or_else(|| panic!("measure.js did not get to its end:\n{dom}"));
    let (json, _) = url::form_urlencoded::parse(encoded.as_bytes()).next().unwrap();
    serde_json::from_str(&json).unwrap()
}
