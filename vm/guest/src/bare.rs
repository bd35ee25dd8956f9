//! A guest without virtme-ng: QEMU, the kernel, and an initramfs with everything in it. This is the
//! baseline that the other backends are measured against.

use std::path::PathBuf;

use anyhow::Result;
use vmtest_agent::Root;

use crate::backend::{Backend, Spec, Vm};
use crate::guest_root::{self, Programs};
use crate::qemu::{Machine, Memory};
use crate::{initramfs, payload};

/// Boots kernels in QEMU directly.
#[derive(Debug, Clone)]
pub struct Bare {
    /// The QEMU program.
    pub qemu: PathBuf,
    /// What runs in its guests.
    pub programs: Programs,
}

impl Backend for Bare {
    fn name(&self) -> &'static str {
        "baseline"
    }

    fn start(&self, spec: &Spec<'_>, _note: &dyn Fn(String)) -> Result<Vm> {
        let dir = spec.run.path();
        let root = dir.join("root");
        guest_root::stage(&root, &self.programs, None)?;
        let payload = payload::stage(spec.files, &root)?;
        let machine = Machine {
            spec,
            qemu: &self.qemu,
            memory: Memory::Anonymous,
            kernel: Some(&spec.kernel.image),
            initramfs: &initramfs::pack(&root)?,
            dir,
            ivshmem: None,
        };
        let root = Root::Minimal { keep: spec.keep.to_vec() };
        Ok(machine.start(Vec::new())?.into_started(Vec::new(), payload, root))
    }
}
