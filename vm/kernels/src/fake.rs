//! Kernels, modules and packages that are real enough for all that is done before a boot.

#![allow(missing_docs, clippy::unwrap_used)]

use std::io::Write;

use object::{Architecture, BinaryFormat, Endianness, SectionKind};

use super::{Arch, Expected, Kernel};

/// A kernel without modules and configuration, as if it had been given by its path.
pub fn kernel() -> Kernel {
    Kernel {
        name: "test".into(),
        arch: Arch::host(),
        image: "bzImage".into(),
        sha256: None,
        modules: None,
        expected: Expected::Any,
        release: None,
        config: None,
        source: "path".into(),
    }
}

/// An x86 image that calls itself `release`; with `config`, it is in there as `CONFIG_IKCONFIG` puts it.
pub fn bzimage(release: &str, config: Option<&str>) -> Vec<u8> {
    bzimage_packed(release, config, gzip)
}

/// The same, with its payload compressed by `pack`.
pub fn bzimage_packed(release: &str, config: Option<&str>, pack: fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    const SETUP_SECTORS: usize = 4;
    let mut image = vec![0; (SETUP_SECTORS + 1) * 512];
    image[0x1f1] = SETUP_SECTORS as u8;
    image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&[0x0f, 0x02]);
    image[0x20e..0x210].copy_from_slice(&0x200_u16.to_le_bytes());
    let banner = format!("{release} (somebody@somewhere) #1 SMP");
    image[0x400..0x400 + banner.len()].copy_from_slice(banner.as_bytes());
    let mut kernel = noise(200_000);
    if let Some(config) = config {
        kernel.extend(b"IKCFG_ST");
        kernel.extend(gzip(config.as_bytes()));
        kernel.extend(b"IKCFG_ED");
    }
    kernel.extend(noise(1_000));
    let mut payload = pack(&kernel);
    // The kernel's build appends the uncompressed size, gzip's own aside (scripts/Makefile.lib, size_append).
    payload.extend((kernel.len() as u32).to_le_bytes());
    image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    image.extend(payload);
    image
}

/// Bytes that no compression makes smaller, the same every time.
pub fn noise(count: usize) -> Vec<u8> {
    // Knuth's MMIX generator.
    let mut state = 1_u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(count).collect()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn xz(bytes: &[u8]) -> Vec<u8> {
    liblzma::encode_all(bytes, 1).unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// A relocatable ELF file with nothing but a `.modinfo` section.
pub fn module(modinfo: &[&str]) -> Vec<u8> {
    let info: Vec<u8> = modinfo.iter().flat_map(|field| field.bytes().chain([0])).collect();
    let mut elf = object::write::Object::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
    let section = elf.add_section(Vec::new(), b".modinfo".to_vec(), SectionKind::ReadOnlyData);
    elf.set_section_data(section, info, 1);
    elf.write().unwrap()
}

pub enum Member<'a> {
    File(&'a str, &'a [u8]),
    Symlink(&'a str, &'a str),
    Hardlink(&'a str, &'a str),
}

/// A tar archive of exactly these members, however wrong their names are.
pub fn tar(members: &[Member<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for member in members {
        let (name, kind, target, data): (&str, _, &str, &[u8]) = match member {
            Member::File(name, data) => (name, tar::EntryType::Regular, "", data),
            Member::Symlink(name, target) => (name, tar::EntryType::Symlink, target, b""),
            Member::Hardlink(name, target) => (name, tar::EntryType::Link, target, b""),
        };
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        // The library's own setters refuse what is to be tested.
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name.as_bytes());
        old.linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        builder.append(&header, data).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A Debian package with this `data.tar`, compressed to fit `suffix` (`.xz`, `.zst`, `.gz`, or nothing).
pub fn deb(data: &[u8], suffix: &str) -> Vec<u8> {
    let packed = match suffix {
        ".xz" => xz(data),
        ".zst" => zstd(data),
        ".gz" => gzip(data),
        _ => data.to_vec(),
    };
    let mut builder = ar::Builder::new(Vec::new());
    for (name, bytes) in [
        ("debian-binary", b"2.0\n".to_vec()),
        ("control.tar.xz", xz(&tar(&[]))),
        (&format!("data.tar{suffix}"), packed),
    ] {
        let header = ar::Header::new(name.into(), bytes.len() as u64);
        builder.append(&header, bytes.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A package of a kernel as Debian makes it: image, configuration, two modules, and a file of no use here.
pub fn kernel_deb(release: &str, suffix: &str) -> Vec<u8> {
    let image = bzimage(release, None);
    let modules = format!("./lib/modules/{release}");
    let outer = module(&["name=outer", "depends=inner"]);
    let inner = xz(&module(&["name=inner", "depends="]));
    let data = tar(&[
        Member::File(&format!("./boot/vmlinuz-{release}"), &image),
        Member::File(&format!("./boot/config-{release}"), b"CONFIG_PCI=y\n"),
        Member::File(&format!("{modules}/kernel/outer.ko"), &outer),
        Member::File(&format!("{modules}/kernel/inner.ko.xz"), &inner),
        Member::File(&format!("{modules}/modules.builtin"), b"kernel/virtio.ko\n"),
        Member::File("./usr/share/doc/linux/copyright", b"GPL-2"),
        Member::Symlink("./usr/share/bug/linux", "../../../../elsewhere"),
    ]);
    deb(&data, suffix)
}
