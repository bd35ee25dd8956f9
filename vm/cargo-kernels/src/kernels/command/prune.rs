//! `cargo xtask kernels prune`: removes from the cache what no pin names, and saved guests.

use std::collections::HashSet;
use std::path::Path;

use anyhow::Result;

use super::show;
use crate::dirs::Dirs;
use crate::exit;
use crate::kernels::cache::{self, Entry, Kept};
use crate::kernels::pins::Pin;
use crate::kernels::{self, Store};
use vm_guest::module_share;
use vm_guest::snapshots::{Listed, Snapshots};

/// What became of one thing in the cache.
enum Outcome {
    Removed,
    WouldBeRemoved,
    InUse,
    Failed(anyhow::Error),
}

/// A line of the table: the path, the bytes on disk, and what became of it.
type Line = (String, u64, Outcome);

/// Runs the command.
pub fn run(dirs: &Dirs, dry_run: bool) -> Result<u8> {
    let mut lines = kernels(dirs, dry_run)?;
    lines.extend(saved_guests(dirs, dry_run)?);
    lines.extend(module_lists(dirs, dry_run)?);
    if lines.is_empty() {
        show::print("Nothing to remove: every kernel in the cache is pinned.\n");
        return Ok(exit::OK);
    }
    let gone = |outcome: &Outcome| matches!(outcome, Outcome::Removed | Outcome::WouldBeRemoved);
    let freed = lines.iter().filter(|(_, _, outcome)| gone(outcome)).map(|(_, size, _)| size).sum();
    let failed = lines.iter().any(|(_, _, outcome)| matches!(outcome, Outcome::Failed(_)));
    let rows =
        lines.into_iter().map(|(path, size, outcome)| vec![path, show::size(size), say(outcome)]);
    show::print(&show::table(&["path", "size", ""], &[1], rows.collect()));
    show::print(&format!(
        "{} {}\n",
        show::size(freed),
        if dry_run { "would be freed" } else { "freed" }
    ));
    Ok(if failed { exit::NOT_RUN } else { exit::OK })
}

fn say(outcome: Outcome) -> String {
    match outcome {
        Outcome::Removed => "removed".to_owned(),
        Outcome::WouldBeRemoved => "would be removed".to_owned(),
        Outcome::InUse => "in use, kept".to_owned(),
        Outcome::Failed(error) => format!("cannot be removed: {error:#}"),
    }
}

/// Kernels, downloads and configurations.
fn kernels(dirs: &Dirs, dry_run: bool) -> Result<Vec<Line>> {
    let line = |stale: cache::Stale| {
        let size = cache::size_of(&stale.path);
        let outcome = match cache::discard(&stale, dry_run) {
            Ok(()) if dry_run => Outcome::WouldBeRemoved,
            Ok(()) => Outcome::Removed,
            Err(Kept::InUse) => Outcome::InUse,
            Err(Kept::Failed(error)) => Outcome::Failed(error),
        };
        (shown(&stale.path), size, outcome)
    };
    let store = kernels::store(dirs)?;
    let needed = needed(&store, &kernels::pinned(dirs)?);
    Ok(cache::stale(&store.cache, &needed)?.into_iter().map(line).collect())
}

/// Snapshot guests of the warm backend; the next warm run makes what it needs anew.
fn saved_guests(dirs: &Dirs, dry_run: bool) -> Result<Vec<Line>> {
    let snapshots = Snapshots::below(&dirs.cache);
    let line = |listed: Listed| {
        let pruned = if dry_run { None } else { Some(snapshots.prune(&listed)) };
        let outcome = match pruned {
            None => Outcome::WouldBeRemoved,
            Some(Ok(true)) => Outcome::Removed,
            Some(Ok(false)) => Outcome::InUse,
            Some(Err(error)) => Outcome::Failed(error),
        };
        let kernel = listed.kernel.as_deref().unwrap_or("a kernel unknown");
        (format!("{} (saved guest of {kernel})", shown(&listed.dir)), listed.bytes, outcome)
    };
    Ok(snapshots.list().into_iter().map(line).collect())
}

/// Lists of kernels' modules; the next run of a kernel makes its own anew.
fn module_lists(dirs: &Dirs, dry_run: bool) -> Result<Option<Line>> {
    let kept = module_share::kept(&dirs.cache);
    if !kept.exists() {
        return Ok(None);
    }
    let size = cache::size_of(&kept);
    let outcome = match dry_run {
        true => Outcome::WouldBeRemoved,
        false => std::fs::remove_dir_all(&kept)
            .map_or_else(|error| Outcome::Failed(error.into()), |()| Outcome::Removed),
    };
    Ok(Some((format!("{} (lists of modules)", shown(&kept)), size, outcome)))
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// The names of all entries that a pin may use.
fn needed(store: &Store, pins: &[Pin]) -> HashSet<String> {
    let mut names = HashSet::new();
    for pin in pins {
        for source in &pin.sources {
            names.insert(Entry::of(&store.cache, pin, source).name().to_owned());
        }
    }
    names
}
