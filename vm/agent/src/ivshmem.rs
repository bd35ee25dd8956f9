//! Memory of the host's that the guest sees: a PCI device that is nothing but memory, QEMU's
//! `ivshmem-plain` (docs/specs/ivshmem-spec.rst).
//!
//! No driver is needed for it: the kernel offers any device's memory for mapping in sysfs
//! (Documentation/PCI/sysfs-pci.rst). So the payload gets into a guest on every kernel, without
//! block devices and without modules.

use std::ffi::c_void;
use std::fs::{self, File};
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use anyhow::{Context, Result, ensure};
use nix::sys::mman::{MapFlags, ProtFlags, mmap};

const DEVICES: &str = "/sys/bus/pci/devices";
/// PCI vendor and device id of QEMU's shared memory, as sysfs prints them.
const ID: [&str; 2] = ["0x1af4", "0x1110"];
/// The memory is the device's third region.
const REGION: &str = "resource2";

/// The device's memory, mapped for good.
pub struct Ivshmem {
    start: NonNull<c_void>,
    length: usize,
}

impl Ivshmem {
    /// Maps the memory of the one device that there may be.
    pub fn open() -> Result<Option<Self>> {
        let Some(device) = find().with_context(|| format!("cannot look for {DEVICES}"))? else {
            return Ok(None);
        };
        Self::map(&device).with_context(|| format!("cannot map the memory of {}", device.display())).map(Some)
    }

    fn map(device: &Path) -> Result<Self> {
        // Firmware has left it so already, usually.
        fs::write(device.join("enable"), "1")?;
        let region = File::open(device.join(REGION))?;
        let length = usize::try_from(region.metadata()?.len())?;
        let nonzero = NonZeroUsize::new(length).context("it has no memory")?;
        // SAFETY: a new mapping, wherever the kernel likes.
        let start = unsafe { mmap(None, nonzero, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, region, 0) }?;
        Ok(Self { start, length })
    }

    /// The first bytes of the memory.
    ///
    /// # Safety
    /// The host must not change them any more. While a guest is saved and restored it does.
    pub unsafe fn bytes(&self, count: u64) -> Result<&[u8]> {
        let count = usize::try_from(count)?;
        ensure!(count <= self.length, "the memory has {} bytes, not {count}", self.length);
        // SAFETY: so many bytes are mapped, for as long as this process lives; the rest is promised.
        Ok(unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), count) })
    }
}

fn find() -> io::Result<Option<PathBuf>> {
    let entries = match fs::read_dir(DEVICES) {
        // A kernel without PCI.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    for entry in entries {
        let device = entry?.path();
        let [vendor, id] = ["vendor", "device"].map(|name| fs::read_to_string(device.join(name)));
        if [vendor?.trim(), id?.trim()] == ID {
            return Ok(Some(device));
        }
    }
    Ok(None)
}
