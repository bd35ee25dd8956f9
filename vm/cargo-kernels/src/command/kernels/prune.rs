//! `cargo xtask kernels prune`: removes from the cache what no pin names, and snapshots.

use std::path::PathBuf;

use anyhow::Result;
use indicatif::BinaryBytes;

use crate::dirs::Dirs;
use crate::kernels::cache::{self, Entry};
use crate::kernels::pins::Pin;
use crate::ui::grid::{self, Looks, grid};
use crate::{cross, exit, kernels, ui};
use vm_guest::module_share;
use vm_guest::snapshots::{Listed, Snapshots};
use vm_kernels::lock::{self, How};

/// A line of the table: the path, the bytes on disk, and whether it is gone or else in use.
type Line = (String, u64, Result<bool>);

pub fn run(dirs: &Dirs, dry_run: bool) -> Result<u8> {
    let mut lines = kernels(dirs, dry_run)?;
    lines.extend(snapshots(dirs, dry_run)?);
    lines.extend(remade(dirs, dry_run));
    if lines.is_empty() {
        ui::print("Nothing to remove: every kernel in the cache is pinned.\n")?;
        return Ok(exit::OK);
    }
    let gone = lines.iter().filter(|(_, _, outcome)| matches!(outcome, Ok(true)));
    let freed = BinaryBytes(gone.map(|(_, size, _)| size).sum());
    let failed = lines.iter().any(|(_, _, outcome)| outcome.is_err());
    let (removed, would_be) = if dry_run { ("would be removed", "would be ") } else { ("removed", "") };
    let rows = lines.into_iter().map(|(path, size, outcome)| {
        let outcome = match outcome {
            Ok(true) => removed.to_owned(),
            Ok(false) => "in use, kept".to_owned(),
            Err(error) => format!("cannot be removed: {error:#}"),
        };
        [path, BinaryBytes(size).to_string(), outcome]
    });
    let mut table = grid(&["path", "size", ""], [1], Looks::default());
    table.add_rows(rows);
    ui::print(&format!("{}{freed} {would_be}freed\n", grid::text(table)))?;
    Ok(if failed { exit::NOT_RUN } else { exit::OK })
}

/// Kernels, downloads and configurations.
fn kernels(dirs: &Dirs, dry_run: bool) -> Result<Vec<Line>> {
    let pins = kernels::pinned(dirs)?;
    let names = |pin: &Pin| pin.sources.iter().map(|source| Entry::name_of(pin, source)).collect::<Vec<_>>();
    let needed = pins.iter().flat_map(names).collect();
    let line = |path: PathBuf| {
        (path.display().to_string(), cache::size_of(&path), cache::discard(&dirs.cache, &path, dry_run))
    };
    Ok(cache::stale(&dirs.cache, &needed)?.into_iter().map(line).collect())
}

/// The next run with `--warm` makes what it needs anew.
fn snapshots(dirs: &Dirs, dry_run: bool) -> Result<Vec<Line>> {
    let snapshots = Snapshots::below(&dirs.cache);
    let line = |listed: Listed| {
        let outcome = if dry_run { Ok(true) } else { snapshots.prune(&listed) };
        let kernel = listed.kernel.as_deref().unwrap_or("a kernel unknown");
        (format!("{} (snapshot of {kernel})", listed.dir.display()), listed.bytes, outcome)
    };
    Ok(snapshots.list().into_iter().map(line).collect())
}

/// What the next run that needs it makes anew.
fn remade(dirs: &Dirs, dry_run: bool) -> Vec<Line> {
    let kept = [
        (module_share::kept(&dirs.cache), "lists of modules"),
        (cross::built(dirs), "programs for guests of other architectures"),
    ];
    let line = |(path, what): (PathBuf, &str)| {
        let size = cache::size_of(&path);
        // Somebody may be building there.
        let in_use = matches!(lock::existing(&path.join(cross::LOCK), How::NonBlockingLockExclusive), Ok(None));
        let outcome = if dry_run || in_use { Ok(!in_use) } else { cache::remove_all(&path).map(|()| true) };
        (format!("{} ({what})", path.display()), size, outcome)
    };
    kept.into_iter().filter(|(path, _)| path.exists()).map(line).collect()
}
