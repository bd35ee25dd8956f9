//! `cargo xtask kernels fetch`: kernels into the cache.

use anyhow::Result;

use super::show;
use crate::dirs::Dirs;
use crate::exit;
use crate::kernels::{Arch, select};
use crate::ui;

/// Runs the command.
pub fn run(dirs: &Dirs, names: &[String], arches: &[&'static Arch]) -> Result<u8> {
    let mut code = exit::OK;
    for target in select(dirs, names, arches)? {
        let got = target.obtain(&show::Line::new(target.name()));
        let told = match got {
            Ok(kernel) => {
                let release = kernel.release.as_deref().unwrap_or("of unknown release");
                format!("{}: {release} from {}, {}", kernel.name, kernel.source, kernel.image.display())
            }
            Err(unavailable) => {
                code = exit::NOT_RUN;
                unavailable.to_string()
            }
        };
        ui::print(&(told + "\n"))?;
    }
    Ok(code)
}
