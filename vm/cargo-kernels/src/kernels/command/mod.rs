//! `cargo xtask kernels`: one file per subcommand.

mod add;
mod fetch;
mod list;
mod prune;
mod show;
mod verify;

use anyhow::Result;

use crate::dirs::Dirs;
use crate::flags;

/// Runs the command.
pub fn run(dirs: &Dirs, flags: &flags::Kernels) -> Result<u8> {
    match flags {
        flags::Kernels::List { of, json } => list::run(dirs, &of.arches, *json),
        flags::Kernels::Fetch { of, names } => fetch::run(dirs, names, &of.arches),
        flags::Kernels::Verify { of, names } => verify::run(dirs, names, &of.arches),
        flags::Kernels::Add { name, from } => add::run(dirs, name, from),
        flags::Kernels::Prune { dry_run } => prune::run(dirs, *dry_run),
    }
}

/// Works through `items` on up to `limit` threads; the results are in the items' order.
fn in_parallel<T: Sync, R: Send>(items: &[T], limit: usize, work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let results = std::sync::Mutex::new(Vec::with_capacity(items.len()));
    std::thread::scope(|scope| {
        for _ in 0..limit.min(items.len()) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some(item) = items.get(index) else { return };
                    let result = work(item);
                    results.lock().unwrap_or_else(|e| e.into_inner()).push((index, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(|e| e.into_inner());
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}
