//! Tables that repeat what the code says.

use crate::exit;
use crate::markdown::{Page, workspace};
use crate::verdict::{KernelReport, Verdict};

/// All of them; a new one does not compile until it is here, and then it must be documented.
fn verdicts() -> [Verdict; 10] {
    use Verdict::*;
    let all = [
        Pass,
        Fail,
        Panic,
        KernelComplaint,
        Hang,
        NoBoot,
        WrongKernel,
        Unsupported,
        Unavailable,
        HostError,
    ];
    for verdict in all {
        match verdict {
            Pass | Fail | Panic | KernelComplaint | Hang | NoBoot | WrongKernel | Unsupported
            | Unavailable | HostError => {}
        }
    }
    all
}

/// The exit code of a run in which this is the verdict on the only kernel.
fn exit_code(verdict: Verdict, booted: bool) -> u8 {
    KernelReport { verdict, booted, ..KernelReport::unknown("6.12", "cold") }.exit_code()
}

#[test]
fn every_verdict_is_explained_with_its_exit_code() {
    let page = Page::read("docs/troubleshooting.md");
    let rows = page.table("## Verdicts");
    let expected: Vec<[String; 2]> = verdicts()
        .iter()
        .map(|&verdict| {
            let (code, before) = (exit_code(verdict, true), exit_code(verdict, false));
            let word = verdict.word();
            let more = match verdict {
                // A guest that hangs before the agent is up is `no-boot`, so only a panic can be either.
                Verdict::Panic => format!(", or {before} before the tests began"),
                _ => String::new(),
            };
            [format!("[`{word}`](#{word})"), format!("{code}{more}")]
        })
        .collect();
    let documented: Vec<&[String]> = rows.iter().map(|row| &row[..2]).collect();
    assert_eq!(documented, expected);
    let anchors = page.anchors();
    for verdict in verdicts() {
        assert!(anchors.iter().any(|anchor| anchor == verdict.word()), "{}", verdict.word());
    }
}

#[test]
fn every_list_of_verdicts_is_whole() {
    for name in ["README.md", "docs/report.md"] {
        let page = Page::read(name);
        let code = page.code();
        for verdict in verdicts() {
            let word = verdict.word();
            assert!(code.iter().any(|code| code.text == word), "{name} does not name {word}");
        }
    }
}

#[test]
fn exit_codes_are_those_of_the_program() {
    let codes = [exit::OK, exit::FAILED, exit::USAGE, exit::NOT_RUN].map(|code| code.to_string());
    let tables =
        [("README.md", "## Verdicts and exit codes"), ("docs/troubleshooting.md", "## Exit codes")];
    for (name, heading) in tables {
        let rows = Page::read(name).table(heading);
        let documented: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
        assert_eq!(documented, codes, "{name}");
    }
}

#[test]
fn the_kernels_are_the_pins() {
    let text = std::fs::read_to_string(workspace().join("vm/kernels/kernels.toml")).unwrap();
    let list: toml::Table = text.parse().unwrap();
    let is_extra = |pin: &toml::Value| pin.get("extra").is_some();
    let pins: Vec<_> =
        list["kernel"].as_array().unwrap().iter().filter(|pin| !is_extra(pin)).collect();
    let names: Vec<&str> = pins.iter().map(|pin| pin["name"].as_str().unwrap()).collect();
    for (page, heading) in [("README.md", "## Kernels"), ("docs/kernels.md", "## Why each")] {
        let rows = Page::read(page).table(heading);
        let documented: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
        assert_eq!(documented, names, "{page}");
    }
    for (row, pin) in Page::read("README.md").table("## Kernels").iter().zip(pins) {
        assert_eq!(row[1], pin["release"].as_str().unwrap(), "{}", row[0]);
    }
}
