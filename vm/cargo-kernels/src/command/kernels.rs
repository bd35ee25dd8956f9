//! `cargo xtask kernels`: `fetch`, and a file for each other subcommand.

mod add;
mod list;
mod prune;
mod verify;

use anyhow::Result;

use crate::dirs::Dirs;
use crate::kernels::{Arch, select};
use crate::ui::{self, Line};
use crate::{exit, flags};

/// Runs the command.
pub fn run(dirs: &Dirs, flags: &flags::Kernels) -> Result<u8> {
    match flags {
        flags::Kernels::List { of, json } => list::run(dirs, &of.arches, *json),
        flags::Kernels::Fetch(flags::Pins { of, names }) => fetch(dirs, names, &of.arches),
        flags::Kernels::Verify(flags::Pins { of, names }) => verify::run(dirs, names, &of.arches),
        flags::Kernels::Add { name, from } => add::run(dirs, name, from),
        flags::Kernels::Prune { dry_run } => prune::run(dirs, *dry_run),
    }
}

fn fetch(dirs: &Dirs, names: &[String], arches: &[&'static Arch]) -> Result<u8> {
    let mut code = exit::OK;
    for target in select(dirs, names, arches)? {
        let got = target.obtain(&Line::new(target.name()));
        let told = match got {
            Ok(kernel) => {
                let release = kernel.release.as_deref().unwrap_or("of unknown release");
                format!("{}: {release} from {}, {}", kernel.name, kernel.source, kernel.image.display())
            }
            Err(unavailable) => {
                code = exit::NOT_RUN;
                format!("{}: unavailable: {unavailable}", target.name())
            }
        };
        ui::print(&(told + "\n"))?;
    }
    Ok(code)
}
