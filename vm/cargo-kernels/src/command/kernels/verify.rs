//! `cargo xtask kernels verify`: hashes again all that is in the cache.

use anyhow::Result;

use crate::dirs::Dirs;
use crate::kernels::cache::Entry;
use crate::kernels::{self, Arch, select};
use crate::{exit, ui};
use vm_guest::snapshots::{self, Snapshots};

pub fn run(dirs: &Dirs, names: &[String], arches: &[&'static Arch]) -> Result<u8> {
    let store = kernels::store(dirs)?;
    let mut all_good = true;
    for target in select(dirs, names, arches)? {
        let name = target.name();
        let Some(pin) = target.pin() else {
            ui::print(&format!("{name}: not of the cache, so there is no hash to hold it to\n"))?;
            continue;
        };
        let fetch = crate::hint::hint(&format!("kernels fetch {name}"));
        let of_source = |source| (source, Entry::of(&store.cache, pin, source));
        let mut cached = pin.sources.iter().map(of_source).filter(|(_, entry)| entry.dir().exists()).peekable();
        if cached.peek().is_none() && !names.is_empty() {
            ui::print(&format!("{name}: not in the cache; `{fetch}` gets it\n"))?;
            all_good = false;
        }
        for (source, entry) in cached {
            let found = match entry.verify() {
                Ok(count) => format!("good, {count} files"),
                Err(damage) => {
                    all_good = false;
                    // Unless it was made anew meanwhile.
                    let remove = |_lock| entry.verify().map(drop).or_else(|_| entry.remove());
                    let dropped = match entry.lock(|| ()).and_then(remove) {
                        Ok(()) => format!("it was removed; `{fetch}` gets it again"),
                        Err(error) => format!("it could not be removed: {error:#}"),
                    };
                    format!("damaged: {damage:#}; {dropped}")
                }
            };
            ui::print(&format!("{name} ({}): {found}\n", source.kind()))?;
        }
    }
    if names.is_empty() {
        all_good &= snapshots(dirs)?;
    }
    Ok(if all_good { exit::OK } else { exit::NOT_RUN })
}

/// Verifies the snapshots to the last byte of their memory, which no run does, and removes the bad.
fn snapshots(dirs: &Dirs) -> Result<bool> {
    let snapshots = Snapshots::below(&dirs.cache);
    let mut all_good = true;
    for listed in snapshots.list() {
        let Some(kernel) = &listed.kernel else { continue };
        // Of one kernel there may be several, and prune says where they are.
        let name = listed.dir.file_name().unwrap_or_default().to_string_lossy();
        if snapshots::verify_ram(&listed.dir)? {
            ui::print(&format!("{kernel} (snapshot {name}): good\n"))?;
        } else {
            all_good = false;
            let removed = snapshots.prune(&listed)?;
            let what = if removed { "removed" } else { "in use, so it was left" };
            ui::print(&format!("{kernel} (snapshot {name}): its memory is not what was saved; {what}\n"))?;
        }
    }
    Ok(all_good)
}
