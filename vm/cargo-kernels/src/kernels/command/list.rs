//! `cargo xtask kernels list`: the pins, which are at hand, and how to get those that are not.

use anyhow::Result;
use indicatif::BinaryBytes;
use serde::Serialize;

use crate::dirs::Dirs;
use crate::kernels::cache::Entry;
use crate::kernels::pins::{Pin, Source};
use crate::kernels::{self, Arch, Store, obtain};
use crate::ui::grid::{self, Looks, grid};
use crate::{exit, ui};

/// A pin as it is listed; the JSON is an array of these.
#[derive(Debug, Default, Serialize)]
struct Row {
    /// Of another architecture than this machine's, the full name.
    name: String,
    arch: &'static str,
    /// Exact, or a series' prefix with an `x`.
    expected: String,
    why: String,
    extra: bool,
    at_hand: bool,
    /// From here on what is at hand; its source may be `nix`, too, and of that the size is not known.
    release: Option<String>,
    source: Option<&'static str>,
    size: Option<u64>,
    image: Option<std::path::PathBuf>,
    /// Every source, in the order in which they are tried.
    sources: Vec<Listed>,
}

/// A source as it is listed.
#[derive(Debug, Serialize)]
struct Listed {
    kind: &'static str,
    /// Of each of its files.
    sha256: Vec<String>,
}

pub fn run(dirs: &Dirs, arches: &[&'static Arch], json: bool) -> Result<u8> {
    let store = kernels::store(dirs)?;
    let wanted = |pin: &&Pin| arches.contains(&pin.arch) || arches.is_empty() && pin.arch.is_host();
    let rows: Vec<Row> = kernels::pinned(dirs)?.iter().filter(wanted).map(|pin| row(&store, pin)).collect();
    if json {
        ui::print(&(serde_json::to_string_pretty(&rows)? + "\n"))?;
        return Ok(exit::OK);
    }
    let header = ["pin", "release", "source", "sha256", "size", "at hand", "why"];
    let mut table = grid(&header, [4], Looks::default());
    table.add_rows(rows.iter().map(cells));
    ui::print(&grid::text(table))?;
    let absent: Vec<&str> = rows.iter().filter(|row| !row.at_hand && !row.extra).map(|row| row.name.as_str()).collect();
    if !absent.is_empty() {
        let fetch = crate::command::hint(&format!("fetch {}", absent.join(" ")));
        ui::print(&format!("\nTo get what is not at hand: {fetch}\n"))?;
    }
    Ok(exit::OK)
}

fn row(store: &Store, pin: &Pin) -> Row {
    let listed = |source: &Source| Listed {
        kind: source.kind(),
        sha256: source.hashes().into_iter().map(ToString::to_string).collect(),
    };
    let mut row = Row {
        name: pin.label(),
        arch: pin.arch.name,
        expected: pin.expected.to_string(),
        why: pin.why.clone(),
        extra: pin.extra,
        sources: pin.sources.iter().map(listed).collect(),
        ..Row::default()
    };
    if let Some(Ok(kernel)) = obtain::nix(store, pin) {
        (row.at_hand, row.source) = (true, Some("nix"));
        (row.image, row.release) = (Some(kernel.image), kernel.release);
        return row;
    }
    let cached = pin.sources.iter().map(|source| (source, Entry::of(&store.cache, pin, source)));
    let cached = cached.map(|(source, entry)| Some((source, entry.dir(), entry.manifest().ok()?)));
    if let Some((source, dir, manifest)) = cached.flatten().next() {
        (row.at_hand, row.source, row.image) = (true, Some(source.kind()), Some(dir.join(manifest.image)));
        (row.release, row.size) = (manifest.release, Some(manifest.size));
    }
    row
}

fn cells(row: &Row) -> [String; 7] {
    let of_pin = || row.sources.iter().map(|source| source.kind).collect::<Vec<_>>().join(", ");
    // Twelve digits, as Git shows them; `--json` has all.
    let hashes = row.sources.iter().filter_map(|source| source.sha256.first());
    let hashes: Vec<_> = hashes.filter_map(|hash| hash.get(..12)).collect();
    [
        row.name.clone(),
        row.release.clone().unwrap_or_else(|| row.expected.clone()),
        row.source.map_or_else(of_pin, str::to_owned),
        hashes.join(", "),
        row.size.map_or_else(|| "-".to_owned(), |size| BinaryBytes(size).to_string()),
        if row.at_hand { "yes" } else { "no" }.to_owned(),
        row.why.split(':').next().unwrap_or_default().to_owned(),
    ]
}
