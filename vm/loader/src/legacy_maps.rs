//! Maps in a section `maps`, as aya has them and libbpf had before 1.0: some numbers for each. libbpf reads maps only in a
//! section `.maps` whose BTF describes them, so that is what the object gets.

use std::ffi::{CStr, CString, c_int, c_void};
use std::ptr::NonNull;

use anyhow::{Context, Result, ensure};
use libbpf_sys as sys;
use object::elf::{FileHeader64, SHT_PROGBITS, SHT_STRTAB, SHT_SYMTAB, SectionHeader64};
use object::pod::{bytes_of, bytes_of_slice};
use object::read::elf::{FileHeader, SectionHeader, Sym};
use object::{LittleEndian, U32, U64};

const LITTLE: LittleEndian = LittleEndian;
type Header = SectionHeader64<LittleEndian>;

/// What a map's numbers mean, in order (`struct bpf_map_def`).
const FIELDS: [&CStr; 5] = [c"type", c"key_size", c"value_size", c"max_entries", c"map_flags"];

/// A map, and where it is in its section.
struct Map {
    name: CString,
    offset: u32,
    size: u32,
    numbers: [u32; FIELDS.len()],
}

impl Map {
    fn read(name: &[u8], offset: u64, size: u64, section: &[u8]) -> Result<Self> {
        let place = usize::try_from(offset)?..usize::try_from(offset.saturating_add(size))?;
        let words = section.get(place).unwrap_or_default().chunks_exact(4);
        let words: Vec<u32> = words.filter_map(|word| Some(u32::from_le_bytes(word.try_into().ok()?))).collect();
        let numbers = words.first_chunk().copied();
        let numbers = numbers.with_context(|| format!("its map {} is too short", String::from_utf8_lossy(name)))?;
        Ok(Self { name: CString::new(name)?, offset: offset.try_into()?, size: size.try_into()?, numbers })
    }
}

/// The object with its maps as libbpf reads them; none if it has no section `maps`.
pub fn converted(bytes: &[u8]) -> Result<Option<Vec<u8>>> {
    let header = FileHeader64::<LittleEndian>::parse(bytes)?;
    let sections = header.sections(LITTLE, bytes)?;
    let Some((index, section)) = sections.section_by_name(LITTLE, b"maps") else { return Ok(None) };
    let data = section.data(LITTLE, bytes)?;
    let symbols = sections.symbols(LITTLE, bytes, SHT_SYMTAB)?;
    let mut maps = Vec::new();
    for symbol in symbols.iter().filter(|symbol| usize::from(symbol.st_shndx(LITTLE).0) == index.0) {
        let name = symbol.name(LITTLE, symbols.strings())?;
        if symbol.st_size(LITTLE) > 0 {
            maps.push(Map::read(name, symbol.st_value(LITTLE), symbol.st_size(LITTLE), data)?);
        }
    }
    let btf = sections.section_by_name(LITTLE, b".BTF");
    let described = describe(btf.map(|(_, section)| section.data(LITTLE, bytes)).transpose()?, &maps, data.len())?;

    let strings = header.section_strings_index(LITTLE, bytes)?.0;
    let mut names = sections.section(object::SectionIndex(strings))?.data(LITTLE, bytes)?.to_vec();
    let mut named = |name: &CStr| {
        let at = U32::new(LITTLE, names.len() as u32);
        names.extend_from_slice(name.to_bytes_with_nul());
        at
    };
    let mut headers: Vec<Header> = sections.iter().copied().collect();
    // The object's own BTF may tell of the section by its old name, which libbpf then looks for.
    headers.push(Header { sh_type: U32::new(LITTLE, SHT_STRTAB), ..headers[index.0] });
    headers[index.0].sh_name = named(c".maps");
    let btf = btf.map_or(headers.len(), |(index, _)| index.0);
    if btf == headers.len() {
        let sh_type = U32::new(LITTLE, SHT_PROGBITS);
        headers.push(Header { sh_name: named(c".BTF"), sh_type, ..headers[strings] });
    }
    let mut converted = bytes.to_vec();
    append(&mut converted, &mut headers[btf], &described);
    append(&mut converted, &mut headers[strings], &names);
    let mut header = *header;
    header.e_shoff = U64::new(LITTLE, converted.len() as u64);
    header.e_shnum.set(LITTLE, headers.len().try_into()?);
    converted.extend_from_slice(bytes_of_slice(&headers));
    let header = bytes_of(&header);
    converted[..header.len()].copy_from_slice(header);
    Ok(Some(converted))
}

