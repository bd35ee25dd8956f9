//! The manual page, `man/helloworld.1`, is made from the command line's definition. This test fails when it is out of
//! date; run with `UPDATE_MAN=1` it writes the page.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use clap::CommandFactory as _;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use helloworld::cli::Cli;
use helloworld::failure::Kind;
use helloworld::tracefs;

#[test]
fn the_manual_page_is_up_to_date() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/helloworld.1");
    let page = render();
    if std::env::var_os("UPDATE_MAN").is_some() {
        std::fs::write(&file, &page).unwrap();
    }
    let committed = std::fs::read_to_string(&file).unwrap();
    assert_eq!(committed, page, "run: UPDATE_MAN=1 cargo test --test man");
}

fn render() -> String {
    let man = Man::new(Cli::command()).manual("User Commands").source("helloworld");
    let mut page = Vec::new();
    man.render_title(&mut page).unwrap();
    man.render_name_section(&mut page).unwrap();
    man.render_synopsis_section(&mut page).unwrap();
    man.render_description_section(&mut page).unwrap();
    man.render_options_section(&mut page).unwrap();
    sections().to_writer(&mut page).unwrap();
    String::from_utf8(page).unwrap()
}

/// What the command line's definition has as plain text, or not at all.
fn sections() -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["EXIT STATUS"]);
    item(&mut roff, "0", "stopped as asked, or stdout was closed");
    for kind in Kind::ALL {
        item(&mut roff, &kind.exit_code().to_string(), kind.description());
    }
    roff.control("SH", ["FILES"]);
    for place in tracefs::PLACES {
        item(
            &mut roff,
            &format!("{place}/trace_pipe"),
            "where the lines appear, if tracefs is mounted there",
        );
    }
    roff.control("SH", ["EXAMPLES"]);
    item(&mut roff, "sudo helloworld", "attach the program, and name the file to read");
    item(&mut roff, "sudo helloworld --follow --duration 10", "ten seconds of lines");
    roff.control("SH", ["SEE ALSO"]);
    roff.text([
        bold("bpf"),
        roman("(2), "),
        bold("bpf-helpers"),
        roman("(7), "),
        bold("capabilities"),
        roman("(7)"),
    ]);
    roff
}

fn item(roff: &mut Roff, term: &str, text: &str) {
    roff.control("TP", []);
    roff.text([bold(term)]);
    roff.text([roman(text)]);
}
