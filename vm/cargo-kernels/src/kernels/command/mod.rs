//! `cargo xtask kernels`: one file per subcommand.

mod add;
mod fetch;
mod list;
mod prune;
pub mod show;
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
