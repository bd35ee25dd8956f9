//! Kernels that QEMU can start without their decompressing themselves.
//!
//! A bzImage is a kernel and a program that unpacks it. Under emulation that program takes seconds
//! for what this machine does in a tenth of the time. What it unpacks is an ELF file, and QEMU
//! starts an ELF kernel at the entry point that its PVH note names
//! (arch/x86/platform/pvh/head.S; xen/include/public/elfnote.h, `XEN_ELFNOTE_PHYS32_ENTRY`).

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use anyhow::Result;
use object::elf::{FileHeader64, NoteType};
use object::read::ReadCache;
use object::read::elf::{FileHeader, ProgramHeader};
use object::{LittleEndian, ReadRef};

use vm_kernels::{Kernel, image};

/// The note's owner and type.
const PVH_NOTE: (&[u8], NoteType) = (b"Xen", NoteType(18));

/// No kernel is larger than this, in bytes; what claims to be is not unpacked.
const LARGEST: u64 = 512 << 20;

/// Whether a kernel was built to be started so, as far as is known.
pub fn is_possible(kernel: &Kernel) -> bool {
    let value = kernel.config.as_ref().and_then(|config| config.get("CONFIG_PVH"));
    value.is_some_and(|value| value == "y")
}

/// Unpacks a kernel to the file `to`, if it is one that QEMU can start so. Says whether it is; if
/// not, there is no such file afterwards.
///
/// # Errors
/// When the image cannot be read or the file not written.
pub fn unpack(image: &Path, to: &Path) -> Result<bool> {
    let unpacked = write(image, to);
    if !matches!(unpacked, Ok(true)) {
        let _ = fs::remove_file(to);
    }
    unpacked
}

fn write(image: &Path, to: &Path) -> Result<bool> {
    let Some(kernel) = image::payload(image)? else { return Ok(false) };
    let file = File::options().read(true).write(true).create(true).truncate(true).open(to)?;
    let mut out = BufWriter::with_capacity(1 << 20, &file);
    let length = io::copy(&mut kernel.take(LARGEST), &mut out)?;
    out.flush()?;
    drop(out);
    Ok(length < LARGEST && has_pvh_entry(&ReadCache::new(file)))
}

fn has_pvh_entry<'a>(elf: impl ReadRef<'a>) -> bool {
    let has = || -> object::Result<bool> {
        let header = FileHeader64::<LittleEndian>::parse(elf)?;
        let endian = header.endian()?;
        for segment in header.program_headers(endian, elf)? {
            let Some(mut notes) = segment.notes(endian, elf)? else { continue };
            while let Some(note) = notes.next()? {
                if (note.name(), note.n_type(endian)) == PVH_NOTE {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    };
    has().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use vm_kernels::Expected;

    use super::*;

    /// An ELF file with nothing but one note.
    fn elf(owner: &[u8; 3], kind: u32) -> Vec<u8> {
        let mut note = [4_u32, 4, kind].map(u32::to_le_bytes).concat();
        note.extend([owner.as_slice(), b"\0entr"].concat());
        let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        elf.extend([2, 0, 62, 0, 1, 0, 0, 0]); // ET_EXEC, EM_X86_64, version
        elf.extend([0_u64, 64, 0].map(u64::to_le_bytes).concat()); // entry, program headers, sections
        elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0]); // flags, sizes, one header
        elf.extend([4_u32, 4].map(u32::to_le_bytes).concat()); // PT_NOTE, readable
        let length = note.len() as u64;
        elf.extend([120_u64, 0, 0, length, length, 4].map(u64::to_le_bytes).concat());
        elf.extend(note);
        elf
    }

    /// A kernel whose image has `payload`, compressed.
    fn kernel(dir: &Path, payload: &[u8], pvh: Option<&str>) -> Kernel {
        // The boot protocol's header (Documentation/arch/x86/boot.rst): one sector of setup, where the payload is.
        let mut image = vec![0; 1024];
        image[0x1f1] = 1;
        image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&[0x0f, 0x02]);
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(payload).unwrap();
        let packed = packed.finish().unwrap();
        image[0x24c..0x250].copy_from_slice(&(packed.len() as u32).to_le_bytes());
        image.extend(packed);
        let path = dir.join("bzImage");
        fs::write(&path, image).unwrap();
        let option = |value: &str| BTreeMap::from([("CONFIG_PVH".into(), value.into())]);
        Kernel {
            name: "6.1".into(),
            arch: vm_kernels::Arch::host(),
            image: path,
            sha256: None,
            modules: None,
            expected: Expected::Any,
            release: None,
            config: pvh.map(option),
            source: "path".into(),
        }
    }

    #[test]
    fn a_kernel_with_the_entry_is_unpacked_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let (elf, to) = (elf(b"Xen", 18), dir.path().join("vmlinux"));
        assert!(unpack(&kernel(dir.path(), &elf, None).image, &to).unwrap());
        assert_eq!(fs::read(to).unwrap(), elf);
    }

    #[test]
    fn any_other_is_left_to_unpack_itself() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("vmlinux");
        let pvh = elf(b"Xen", 18);
        for payload in [&elf(b"Xen", 17), &elf(b"GNU", 18), &b"no ELF file".to_vec()] {
            assert!(!unpack(&kernel(dir.path(), payload, None).image, &to).unwrap());
            assert!(!to.exists());
        }
        let unknown = kernel(dir.path(), &pvh, None).image;
        let mut image = fs::read(&unknown).unwrap();
        let compressed = image.windows(2).rposition(|magic| magic == [0x1f, 0x8b]).unwrap();
        image[compressed..].fill(b'?');
        fs::write(&unknown, image).unwrap();
        assert!(!unpack(&unknown, &to).unwrap());
    }

    #[test]
    fn its_configuration_tells_whether_that_is_possible() {
        let dir = tempfile::tempdir().unwrap();
        for (config, possible) in [(Some("y"), true), (Some("n"), false), (None, false)] {
            assert_eq!(is_possible(&kernel(dir.path(), b"", config)), possible);
        }
    }
}
