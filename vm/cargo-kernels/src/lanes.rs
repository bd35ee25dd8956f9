//! Which lane a command uses, with the tools that it needs.

use std::path::Path;

use anyhow::Result;

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
pub fn open<'a>(warm: bool, qemu: &Path, interrupt: &'a Interrupt) -> Result<Box<dyn Lane + 'a>> {
    if !warm {
        tools::require(&[Need::Boot])?;
    }
    let (qemu, busybox) = (qemu.to_owned(), tools::find(Tool::Busybox)?);
    Ok(if warm {
        Box::new(Warm { qemu, busybox, states: States::below(&crate::paths::cache()?), interrupt })
    } else {
        Box::new(Vng { vng: tools::find(Tool::Vng)?, qemu, busybox })
    })
}
