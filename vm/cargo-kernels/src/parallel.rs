//! Several kernels at once.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// How many kernels run at once: what was asked for, else one per core.
pub fn jobs(asked: Option<u16>) -> usize {
    asked.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from)
}

/// What `run` makes of each item, given its place, as many side by side as `jobs`; in the items' order.
pub fn map<T: Sync, R: Send>(items: &[T], jobs: usize, run: impl Fn(usize, &T) -> R + Sync) -> Vec<R> {
    let (left, results) = (Mutex::new(items.iter().enumerate()), Mutex::new(BTreeMap::new()));
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    std::thread::scope(|scope| {
        for _ in 0..jobs.min(items.len()) {
            scope.spawn(|| {
                while let Some((index, item)) = next() {
                    let result = run(index, item);
                    results.lock().unwrap_or_else(PoisonError::into_inner).insert(index, result);
                }
            });
        }
    });
    results.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect()
}
