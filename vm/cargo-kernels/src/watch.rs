//! `cargo xtask vmtest --watch`: another round whenever the program's sources change.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result};
use cargo_metadata::MetadataCommand;
use notify::{EventKind, RecursiveMode, Watcher};

use crate::dirs::Dirs;
use crate::exit;
use vm_guest::interrupt::Interrupt;

/// What is watched of each package.
const WATCHED: [&str; 5] = ["bpf", "src", "tests", "build.rs", "Cargo.toml"];

/// Editors write a file in several steps; a round begins when this long nothing more has come.
const QUIET: Duration = Duration::from_millis(50);

/// Runs rounds until Ctrl-C, which is the regular end of it.
pub fn run(dirs: &Dirs, interrupt: &Interrupt, round: impl Fn() -> Result<()>) -> Result<u8> {
    let (changed, woken) = mpsc::channel();
    let interrupted = changed.clone();
    let _subscription = interrupt.subscribe(move || {
        let _ = interrupted.send(());
    });
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading is no change; what could not be told may be one.
        if !event.is_ok_and(|event| matches!(event.kind, EventKind::Access(_))) {
            let _ = changed.send(());
        }
    })
    .context("cannot watch files")?;
    for path in watched(&dirs.project)? {
        let watched = watcher.watch(&path, RecursiveMode::Recursive);
        watched.with_context(|| format!("cannot watch {}", path.display()))?;
    }
    loop {
        // A program that does not compile is what watching is for: it is shown, and waited out.
        if let Err(error) = round() {
            eprintln!("error: {error:#}");
        }
        if interrupt.signal().is_none() {
            println!("\nwaiting for a change of {}; Ctrl-C ends", WATCHED.join(", "));
            let _ = woken.recv();
        }
        while interrupt.signal().is_none() && woken.recv_timeout(QUIET).is_ok() {}
        if interrupt.signal().is_some() {
            return Ok(exit::OK);
        }
        println!();
    }
}

/// What there is of [`WATCHED`] in the packages of the workspace, and in those beside it that they depend on by path.
fn watched(project: &Path) -> Result<Vec<PathBuf>> {
    let mut metadata = MetadataCommand::new();
    metadata.current_dir(project).no_deps().other_options(["--offline".to_owned()]);
    let packages = metadata.exec().context("cargo cannot read this project")?.packages;
    let own = packages.iter().filter_map(|package| package.manifest_path.parent());
    let others = packages.iter().flat_map(|package| &package.dependencies).filter_map(|other| other.path.as_deref());
    let directories: BTreeSet<_> = own.chain(others).map(|path| path.as_std_path()).chain([project]).collect();
    let all = directories.iter().flat_map(|directory| WATCHED.map(|name| directory.join(name)));
    Ok(all.filter(|path| path.exists()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workspace_and_path_dependencies_are_watched() {
        let dir = tempfile::tempdir().unwrap();
        for (name, manifest) in [
            ("project", "[workspace]\nmembers = ['member']\n"),
            ("project/member", "[package]\nname = 'member'\n[dependencies]\nother = { path = '../../other' }\n"),
            ("other", "[package]\nname = 'other'\n"),
        ] {
            std::fs::create_dir_all(dir.path().join(name).join("src")).unwrap();
            std::fs::write(dir.path().join(name).join("src/lib.rs"), "").unwrap();
            std::fs::write(dir.path().join(name).join("Cargo.toml"), manifest).unwrap();
        }
        let watched = watched(&dir.path().join("project")).unwrap();
        for name in ["project/Cargo.toml", "project/member/src", "other/src", "other/Cargo.toml"] {
            assert!(watched.contains(&dir.path().join(name)), "{name}: {watched:?}");
        }
    }
}
