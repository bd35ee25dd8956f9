//! `cargo xtask kernels fetch`: kernels into the cache, several at once.

use anyhow::Result;

use super::show::Board;
use crate::dirs::Dirs;
use crate::exit;
use crate::kernels::{Arch, select};
use vm_kernels::Kernel;

/// More at once would only share the same line, and unpacking wants the cores.
const AT_ONCE: usize = 4;

/// Runs the command.
pub fn run(dirs: &Dirs, names: &[String], arches: &[&'static Arch]) -> Result<u8> {
    let targets = select(dirs, names, arches)?;
    let board = Board::new(targets.iter().map(|target| target.name()));
    let got = super::in_parallel(&targets, AT_ONCE, |target| {
        let line = board.line(target.name());
        let result = target.obtain(&line);
        drop(line);
        match &result {
            Ok(kernel) => board.result(&describe(kernel)),
            Err(unavailable) => board.result(&unavailable.to_string()),
        }
        result.is_ok()
    });
    Ok(if got.into_iter().all(|ok| ok) { exit::OK } else { exit::NOT_RUN })
}

fn describe(kernel: &Kernel) -> String {
    format!(
        "{}: {} from {}, {}",
        kernel.name,
        kernel.release.as_deref().unwrap_or("of unknown release"),
        kernel.source,
        kernel.image.display()
    )
}
