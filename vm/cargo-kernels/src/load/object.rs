//! Objects as they are on this machine: read without trusting them, and never loaded here.

use std::io::Read;
use std::path::Path;

use memchr::memmem;
use object::LittleEndian;
use object::elf::{EM_BPF, ET_REL, FileHeader64, SHF_EXECINSTR};
use object::read::elf::{FileHeader, SectionHeader};

/// Said of an object that has maps only, as some that others are linked with.
pub const NO_PROGRAM: &str = "is a BPF object without a program";

/// The largest file that is looked at, in bytes.
const LARGEST: u64 = 512 << 20;
/// The largest object that is brought into a guest.
const LARGEST_OBJECT: u64 = 32 << 20;
/// How an ELF file for a little-endian machine of 64 bits begins.
const MAGIC: &[u8] = b"\x7fELF\x02\x01\x01";

pub struct Object {
    /// Its file's name; with a number if that holds several.
    pub name: String,
    pub bytes: Vec<u8>,
}

/// Reads a BPF object, or the objects that an executable embeds; an error is one sentence that says what is wrong.
pub fn read(path: &Path) -> Result<Vec<Object>, String> {
    let shown = path.display();
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(|error| format!("cannot read {shown}: {error}"))?;
    let objects = find(&bytes).map_err(|why| format!("{shown} {why}"))?;
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let several = objects.len() > 1;
    let named = objects.into_iter().enumerate().map(|(index, bytes)| Object {
        name: if several { format!("{name}#{index}") } else { name.to_string() },
        bytes: bytes.to_vec(),
    });
    Ok(named.collect())
}

fn find(bytes: &[u8]) -> Result<Vec<&[u8]>, String> {
    if bytes.len() as u64 > LARGEST {
        return Err(format!("is larger than {} MiB", LARGEST >> 20));
    }
    if !bytes.starts_with(b"\x7fELF") {
        return Err("is no ELF file; a BPF object is what `clang -target bpf -c` makes".into());
    }
    if bytes.get(5) == Some(&2) {
        return Err("is for big-endian machines; these kernels are little-endian".into());
    }
    if !bytes.starts_with(MAGIC) {
        return Err("is no ELF file of 64 bits, as every BPF object is".into());
    }
    if is_bpf(bytes) {
        return whole(bytes).map(|object| vec![object]);
    }
    let inside = memmem::find_iter(bytes, MAGIC).skip(1).map(|start| &bytes[start..]);
    let inside = inside.filter(|rest| is_bpf(rest)).filter_map(|rest| whole(rest).ok());
    let objects: Vec<&[u8]> = inside.collect();
    if objects.is_empty() {
        return Err("is neither a BPF object nor embeds one".into());
    }
    Ok(objects)
}

fn is_bpf(bytes: &[u8]) -> bool {
    let header = FileHeader64::<LittleEndian>::parse(bytes);
    header.is_ok_and(|header| header.e_type(LittleEndian) == ET_REL && header.e_machine(LittleEndian) == EM_BPF)
}

/// The object that begins here and ends with the last of its sections, or with their table.
fn whole(bytes: &[u8]) -> Result<&[u8], String> {
    let broken = |error: object::Error| format!("is no complete ELF file: {error}");
    let header = FileHeader64::<LittleEndian>::parse(bytes).map_err(broken)?;
    let endian = LittleEndian;
    let sections = header.sections(endian, bytes).map_err(broken)?;
    let table = u64::from(header.e_shentsize.get(endian)) * sections.len() as u64;
    let mut end = header.e_shoff.get(endian).saturating_add(table);
    let mut code = false;
    for section in sections.iter() {
        let data = section.data(endian, bytes).map_err(broken)?;
        if let Some((offset, size)) = section.file_range(endian) {
            end = end.max(offset.saturating_add(size));
        }
        code |= !data.is_empty() && section.sh_flags(endian).contains(SHF_EXECINSTR);
    }
    if !code {
        return Err(NO_PROGRAM.into());
    }
    if end > LARGEST_OBJECT {
        return Err(format!("has an object of more than {} MiB", LARGEST_OBJECT >> 20));
    }
    bytes.get(..end as usize).ok_or("is truncated".into())
}

#[cfg(test)]
pub(super) mod tests {
    use object::{Architecture, BinaryFormat, Endianness, SectionKind};
    use proptest::prelude::*;

    use super::*;

    pub fn sample(code: &'static [u8]) -> Vec<u8> {
        let mut elf = object::write::Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
        let section = elf.add_section(Vec::new(), b"code".to_vec(), SectionKind::Text);
        elf.set_section_data(section, code, 8);
        elf.write().unwrap()
    }

    /// A program's last instruction.
    pub const EXIT: &[u8] = &[0x95, 0, 0, 0, 0, 0, 0, 0];

    #[test]
    fn an_object_is_found_by_itself_and_inside_an_executable() {
        let sample = sample(EXIT);
        assert_eq!(find(&sample).unwrap(), [&sample[..]]);
        let mut host = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        // At an odd place, as `include_bytes!` may put it.
        host.truncate(4097);
        host.extend(&sample);
        host.extend(b"further data");
        assert_eq!(find(&host).unwrap(), [&sample[..]]);
    }

    #[test]
    fn what_is_no_object_is_refused_with_the_reason() {
        let sample = sample(EXIT);
        let with = |at: usize, value: u8| {
            let mut bytes = sample.clone();
            bytes[at] = value;
            bytes
        };
        for (bytes, why) in [
            (b"int main".to_vec(), "is no ELF file;"),
            (with(5, 2), "big-endian"),
            (with(4, 1), "64 bits"),
            (sample[..sample.len() - 1].to_vec(), "is no complete ELF file"),
            (self::sample(&[]), "without a program"),
            (std::fs::read("/bin/true").unwrap(), "is neither"),
        ] {
            let said = find(&bytes).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }

    proptest! {
        #[test]
        fn damaged_objects_never_panic(
            changes in prop::collection::vec((0usize..400, any::<u8>()), 1..8), length in 0usize..500
        ) {
            let mut bytes = sample(EXIT);
            for (at, value) in changes {
                if let Some(byte) = bytes.get_mut(at) { *byte = value; }
            }
            bytes.truncate(length);
            if let Ok(objects) = find(&bytes) {
                prop_assert!(objects.iter().all(|object| object.len() <= bytes.len()));
            }
        }
    }
}
