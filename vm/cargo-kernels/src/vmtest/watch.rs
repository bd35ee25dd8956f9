//! `cargo xtask vmtest --watch`: another round whenever the program's sources change.

use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use anyhow::{Context, Result};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::Session;
use crate::exit;

/// What is watched, relative to the workspace.
const WATCHED: &[&str] = &["bpf", "src", "tests", "build.rs", "Cargo.toml"];

/// Editors write a file in several steps; a round begins when this long nothing more has come.
const QUIET: Duration = Duration::from_millis(50);

enum Woken {
    Changed,
    Interrupted,
}

/// Runs rounds until Ctrl-C, which is the regular end of it.
pub fn run(session: &Session<'_>) -> Result<u8> {
    let (sender, woken) = mpsc::channel();
    let interrupted = sender.clone();
    let _subscription = session.interrupt.subscribe(move || drop(interrupted.send(Woken::Interrupted)));
    let _watcher = watch(&session.dirs.project, move || drop(sender.send(Woken::Changed)))?;
    loop {
        // A program that does not compile is what watching is for: it is shown, and waited out.
        if let Err(error) = session.round() {
            eprintln!("error: {error:#}");
        }
        if session.interrupt.signal().is_none() {
            println!("\nwaiting for a change of {}; Ctrl-C ends", WATCHED.join(", "));
        }
        if !wait(&woken) {
            return Ok(exit::OK);
        }
        println!();
    }
}

/// Whether there is something to run for.
fn wait(woken: &Receiver<Woken>) -> bool {
    let mut next = woken.recv().ok();
    while let Some(Woken::Changed) = next {
        match woken.recv_timeout(QUIET) {
            Ok(more) => next = Some(more),
            Err(_) => return true,
        }
    }
    false
}

fn watch(project: &Path, mut changed: impl FnMut() + Send + 'static) -> Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading is no change; what could not be told may be one.
        if !event.is_ok_and(|event| matches!(event.kind, EventKind::Access(_))) {
            changed();
        }
    })
    .context("cannot watch files")?;
    for name in WATCHED {
        let path = project.join(name);
        if path.exists() {
            watcher
                .watch(&path, RecursiveMode::Recursive)
                .with_context(|| format!("cannot watch {}", path.display()))?;
        }
    }
    Ok(watcher)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_in_a_row_are_one_round_and_ctrl_c_outweighs_them() {
        let (sender, woken) = mpsc::channel();
        for _ in 0..3 {
            let _ = sender.send(Woken::Changed);
        }
        assert!(wait(&woken));
        let _ = sender.send(Woken::Changed);
        let _ = sender.send(Woken::Interrupted);
        assert!(!wait(&woken));
    }
}
