//! Kernel images: telling one from any other file, the release it names, the configuration inside it.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use anyhow::{Result, bail};
use memchr::memmem;

use super::Arch;
use super::compression::decompressed;

/// Offsets of the x86 boot protocol's header (Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header").
mod header {
    pub const SETUP_SECTS: usize = 0x1f1; // 512-byte setup sectors after the boot sector; 0 stands for 4
    pub const BOOT_FLAG: usize = 0x1fe; // 55 aa
    pub const MAGIC: usize = 0x202; // HdrS
    pub const VERSION: usize = 0x206; // of the boot protocol, minor byte first
    pub const KERNEL_VERSION: usize = 0x20e; // where the release string starts, less 0x200; 0 when there is none
    pub const PAYLOAD_OFFSET: usize = 0x248; // of the compressed kernel, from the end of the setup sectors
    pub const PAYLOAD_LENGTH: usize = 0x24c;
    pub const SIZE: usize = 0x250; // all of the above fits in this
}
/// No kernel is longer than this, decompressed.
const MAX_KERNEL: u64 = 512 << 20;
/// No configuration is longer than this.
const MAX_CONFIG: u64 = 16 << 20;

/// What is read of an image before it is booted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Where the compressed kernel is in x86's bzImage; `None` for the uncompressed Image of arm64 and others.
    pub payload: Option<Range<u64>>,
    /// What it runs on.
    pub arch: &'static Arch,
    /// The release (`uname -r`) that it names, where its format has a place for it.
    pub release: Option<String>,
}

/// Reads an image's header. Of what is no kernel image the error says what it seems to be instead.
pub fn inspect(path: &Path) -> Result<Image> {
    let mut file = File::open(path)?;
    let start = read_up_to(&mut file, header::SIZE as u64)?;
    let arch = Arch::of_image(&start);
    if let Some(arch) = arch.filter(|arch| arch.image_magic.0 != header::MAGIC) {
        return Ok(Image { payload: None, arch, release: plain_release(path)? });
    }
    let has_flag = start.get(header::BOOT_FLAG..).is_some_and(|rest| rest.starts_with(&[0x55, 0xaa]));
    let is_bzimage = has_flag && start.len() == header::SIZE && start[header::VERSION + 1] >= 2;
    let Some(arch) = arch.filter(|_| is_bzimage) else {
        bail!("it is no kernel image: {}", what_it_is_instead(&start));
    };
    let stated = u64::from(start[header::SETUP_SECTS]);
    let setup_sectors = if stated == 0 { 4 } else { stated };
    let payload = (setup_sectors + 1) * 512 + u64::from(u32_at(&start, header::PAYLOAD_OFFSET));
    let payload = payload..payload + u64::from(u32_at(&start, header::PAYLOAD_LENGTH));
    Ok(Image { payload: Some(payload), arch, release: release(&mut file, &start, setup_sectors)? })
}

/// The first word of the version string that the header points at, such as `6.1.0-47-amd64`.
fn release(file: &mut File, start: &[u8], setup_sectors: u64) -> io::Result<Option<String>> {
    let pointer = u64::from(u32_at(start, header::KERNEL_VERSION) & 0xffff);
    // "This field is only valid if less than 0x200 * setup_sects" (boot.rst).
    if pointer == 0 || pointer >= 0x200 * setup_sectors {
        return Ok(None);
    }
    file.seek(SeekFrom::Start(0x200 + pointer))?;
    let text = read_up_to(file, 256)?;
    let word = text.split(|byte| matches!(byte, 0 | b' ' | b'\n')).next().unwrap_or_default();
    Ok(std::str::from_utf8(word).ok().filter(|word| !word.is_empty()).map(str::to_owned))
}

/// Its header has no place for the release; the banner of `/proc/version` is in the uncompressed kernel.
fn plain_release(path: &Path) -> io::Result<Option<String>> {
    let kernel = read_up_to(&mut File::open(path)?, MAX_KERNEL)?;
    let Some(banner) = after(&kernel, b"Linux version ") else { return Ok(None) };
    let word = banner.iter().take(128).take_while(|byte| **byte != b' ').copied().collect();
    Ok(String::from_utf8(word).ok().filter(|word| !word.contains('%')))
}

/// The configuration inside an image: `CONFIG_IKCONFIG` puts it, compressed with gzip, behind the marker
/// `IKCFG_ST` (kernel/configs.c; scripts/extract-ikconfig does the same).
///
/// `None` when the kernel was built without it, or is compressed in a way that is not known here.
pub fn config(path: &Path) -> Result<Option<String>> {
    let Some(reader) = payload(path)? else { return Ok(None) };
    let mut kernel = Vec::new();
    // A payload that does not decompress is the boot's to complain of; what there is of it may do.
    let _ = reader.take(MAX_KERNEL).read_to_end(&mut kernel);
    let Some(compressed) = after(&kernel, b"IKCFG_ST") else { return Ok(None) };
    let mut text = String::new();
    let read = flate2::read::GzDecoder::new(compressed).take(MAX_CONFIG).read_to_string(&mut text);
    Ok(read.is_ok().then_some(text))
}

/// The kernel itself, decompressed; `None` when it is compressed in a way that is not known here.
pub fn payload(path: &Path) -> Result<Option<Box<dyn Read>>> {
    let mut file = File::open(path)?;
    let Some(payload) = inspect(path)?.payload else { return Ok(Some(Box::new(file))) };
    file.seek(SeekFrom::Start(payload.start))?;
    Ok(decompressed(BufReader::new(file.take(payload.end - payload.start)), true)?)
}

