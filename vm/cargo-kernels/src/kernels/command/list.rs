//! `cargo xtask kernels list`: the pins, and which are at hand.

use anyhow::Result;
use serde::Serialize;

use super::show;
use crate::exit;
use crate::kernels::cache::Entry;
use crate::kernels::pins::{Pin, Source};
use crate::kernels::{self, Expected, Store, obtain};

/// A pin as it is listed; the JSON is an array of these.
#[derive(Debug, Serialize)]
struct Row {
    /// The pin's name.
    name: String,
    /// The release it must boot as: exact, or a series' prefix with an `x`.
    expected: String,
    /// Why it is pinned.
    why: String,
    /// Whether it needs no network.
    at_hand: bool,
    /// The release that the kernel at hand names.
    release: Option<String>,
    /// Where the kernel at hand came from.
    source: Option<&'static str>,
    /// Bytes that the kernel at hand takes in the cache; Nix's are not counted.
    size: Option<u64>,
    /// The image at hand.
    image: Option<std::path::PathBuf>,
    /// Every source, in the order in which they are tried.
    sources: Vec<Listed>,
}

/// A source as it is listed.
#[derive(Debug, Serialize)]
struct Listed {
    /// `nix`, `debian`, `url` or `file`.
    kind: &'static str,
    /// Whether only SHA-1 pins a file of it.
    weak: bool,
}

/// Runs the command.
pub fn run(json: bool) -> Result<u8> {
    let store = kernels::store()?;
    let rows: Vec<Row> = kernels::pinned()?.iter().map(|pin| row(&store, pin)).collect();
    if json {
        show::print(&(serde_json::to_string_pretty(&rows)? + "\n"));
        return Ok(exit::OK);
    }
    let header = ["pin", "release", "source", "size", "at hand", "why"];
    show::print(&show::table(&header, &[3], rows.iter().map(cells).collect()));
    Ok(exit::OK)
}

fn row(store: &Store, pin: &Pin) -> Row {
    let mut row = Row {
        name: pin.name.clone(),
        expected: match &pin.expected {
            Expected::Any => String::new(),
            expected => expected.to_string(),
        },
        why: pin.why.clone(),
        at_hand: false,
        release: None,
        source: None,
        size: None,
        image: None,
        sources: pin
            .sources
            .iter()
            .map(|source| Listed { kind: source.kind(), weak: source.is_weak() })
            .collect(),
    };
    for source in &pin.sources {
        if fill_in(&mut row, store, pin, source) {
            break;
        }
    }
    row
}

/// Fills in what is at hand of `source`, if anything is.
fn fill_in(row: &mut Row, store: &Store, pin: &Pin, source: &Source) -> bool {
    match Entry::of(&store.cache, pin, source) {
        Some(entry) => {
            let Ok(manifest) = entry.manifest() else { return false };
            row.image = Some(entry.dir().join(manifest.image));
            row.release = manifest.release;
            row.size = Some(manifest.size);
        }
        None => {
            let Ok(kernel) = obtain::nix(store, pin) else { return false };
            row.image = Some(kernel.image);
            row.release = kernel.release;
        }
    }
    row.at_hand = true;
    row.source = Some(source.kind());
    true
}

fn cells(row: &Row) -> Vec<String> {
    let named = |kind: &str, weak| format!("{kind}{}", if weak { " (weak: SHA-1)" } else { "" });
    let sources = row
        .sources
        .iter()
        .filter(|listed| row.source.is_none_or(|kind| kind == listed.kind))
        .map(|listed| named(listed.kind, listed.weak))
        .collect::<Vec<_>>();
    vec![
        row.name.clone(),
        row.release.clone().unwrap_or_else(|| row.expected.clone()),
        sources.join(", "),
        row.size.map_or_else(|| "-".to_owned(), show::size),
        if row.at_hand { "yes" } else { "no" }.to_owned(),
        row.why.split(':').next().unwrap_or_default().to_owned(),
    ]
}
