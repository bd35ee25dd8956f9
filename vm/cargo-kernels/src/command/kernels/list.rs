//! `cargo xtask kernels list`: the pins, which are cached, and how to get those that are not.

use std::path::PathBuf;

use anyhow::Result;
use indicatif::BinaryBytes;
use serde_json::{Value, json};

use crate::dirs::Dirs;
use crate::kernels::cache::Entry;
use crate::kernels::pins::{Pin, Source};
use crate::kernels::{self, Arch, Store, obtain};
use crate::ui::grid::{self, Looks, grid};
use crate::{exit, ui};

/// A pin, and what is cached of it, or comes from Nix.
type Row<'a> = (&'a Pin, Option<Cached>);

struct Cached {
    /// The kind of its source, or `nix`.
    source: &'static str,
    image: PathBuf,
    release: Option<String>,
    /// In bytes; not known of `nix`.
    size: Option<u64>,
}

pub fn run(dirs: &Dirs, arches: &[&'static Arch], as_json: bool) -> Result<u8> {
    let store = kernels::store(dirs)?;
    let wanted = |pin: &&Pin| arches.contains(&pin.arch) || arches.is_empty() && pin.arch.is_host();
    let pins = kernels::pinned(dirs)?;
    let rows: Vec<Row<'_>> = pins.iter().filter(wanted).map(|pin| row(&store, pin)).collect();
    if as_json {
        let rows: Vec<Value> = rows.iter().map(json).collect();
        ui::print(&(serde_json::to_string_pretty(&rows)? + "\n"))?;
        return Ok(exit::OK);
    }
    let header = ["pin", "release", "source", "size", "cached", "why"];
    let mut table = grid(&header, [3], Looks::of_stdout());
    table.add_rows(rows.iter().map(cells));
    ui::print(&grid::text(table))?;
    let absent = rows.iter().filter(|(pin, found)| found.is_none() && !pin.extra);
    let absent: Vec<String> = absent.map(|(pin, _)| pin.label()).collect();
    if !absent.is_empty() {
        let fetch = crate::hint::hint(&format!("kernels fetch {}", absent.join(" ")));
        ui::print(&format!("\nTo get what is not cached: {fetch}\n"))?;
    }
    Ok(exit::OK)
}

fn row<'a>(store: &Store, pin: &'a Pin) -> Row<'a> {
    if let Some(Ok(kernel)) = obtain::nix(store, pin) {
        let (image, release) = (kernel.image, kernel.release);
        return (pin, Some(Cached { source: "nix", image, release, size: None }));
    }
    let cached = pin.sources.iter().find_map(|source| {
        let entry = Entry::of(&store.cache, pin, source);
        let manifest = entry.manifest().ok()?;
        let (image, size) = (entry.dir().join(manifest.image), Some(manifest.size));
        Some(Cached { source: source.kind(), image, release: manifest.release, size })
    });
    (pin, cached)
}

/// Of another architecture than this machine's the name is the full one; what is expected is exact, or a series' prefix
/// with an `x`; the sources are in the order in which they are tried, with a hash for each of their files.
fn json((pin, found): &Row<'_>) -> Value {
    let source = |source: &Source| json!({ "kind": source.kind(), "sha256": source.hashes() });
    let found = found.as_ref();
    json!({
        "name": pin.label(), "arch": pin.arch.name, "expected": pin.expected.to_string(), "why": pin.why,
        "extra": pin.extra, "cached": found.is_some(), "release": found.map(|found| &found.release),
        "source": found.map(|found| found.source), "size": found.map(|found| found.size),
        "image": found.map(|found| found.image.to_string_lossy()),
        "sources": pin.sources.iter().map(source).collect::<Vec<_>>(),
    })
}

/// Without the hashes, which would make it wider than a terminal; `--json` has them.
fn cells((pin, found): &Row<'_>) -> [String; 6] {
    let of_pin = || pin.sources.iter().map(Source::kind).collect::<Vec<_>>().join(", ");
    let found = found.as_ref();
    let release = found.and_then(|found| found.release.clone());
    let size = found.and_then(|found| found.size);
    [
        pin.label(),
        release.unwrap_or_else(|| pin.expected.to_string()),
        found.map_or_else(of_pin, |found| found.source.to_owned()),
        size.map_or_else(|| "-".to_owned(), |size| BinaryBytes(size).to_string()),
        if found.is_some() { "yes" } else { "no" }.to_owned(),
        pin.why.split(':').next().unwrap_or_default().to_owned(),
    ]
}
