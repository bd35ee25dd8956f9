//! `cargo xtask vmtest --watch`: another round whenever the program's sources change.

use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result};
use notify::{EventKind, RecursiveMode, Watcher};

use super::Session;
use crate::exit;

/// What is watched, relative to the workspace.
const WATCHED: &[&str] = &["bpf", "src", "tests", "build.rs", "Cargo.toml"];

/// Editors write a file in several steps; a round begins when this long nothing more has come.
const QUIET: Duration = Duration::from_millis(50);

/// Runs rounds until Ctrl-C, which is the regular end of it.
pub fn run(session: &Session<'_>) -> Result<u8> {
    let (changed, woken) = mpsc::channel();
    let interrupted = changed.clone();
    let _subscription = session.interrupt.subscribe(move || {
        let _ = interrupted.send(());
    });
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading is no change; what could not be told may be one.
        if !event.is_ok_and(|event| matches!(event.kind, EventKind::Access(_))) {
            let _ = changed.send(());
        }
    })
    .context("cannot watch files")?;
    for path in WATCHED.iter().map(|name| session.dirs.project.join(name)).filter(|path| path.exists()) {
        let watched = watcher.watch(&path, RecursiveMode::Recursive);
        watched.with_context(|| format!("cannot watch {}", path.display()))?;
    }
    loop {
        // A program that does not compile is what watching is for: it is shown, and waited out.
        if let Err(error) = session.round() {
            eprintln!("error: {error:#}");
        }
        if session.interrupt.signal().is_none() {
            println!("\nwaiting for a change of {}; Ctrl-C ends", WATCHED.join(", "));
            let _ = woken.recv();
        }
        while session.interrupt.signal().is_none() && woken.recv_timeout(QUIET).is_ok() {}
        if session.interrupt.signal().is_some() {
            return Ok(exit::OK);
        }
        println!();
    }
}
