//! Which lane a command uses, with the tools that it needs.

use anyhow::Result;

use crate::dirs::Dirs;
use crate::tools::{self, Need, Tool};
use vm_guest::Lane;
use vm_guest::interrupt::Interrupt;
use vm_guest::states::States;
use vm_guest::vng::Vng;
use vm_guest::warm::Warm;

/// The warm lane, or the cold one.
///
/// # Errors
/// When a tool that it needs is missing.
pub fn open<'a>(dirs: &Dirs, warm: bool, interrupt: &'a Interrupt) -> Result<Box<dyn Lane + 'a>> {
    let qemu = tools::find(dirs, Tool::Qemu)?;
    if !warm {
        tools::require(dirs, &[Need::Boot])?;
    }
    let busybox = tools::find(dirs, Tool::Busybox)?;
    Ok(if warm {
        Box::new(Warm { qemu, busybox, states: States::below(&dirs.cache), interrupt })
    } else {
        Box::new(Vng { vng: tools::find(dirs, Tool::Vng)?, qemu, busybox })
    })
}
