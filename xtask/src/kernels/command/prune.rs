//! `cargo xtask kernels prune`: removes from the cache what no pin names, and saved states.

use std::collections::HashSet;

use anyhow::Result;

use super::show;
use crate::exit;
use crate::kernels::cache::{self, Entry, Kept};
use crate::kernels::pins::{self, Pin};

/// Runs the command.
pub fn run(dry_run: bool) -> Result<u8> {
    let pins = pins::load()?;
    let needed = needed(&pins)?;
    let mut rows = Vec::new();
    let mut freed = 0;
    for stale in cache::stale(&needed)? {
        let size = cache::size_of(&stale.path);
        let what = match cache::discard(&stale, dry_run) {
            Ok(()) => {
                freed += size;
                if dry_run { "would be removed".to_owned() } else { "removed".to_owned() }
            }
            Err(Kept::InUse) => "in use, kept".to_owned(),
            Err(Kept::Failed(error)) => format!("cannot be removed: {error:#}"),
        };
        rows.push(vec![stale.path.display().to_string(), show::size(size), what]);
    }
    if rows.is_empty() {
        println!("Nothing to remove: every kernel in the cache is pinned.");
        return Ok(exit::OK);
    }
    let failed = rows.iter().any(|row| row[2].starts_with("cannot"));
    print!("{}", show::table(&["path", "size", ""], &[1], rows));
    println!("{} {}", show::size(freed), if dry_run { "would be freed" } else { "freed" });
    Ok(if failed { exit::NOT_RUN } else { exit::OK })
}

/// The names of all entries that a pin may use.
fn needed(pins: &[Pin]) -> Result<HashSet<String>> {
    let mut names = HashSet::new();
    for pin in pins {
        for source in &pin.sources {
            names.extend(Entry::of(pin, source)?.map(|entry| entry.name().to_owned()));
        }
    }
    Ok(names)
}
