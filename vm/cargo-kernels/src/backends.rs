//! Which backend a command uses, with the tools that it needs.

use anyhow::Result;

use crate::cross;
use crate::dirs::Dirs;
use crate::tools::{self, Need};
use vm_guest::Backend;
use vm_guest::interrupt::Interrupt;
use vm_guest::restore::Restore;
use vm_guest::rundir::RunDir;
use vm_guest::snapshots::Snapshots;
use vm_guest::vng::Vng;
use vm_kernels::Arch;

/// The backend that restores snapshots (`snapshot`), or the one that boots, for an architecture's guests; first clears up after
/// runs that were killed.
pub fn open<'a>(
    dirs: &Dirs,
    arch: &'static Arch,
    snapshot: bool,
    interrupt: &'a Interrupt,
) -> Result<Box<dyn Backend + 'a>> {
    let qemu = cross::qemu(dirs, arch)?;
    if !snapshot {
        tools::require(dirs, Need::Boot)?;
    }
    let programs = cross::programs(dirs, arch)?;
    RunDir::clear_abandoned(&dirs.runs());
    Ok(if snapshot {
        Box::new(Restore { qemu, programs, snapshots: Snapshots::below(&dirs.cache), interrupt })
    } else {
        Box::new(Vng { vng: tools::find(dirs, "vng")?, qemu, programs })
    })
}
