//! Which lane a command uses, with the tools that it needs.

use std::path::Path;

use anyhow::Result;

use super::Lane;
use super::states::States;
use super::vng::Vng;
use super::warm::Warm;
use crate::interrupt::Interrupt;
use crate::tools::{self, Need, Tool};

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
        Box::new(Warm { qemu, busybox, states: States::in_cache()?, interrupt })
    } else {
        Box::new(Vng { vng: tools::find(Tool::Vng)?, qemu, busybox })
    })
}