/// What comes after `marker`.
fn after<'a>(bytes: &'a [u8], marker: &[u8]) -> Option<&'a [u8]> {
    memmem::find(bytes, marker).map(|at| &bytes[at + marker.len()..])
}

fn what_it_is_instead(start: &[u8]) -> &'static str {
    const KNOWN: [(&[u8], &str); 7] = [
        (b"\x7fELF", "it is an ELF file; for a vmlinux give its arch/x86/boot/bzImage instead"),
        (b"!<arch>", "it is an archive, such as a .deb; give what is in it"),
        (b"\x1f\x8b", "it is compressed with gzip"),
        (b"\xfd7zXZ", "it is compressed with xz"),
        (b"\x28\xb5\x2f\xfd", "it is compressed with zstd"),
        (b"<!DOCTYPE", "it is a web page"),
        (b"<html", "it is a web page"),
    ];
    match KNOWN.iter().find(|(magic, _)| start.starts_with(magic)) {
        Some((_, what)) => what,
        None if start.is_empty() => "it is empty",
        None => "it lacks the bzImage signatures (55 aa at 0x1fe, HdrS at 0x202)",
    }
}

fn read_up_to(file: &mut File, count: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(count).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes([bytes[offset], bytes[offset + 1], bytes[offset + 2], bytes[offset + 3]])
}

#[cfg(test)]
mod tests {
    use super::super::fake;
    use super::*;

    fn written(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    #[test]
    fn a_header_may_name_a_release_and_its_first_word_counts() {
        let mut image = fake::bzimage("6.1.0-47-amd64", None);
        assert_eq!(inspect(written(&image).path()).unwrap().release.as_deref(), Some("6.1.0-47-amd64"));
        // What looks like a release behind the setup sectors is none.
        image[0xa00..0xa04].copy_from_slice(b"6.2 ");
        for pointer in [0_u16, 0x200 * 4, u16::MAX] {
            image[0x20e..0x210].copy_from_slice(&pointer.to_le_bytes());
            assert_eq!(inspect(written(&image).path()).unwrap().release, None, "{pointer:#x}");
        }
    }

    #[test]
    fn the_configuration_is_found_in_every_compression() {
        let text = "CONFIG_BPF=y\n".repeat(1000);
        type Pack = fn(&[u8]) -> Vec<u8>;
        let packers: [(&str, Pack); 4] = [("gzip", fake::gzip), ("xz", fake::xz), ("zstd", fake::zstd), ("lzma", lzma)];
        for (name, pack) in packers {
            let file = written(&fake::bzimage_packed("6.1.0", Some(&text), pack));
            assert_eq!(config(file.path()).unwrap().as_deref(), Some(text.as_str()), "{name}");
            let file = written(&fake::bzimage_packed("6.1.0", None, pack));
            assert_eq!(config(file.path()).unwrap(), None, "{name}");
        }
    }

    fn lzma(bytes: &[u8]) -> Vec<u8> {
        let options = liblzma::stream::LzmaOptions::new_preset(1).unwrap();
        let stream = liblzma::stream::Stream::new_lzma_encoder(&options).unwrap();
        let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
        io::Write::write_all(&mut encoder, bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_configuration_that_cannot_be_read_is_unknown() {
        let unknown = |bytes: &[u8]| [b"LZ4 or what", bytes].concat();
        let file = written(&fake::bzimage_packed("6.1.0", Some("CONFIG_BPF=y\n"), unknown));
        assert_eq!(config(file.path()).unwrap(), None);
        let long = hex::encode(fake::noise(20_000));
        let mut image = fake::bzimage("6.1.0", Some(&long));
        assert_eq!(config(written(&image).path()).unwrap().as_ref(), Some(&long));
        image.truncate(image.len() - 10_000);
        assert_eq!(config(written(&image).path()).unwrap(), None);
    }

    #[test]
    fn an_arm64_image_names_its_release_in_the_banner() {
        let mut image = vec![0; 100_000];
        image[56..60].copy_from_slice(b"ARM\x64");
        image.extend(b"Linux version 6.6.9 (nixbld@localhost) (gcc) #1-NixOS");
        let found = inspect(written(&image).path()).unwrap();
        assert_eq!((found.payload, found.arch.name), (None, "arm64"));
        assert_eq!(found.release.as_deref(), Some("6.6.9"));
    }

    #[test]
    fn what_is_no_image_is_called_what_it_is() {
        let cases: [(&[u8], &str); 6] = [
            (b"\x7fELF\x02", "it is an ELF file; for a vmlinux give its arch/x86/boot/bzImage"),
            (b"!<arch>\n", "it is an archive"),
            (b"\x1f\x8b", "it is compressed with gzip"),
            (b"", "it is empty"),
            (&[0; 4096], "it lacks the bzImage signatures"),
            (b"MZ", "it lacks the bzImage signatures"),
        ];
        for (bytes, finding) in cases {
            let error = inspect(written(bytes).path()).unwrap_err().to_string();
            assert!(error.contains(finding), "{error}");
        }
        for signature in [header::BOOT_FLAG, header::MAGIC] {
            let mut image = fake::bzimage("6.1.0", None);
            image[signature] = 0;
            assert!(inspect(written(&image).path()).is_err(), "{signature:#x}");
        }
    }
}
