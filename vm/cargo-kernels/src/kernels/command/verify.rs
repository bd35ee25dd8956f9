//! `cargo xtask kernels verify`: hashes again all that is in the cache.

use anyhow::Result;

use super::show::Board;
use crate::dirs::Dirs;
use crate::exit;
use crate::kernels::cache::Entry;
use crate::kernels::pins::{Pin, Source};
use crate::kernels::{self, Arch, select};
use vm_guest::snapshots::{self, Snapshots};

/// Hashing is bound by the disk or by a core each.
const AT_ONCE: usize = 4;

/// One kernel in the cache.
struct Cached<'a> {
    pin: &'a Pin,
    source: &'a Source,
    entry: Entry,
}

/// Runs the command.
pub fn run(dirs: &Dirs, names: &[String], arches: &[&'static Arch]) -> Result<u8> {
    let targets = select(dirs, names, arches)?;
    let mut cached = Vec::new();
    let mut all_good = true;
    for target in &targets {
        let Some(pin) = target.pin() else {
            println!("{}: not of the cache, so there is no hash to hold it to", target.name());
            continue;
        };
        let found = of_pin(dirs, pin)?;
        if found.is_empty() && !names.is_empty() {
            let fetch = crate::command::hint(&format!("fetch {}", pin.label()));
            println!("{}: not in the cache; `{fetch}` gets it", pin.label());
            all_good = false;
        }
        cached.extend(found);
    }
    let board = Board::new(cached.iter().map(|cached| cached.pin.name.as_str()));
    let good = super::in_parallel(&cached, AT_ONCE, |cached| {
        let (text, good) = verify(cached);
        board.result(&format!("{} ({}): {text}", cached.pin.label(), cached.source.kind()));
        good
    });
    all_good &= good.into_iter().all(|good| good);
    if names.is_empty() {
        all_good &= saved_guests(dirs)?;
    }
    Ok(if all_good { exit::OK } else { exit::NOT_RUN })
}

/// Verifies the saved guests to the last byte of their memory, which no run does, and removes the bad.
fn saved_guests(dirs: &Dirs) -> Result<bool> {
    let snapshots = Snapshots::below(&dirs.cache);
    let mut all_good = true;
    for listed in snapshots.list() {
        let Some(kernel) = &listed.kernel else { continue };
        if snapshots::verify_ram(&listed.dir)? {
            println!("{kernel} (saved guest): good");
        } else {
            all_good = false;
            let removed = snapshots.prune(&listed)?;
            let what = if removed { "removed" } else { "in use, so it was left" };
            println!("{kernel} (saved guest): its memory is not what was saved; {what}");
        }
    }
    Ok(all_good)
}

fn of_pin<'a>(dirs: &Dirs, pin: &'a Pin) -> Result<Vec<Cached<'a>>> {
    let store = kernels::store(dirs)?;
    let of_source = |source| Cached { pin, source, entry: Entry::of(&store.cache, pin, source) };
    let cached = pin.sources.iter().map(of_source);
    Ok(cached.filter(|cached| cached.entry.dir().exists()).collect())
}

/// What came of it, for a person, and whether it is good.
fn verify(cached: &Cached<'_>) -> (String, bool) {
    match cached.entry.verify() {
        Ok(count) => (format!("good, {count} files"), true),
        Err(damage) => {
            let fetch = crate::command::hint(&format!("fetch {}", cached.pin.label()));
            let again = format!("`{fetch}` gets it again");
            let dropped = match drop_damaged(&cached.entry) {
                Ok(()) => format!("it was removed; {again}"),
                Err(error) => format!("it could not be removed: {error:#}"),
            };
            (format!("damaged: {damage:#}; {dropped}"), false)
        }
    }
}

/// Removes an entry, unless it was made anew meanwhile.
fn drop_damaged(entry: &Entry) -> Result<()> {
    let _lock = entry.lock(|| ())?;
    match entry.verify() {
        Ok(_) => Ok(()),
        Err(_) => entry.remove(),
    }
}
