//! A guest without virtme-ng: QEMU, the kernel, and an initramfs with everything in it. This is the
//! baseline that the other backends are measured against.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use vmtest_agent::Root;

use crate::guest_root::Programs;
use crate::initramfs::{Contents, PAYLOAD_ARCHIVE};
use crate::qemu::{Fds, INITRAMFS, Machine, Memory};
use crate::{Backend, Spec, Vm};

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
        let initramfs = Contents::gather(&self.programs)?.with_payload(spec.payload)?.build()?;
        let path = spec.run.path().join(INITRAMFS);
        fs::write(&path, initramfs).with_context(|| format!("cannot write {}", path.display()))?;
        let machine = Machine {
            arch: spec.kernel.arch,
            qemu: &self.qemu,
            accel: spec.accel,
            memory_mib: spec.memory_mib,
            memory: Memory::Anonymous,
            kernel: Some(&spec.kernel.image),
            kernel_args: spec.kernel_args,
            dir: spec.run.path(),
            ivshmem: None,
            share: false,
            cpus: spec.cpus,
            waits: false,
        };
        let payload = vmtest_agent::Payload::Archive(format!("/{PAYLOAD_ARCHIVE}"));
        let root = Root::Minimal { keep: spec.keep.to_vec() };
        Ok(machine.start(Fds::default())?.into_started(payload, root))
    }
}
