//! Which backend a command uses, with the tools that it needs.

use anyhow::Result;

use crate::dirs::Dirs;
use crate::tools::{self, Need, Tool};
use vm_guest::Backend;
use vm_guest::interrupt::Interrupt;
use vm_guest::restore::Restore;
use vm_guest::rundir::RunDir;
use vm_guest::snapshots::Snapshots;
use vm_guest::vng::Vng;

/// The backend that restores snapshots (`warm`), or the one that boots; first clears up after runs that were killed.
///
/// # Errors
/// When a tool that it needs is missing.
pub fn open<'a>(dirs: &Dirs, warm: bool, interrupt: &'a Interrupt) -> Result<Box<dyn Backend + 'a>> {
    let qemu = tools::find(dirs, Tool::Qemu)?;
    if !warm {
        tools::require(dirs, &[Need::Boot])?;
    }
    let busybox = tools::find(dirs, Tool::Busybox)?;
    RunDir::clear_abandoned(&dirs.runs());
    Ok(if warm {
        Box::new(Restore { qemu, busybox, snapshots: Snapshots::below(&dirs.cache), interrupt })
    } else {
        Box::new(Vng { vng: tools::find(dirs, Tool::Vng)?, qemu, busybox })
    })
}
