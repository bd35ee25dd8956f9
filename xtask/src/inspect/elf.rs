//! A BPF object file: its sections and symbols as tables, its programs as bytes.

use anyhow::{Context, Result, bail};
use object::elf::{self, FileHeader64, SymbolSection};
use object::read::elf::{ElfFile, SectionHeader as _, Sym as _};
use object::{
    LittleEndian, Object as _, ObjectSection as _, ObjectSymbol as _, RelocationFlags,
    RelocationTarget,
};

/// The headers of the only BPF objects in use: those for little-endian machines. (s390x has big-endian ones.)
type Header = FileHeader64<LittleEndian>;

/// The names of the format's constants.
const NAMES: &elf::Names = elf::machine_names(elf::EM_BPF);

/// The letters that `readelf` has for a section's flags.
const FLAG_LETTERS: &[(elf::SectionFlags, char)] = &[
    (elf::SHF_WRITE, 'W'),
    (elf::SHF_ALLOC, 'A'),
    (elf::SHF_EXECINSTR, 'X'),
    (elf::SHF_MERGE, 'M'),
    (elf::SHF_STRINGS, 'S'),
    (elf::SHF_INFO_LINK, 'I'),
    (elf::SHF_LINK_ORDER, 'L'),
    (elf::SHF_GROUP, 'G'),
    (elf::SHF_EXCLUDE, 'E'),
];

/// `Documentation/bpf/llvm_reloc.rst`.
const RELOCATIONS: &[(u32, &str)] = &[
    (1, "R_BPF_64_64"),
    (2, "R_BPF_64_ABS64"),
    (3, "R_BPF_64_ABS32"),
    (4, "R_BPF_64_NODYLD32"),
    (10, "R_BPF_64_32"),
];

/// A parsed object file.
pub struct Object<'data> {
    file: ElfFile<'data, Header>,
}

/// A section with instructions in it: one program, or several functions.
#[derive(Debug)]
pub struct Program<'data> {
    /// The section's name, which tells libbpf the program's type and what to attach it to.
    pub section: String,
    /// The instructions.
    pub bytes: &'data [u8],
    /// The functions that begin in it, by offset in bytes.
    pub functions: Vec<(u64, String)>,
    /// What is to be filled in before it can run, by offset in bytes.
    pub relocations: Vec<(u64, Relocation)>,
}

/// A place to be filled in by who loads the program.
#[derive(Debug)]
pub struct Relocation {
    /// How, by its name in the file format.
    pub kind: String,
    /// With the address of what.
    pub symbol: String,
}

impl<'data> Object<'data> {
    /// Parses a file.
    ///
    /// # Errors
    ///
    /// When it is no little-endian BPF object.
    pub fn parse(bytes: &'data [u8]) -> Result<Self> {
        let file = ElfFile::<Header>::parse(bytes)?;
        let machine = file.elf_header().e_machine.get(LittleEndian);
        if machine != elf::EM_BPF {
            bail!("it is made for another machine than BPF ({})", machine.0);
        }
        Ok(Self { file })
    }

    /// The table of sections, as `readelf -S` has it.
    pub fn sections(&self) -> Result<Vec<[String; 9]>> {
        self.file
            .sections()
            .map(|section| {
                let header = section.elf_section_header();
                let kind = header.sh_type(LittleEndian);
                Ok([
                    section.index().0.to_string(),
                    section.name()?.to_owned(),
                    name(NAMES.sht.name(kind), "SHT_", kind.0),
                    format!("{:06x}", header.sh_offset(LittleEndian)),
                    format!("{:06x}", header.sh_size(LittleEndian)),
                    flags(header.sh_flags(LittleEndian)),
                    header.sh_link(LittleEndian).to_string(),
                    header.sh_info(LittleEndian).to_string(),
                    header.sh_addralign(LittleEndian).to_string(),
                ])
            })
            .collect()
    }

    /// The table of symbols, as `readelf -s` has it, with the section's name in place of its number.
    pub fn symbols(&self) -> Result<Vec<[String; 7]>> {
        self.file
            .symbols()
            .map(|symbol| {
                let raw = symbol.elf_symbol();
                let (kind, bind) = (raw.st_type(), raw.st_bind());
                let section = match raw.st_shndx(LittleEndian) {
                    elf::SHN_UNDEF => "UND".into(),
                    elf::SHN_ABS => "ABS".into(),
                    SymbolSection(index) => {
                        let index = object::SectionIndex(index.into());
                        self.file.section_by_index(index)?.name()?.to_owned()
                    }
                };
                Ok([
                    symbol.index().0.to_string(),
                    format!("{:x}", symbol.address()),
                    symbol.size().to_string(),
                    name(NAMES.stt.name(kind), "STT_", kind.0),
                    name(NAMES.stb.name(bind), "STB_", bind.0),
                    section,
                    symbol.name()?.to_owned(),
                ])
            })
            .collect()
    }

    /// The sections with instructions.
    pub fn programs(&self) -> Result<Vec<Program<'data>>> {
        let mut programs = Vec::new();
        for section in self.file.sections() {
            let flags = section.elf_section_header().sh_flags(LittleEndian);
            if !flags.contains(elf::SHF_EXECINSTR) || section.size() == 0 {
                continue;
            }
            let mut relocations = Vec::new();
            for (offset, relocation) in section.relocations() {
                relocations.push((offset, self.relocation(&relocation)?));
            }
            programs.push(Program {
                section: section.name()?.to_owned(),
                bytes: section.data()?,
                functions: self.functions(section.index())?,
                relocations,
            });
        }
        Ok(programs)
    }

    fn functions(&self, section: object::SectionIndex) -> Result<Vec<(u64, String)>> {
        self.file
            .symbols()
            .filter(|symbol| symbol.section_index() == Some(section))
            .filter(|symbol| symbol.elf_symbol().st_type() == elf::STT_FUNC)
            .map(|symbol| Ok((symbol.address(), symbol.name()?.to_owned())))
            .collect()
    }

    fn relocation(&self, relocation: &object::Relocation) -> Result<Relocation> {
        let RelocationFlags::Elf { r_type } = relocation.flags() else {
            bail!("a relocation is none of ELF's");
        };
        let RelocationTarget::Symbol(index) = relocation.target() else {
            bail!("a relocation has no symbol");
        };
        let symbol = self.file.symbol_by_index(index).context("a relocation's symbol")?;
        // Sections are symbols without a name of their own.
        let named = match symbol.section_index() {
            Some(section) if symbol.name()?.is_empty() => {
                self.file.section_by_index(section)?.name()?.to_owned()
            }
            _ => symbol.name()?.to_owned(),
        };
        let known = RELOCATIONS.iter().find(|(number, _)| *number == r_type.0);
        Ok(Relocation { kind: name(known.map(|(_, name)| *name), "", r_type.0), symbol: named })
    }
}

/// A constant's name without its prefix, or its number where it has no name.
fn name(known: Option<&str>, prefix: &str, number: impl std::fmt::Display) -> String {
    match known {
        Some(name) => name.strip_prefix(prefix).unwrap_or(name).to_owned(),
        None => number.to_string(),
    }
}

fn flags(flags: elf::SectionFlags) -> String {
    FLAG_LETTERS
        .iter()
        .filter(|(flag, _)| flags.contains(*flag))
        .map(|(_, letter)| letter)
        .collect()
}