/// Gives a section new contents, at the end of the file.
fn append(file: &mut Vec<u8>, header: &mut Header, contents: &[u8]) {
    header.sh_offset.set(LITTLE, file.len() as u64);
    header.sh_size.set(LITTLE, contents.len() as u64);
    file.extend_from_slice(contents);
    file.resize(file.len().next_multiple_of(8), 0);
}

/// BTF through libbpf.
struct Btf(NonNull<sys::btf>);

impl Drop for Btf {
    fn drop(&mut self) {
        // SAFETY: nobody else has it.
        unsafe { sys::btf__free(self.0.as_ptr()) }
    }
}

/// BTF, the object's own if it has some, in which a section `.maps` has these maps.
fn describe(old: Option<&[u8]>, maps: &[Map], section: usize) -> Result<Vec<u8>> {
    // SAFETY: libbpf copies the bytes, says with NULL that they are no BTF, and takes no pointer for longer than a call.
    unsafe {
        let btf = match old {
            Some(old) => sys::btf__new(old.as_ptr().cast::<c_void>(), old.len().try_into()?),
            None => sys::btf__new_empty(),
        };
        let btf = Btf(NonNull::new(btf).context("its BTF is broken")?);
        let raw = btf.0.as_ptr();
        let number = added(sys::btf__add_int(raw, c"u32".as_ptr(), 4, 0))?;
        let mut variables = Vec::new();
        for map in maps {
            let (name, linkage) = (map.name.as_ptr(), sys::BTF_VAR_GLOBAL_ALLOCATED as c_int);
            variables.push(added(sys::btf__add_var(raw, name, linkage, structure(raw, number, map)?))?);
        }
        added(sys::btf__add_datasec(raw, c".maps".as_ptr(), section.try_into()?))?;
        for (map, variable) in maps.iter().zip(variables) {
            added(sys::btf__add_datasec_var_info(raw, variable, map.offset, map.size))?;
        }
        let mut length = 0;
        let bytes = sys::btf__raw_data(raw, &mut length);
        ensure!(!bytes.is_null(), "libbpf cannot write its BTF");
        Ok(std::slice::from_raw_parts(bytes.cast::<u8>(), length as usize).to_vec())
    }
}

/// A map's description: each number is the length of an array, to which a member of that name points.
unsafe fn structure(btf: *mut sys::btf, number: c_int, map: &Map) -> Result<c_int> {
    // SAFETY: as the caller says.
    unsafe {
        let mut members = Vec::new();
        for (name, length) in FIELDS.iter().zip(map.numbers) {
            let array = added(sys::btf__add_array(btf, number, number, length))?;
            members.push((name, added(sys::btf__add_ptr(btf, array))?));
        }
        // The members lie upon one another, since the definition is shorter than five pointers.
        let structure = added(sys::btf__add_struct(btf, c"".as_ptr(), 8))?;
        for (name, pointer) in members {
            added(sys::btf__add_field(btf, name.as_ptr(), pointer, 0, 0))?;
        }
        Ok(structure)
    }
}

fn added(id: c_int) -> Result<c_int> {
    ensure!(id >= 0, "libbpf cannot add to its BTF: {}", std::io::Error::from_raw_os_error(-id));
    Ok(id)
}
