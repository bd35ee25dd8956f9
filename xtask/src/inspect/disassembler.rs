//! BPF instructions as text, in the C-like syntax of LLVM and of the verifier's log.
//!
//! The instruction set is `Documentation/bpf/standardization/instruction-set.rst` in the kernel's sources, which is
//! RFC 9669. An instruction is eight bytes: an opcode, two registers of four bits each, an offset of 16 bits and an
//! immediate of 32 bits; one, the load of 64 bits, takes sixteen. The opcode's low three bits are its class, and the
//! class decides what its other bits mean.

use std::fmt::Write as _;

use super::elf::{Program, Relocation};
use super::helpers;

/// The length of an instruction in bytes, and of half a wide one.
const SLOT: usize = 8;

/// An instruction's fields, by their names in the standard.
#[derive(Debug, Clone, Copy)]
struct Instruction {
    opcode: u8,
    dst: u8,
    src: u8,
    offset: i16,
    imm: i32,
    /// The second half's `imm`, of a wide instruction.
    next_imm: i32,
}

/// The classes (`opcode & 7`).
const LD: u8 = 0;
const LDX: u8 = 1;
const ST: u8 = 2;
const STX: u8 = 3;
const ALU: u8 = 4;
const JMP: u8 = 5;
const JMP32: u8 = 6;
const ALU64: u8 = 7;

/// `LD | IMM | DW`, the wide load.
const LOAD_64: u8 = 0x18;

/// The modes of load and store (`opcode & 0xe0`).
const IMM: u8 = 0x00;
const ABS: u8 = 0x20;
const IND: u8 = 0x40;
const MEM: u8 = 0x60;
const MEMSX: u8 = 0x80;
const ATOMIC: u8 = 0xc0;

/// `opcode & 8`: whether the second operand is a register.
const X: u8 = 8;

/// The operations of arithmetic with two operands (`opcode & 0xf0`), and of their signed variants (`offset` 1).
const ARITHMETIC: &[(u8, i16, &str)] = &[
    (0x00, 0, "+="),
    (0x10, 0, "-="),
    (0x20, 0, "*="),
    (0x30, 0, "/="),
    (0x30, 1, "s/="),
    (0x40, 0, "|="),
    (0x50, 0, "&="),
    (0x60, 0, "<<="),
    (0x70, 0, ">>="),
    (0x90, 0, "%="),
    (0x90, 1, "s%="),
    (0xa0, 0, "^="),
    (0xb0, 0, "="),
    (0xc0, 0, "s>>="),
];

const NEG: u8 = 0x80;
const MOV: u8 = 0xb0;
const END: u8 = 0xd0;

/// `offset` of a move that casts between address spaces.
const ADDR_SPACE_CAST: i16 = 1;

/// The conditions of jumps (`opcode & 0xf0`).
const CONDITIONS: &[(u8, &str)] = &[
    (0x10, "=="),
    (0x20, ">"),
    (0x30, ">="),
    (0x40, "&"),
    (0x50, "!="),
    (0x60, "s>"),
    (0x70, "s>="),
    (0xa0, "<"),
    (0xb0, "<="),
    (0xc0, "s<"),
    (0xd0, "s<="),
];

const JA: u8 = 0x00;
const CALL: u8 = 0x80;
const EXIT: u8 = 0x90;
const MAY_GOTO: u8 = 0xe0;

/// `JMP | CALL` of a number, and `ALU64 | MOV` of one.
const CALL_IMMEDIATE: u8 = 0x85;
const MOVE_IMMEDIATE: u8 = 0xb7;

/// What a call calls (`src`).
const CALL_HELPER: u8 = 0;
const CALL_FUNCTION: u8 = 1;
const CALL_KFUNC: u8 = 2;

/// The operations of atomics (`imm`): without fetching the old value the operator, with it the name.
const ATOMICS: &[(i32, &str, &str)] =
    &[(0x00, "+=", "add"), (0x40, "|=", "or"), (0x50, "&=", "and"), (0xa0, "^=", "xor")];

const FETCH: i32 = 0x01;
const XCHG: i32 = 0xe1;
const CMPXCHG: i32 = 0xf1;
const LOAD_ACQUIRE: i32 = 0x100;
const STORE_RELEASE: i32 = 0x110;

/// A whole section, one line an instruction: its number, its bytes, its text; functions before and relocations after
/// the instruction they belong to.
pub fn disassemble(program: &Program<'_>) -> String {
    let mut text = String::new();
    let mut start = 0;
    while start < program.bytes.len() {
        let bytes = instruction_bytes(&program.bytes[start..]);
        if let Some((_, name)) = program.functions.iter().find(|(at, _)| *at == start as u64) {
            let _ = writeln!(text, "\n{start:016x} <{name}>:");
        }
        let shown = match decode(bytes) {
            Some(instruction) => {
                instruction.text() + &comment(program, start, instruction).unwrap_or_default()
            }
            None => "<cut off>".into(),
        };
        let raw: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let _ = writeln!(text, "{:8}:  {:<47}  {shown}", start / SLOT, raw.join(" "));
        let end = start + bytes.len();
        for (at, Relocation { kind, symbol }) in &program.relocations {
            if (start as u64..end as u64).contains(at) {
                let _ = writeln!(text, "{:10}{at:016x}:  {kind}  {symbol}", "");
            }
        }
        start = end;
    }
    text
}

/// What an instruction's numbers stand for: the place that it jumps to, the helper that it calls, the text that it
/// loads.
fn comment(program: &Program<'_>, start: usize, instruction: Instruction) -> Option<String> {
    if instruction.is_jump() {
        let next = i64::try_from(start + SLOT).ok()?;
        let target = next + i64::from(instruction.distance()) * SLOT as i64;
        return Some(format!(" <{}>", place(program, target.try_into().ok()?)));
    }
    let meaning = match (instruction.opcode, instruction.src) {
        (CALL_IMMEDIATE, CALL_HELPER) => helpers::name(instruction.imm)?.to_owned(),
        (CALL_IMMEDIATE, CALL_FUNCTION) => "a function of the program's".to_owned(),
        (CALL_IMMEDIATE, CALL_KFUNC) => "a function of the kernel's (kfunc)".to_owned(),
        (LOAD_64, 0) => readable(&instruction.wide().to_le_bytes())?,
        (MOVE_IMMEDIATE, _) => readable(&instruction.imm.to_le_bytes())?,
        _ => return None,
    };
    Some(format!("  ; {meaning}"))
}

/// A place in a section, as an offset in bytes from the function that it is in.
fn place(program: &Program<'_>, offset: u64) -> String {
    let function = program.functions.iter().filter(|(at, _)| *at <= offset).max();
    match function {
        Some((at, name)) => format!("{name}+{:#x}", offset - at),
        None => format!("{:#x}", offset),
    }
}

/// Bytes as a string, if they look like one: a constant of this kind is a piece of text that is built on the stack.
fn readable(bytes: &[u8]) -> Option<String> {
    let shown = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ';
    bytes.iter().all(shown).then(|| format!("{:?}", String::from_utf8_lossy(bytes)))
}

/// The first instruction's bytes: 16 of a wide one, fewer than 8 where the section is cut off.
fn instruction_bytes(bytes: &[u8]) -> &[u8] {
    let length = if bytes.first() == Some(&LOAD_64) { 2 * SLOT } else { SLOT };
    &bytes[..length.min(bytes.len())]
}

fn decode(bytes: &[u8]) -> Option<Instruction> {
    let slot = |start: usize| bytes.get(start..start + SLOT);
    let imm = |slot: &[u8]| i32::from_le_bytes([slot[4], slot[5], slot[6], slot[7]]);
    let first = slot(0)?;
    let second = if first[0] == LOAD_64 { Some(slot(SLOT)?) } else { None };
    Some(Instruction {
        opcode: first[0],
        dst: first[1] & 0xf,
        src: first[1] >> 4,
        offset: i16::from_le_bytes([first[2], first[3]]),
        imm: imm(first),
        next_imm: second.map_or(0, imm),
    })
}

impl Instruction {
    fn class(self) -> u8 {
        self.opcode & 0x07
    }

    /// The operation of arithmetic and jumps.
    fn operation(self) -> u8 {
        self.opcode & 0xf0
    }

    /// The mode of loads and stores.
    fn mode(self) -> u8 {
        self.opcode & 0xe0
    }

    /// The size of what is loaded or stored, in bits.
    fn bits(self) -> u8 {
        match self.opcode & 0x18 {
            0x00 => 32,
            0x08 => 16,
            0x10 => 8,
            _ => 64,
        }
    }

    /// The instruction in the syntax of LLVM.
    fn text(self) -> String {
        let text = match self.class() {
            LD => self.load_special(),
            LDX => self.load(),
            ST => self.store_immediate(),
            STX => self.store(),
            ALU => self.arithmetic('w'),
            ALU64 => self.arithmetic('r'),
            JMP => self.jump('r'),
            JMP32 => self.jump('w'),
            _ => None,
        };
        text.unwrap_or_else(|| "<unknown>".into())
    }

    /// The constant of a wide load.
    fn wide(self) -> i64 {
        i64::from(self.next_imm) << 32 | i64::from(self.imm as u32)
    }

    fn load_special(self) -> Option<String> {
        let (dst, src, bits) = (self.dst, self.src, self.bits());
        match (self.mode(), bits) {
            (IMM, 64) => Some(format!("r{dst} = {} ll", hex(self.wide()))),
            (ABS, 8 | 16 | 32) => Some(format!("r0 = *(u{bits} *)skb[{}]", hex(self.imm))),
            (IND, 8 | 16 | 32) => Some(format!("r0 = *(u{bits} *)skb[r{src}]")),
            _ => None,
        }
    }

    fn load(self) -> Option<String> {
        let sign = match self.mode() {
            MEM => 'u',
            MEMSX if self.bits() < 64 => 's',
            _ => return None,
        };
        let address = self.address(self.src);
        Some(format!("r{} = *({sign}{} *)({address})", self.dst, self.bits()))
    }

    fn store_immediate(self) -> Option<String> {
        let address = self.address(self.dst);
        (self.mode() == MEM)
            .then(|| format!("*(u{} *)({address}) = {}", self.bits(), hex(self.imm)))
    }

    fn store(self) -> Option<String> {
        let address = self.address(self.dst);
        match self.mode() {
            MEM => Some(format!("*(u{} *)({address}) = r{}", self.bits(), self.src)),
            ATOMIC => self.atomic(),
            _ => None,
        }
    }

    fn atomic(self) -> Option<String> {
        let bits = self.bits();
        let address = self.address(self.dst);
        let (w, infix) = if bits == 64 { ('r', "") } else { ('w', "32") };
        let (dst, src) = (self.dst, self.src);
        match self.imm {
            LOAD_ACQUIRE => {
                Some(format!("{w}{dst} = load_acquire((u{bits} *)({}))", self.address(src)))
            }
            STORE_RELEASE => Some(format!("store_release((u{bits} *)({address}), {w}{src})")),
            _ if bits < 32 => None,
            XCHG => Some(format!("{w}{src} = xchg{infix}_{bits}({address}, {w}{src})")),
            CMPXCHG => Some(format!("{w}0 = cmpxchg{infix}_{bits}({address}, {w}0, {w}{src})")),
            imm => {
                let (_, operator, name) =
                    ATOMICS.iter().find(|(number, ..)| *number == imm & !FETCH)?;
                Some(if imm & FETCH == 0 {
                    format!("lock *(u{bits} *)({address}) {operator} {w}{src}")
                } else {
                    format!("{w}{src} = atomic_fetch_{name}((u{bits} *)({address}), {w}{src})")
                })
            }
        }
    }

    fn arithmetic(self, w: char) -> Option<String> {
        let (dst, src) = (self.dst, self.src);
        let from_register = self.opcode & X != 0;
        match self.operation() {
            NEG if !from_register => Some(format!("{w}{dst} = -{w}{dst}")),
            END => self.byte_swap(),
            MOV if from_register && self.offset != 0 => self.converting_move(w),
            operation => {
                let (.., operator) = ARITHMETIC
                    .iter()
                    .find(|(number, offset, _)| (*number, *offset) == (operation, self.offset))?;
                let operand = if from_register { format!("{w}{src}") } else { hex(self.imm) };
                Some(format!("{w}{dst} {operator} {operand}"))
            }
        }
    }

    fn byte_swap(self) -> Option<String> {
        let to = match (self.class(), self.opcode & X) {
            (ALU, 0) => "le",
            (ALU, _) => "be",
            (ALU64, 0) => "bswap",
            _ => return None,
        };
        let dst = self.dst;
        matches!(self.imm, 16 | 32 | 64).then(|| format!("r{dst} = {to}{} r{dst}", self.imm))
    }

    /// A move that extends the sign, or casts between address spaces.
    fn converting_move(self, w: char) -> Option<String> {
        let (dst, src) = (self.dst, self.src);
        match (self.class(), self.offset) {
            (ALU, 8 | 16) | (ALU64, 8 | 16 | 32) => {
                Some(format!("{w}{dst} = (s{}){w}{src}", self.offset))
            }
            (ALU64, ADDR_SPACE_CAST) => {
                let (to, from) = (self.imm >> 16, self.imm & 0xffff);
                Some(format!("r{dst} = addr_space_cast(r{src}, {}, {})", hex(to), hex(from)))
            }
            _ => None,
        }
    }

    fn jump(self, w: char) -> Option<String> {
        let from_register = self.opcode & X != 0;
        let to = signed_hex(self.distance());
        match (self.operation(), self.class(), from_register) {
            (JA, JMP, false) => Some(format!("goto {to}")),
            (JA, JMP32, false) => Some(format!("gotol {to}")),
            (JA, JMP, true) => Some(format!("gotox r{}", self.dst)),
            (CALL, JMP, false) => Some(format!("call {}", hex(self.imm))),
            (CALL, JMP, true) => Some(format!("callx r{}", self.dst)),
            (EXIT, JMP, false) => Some("exit".into()),
            (MAY_GOTO, JMP, false) => Some(format!("may_goto {to}")),
            (condition, _, _) => {
                let (_, operator) = CONDITIONS.iter().find(|(number, _)| *number == condition)?;
                let operand =
                    if from_register { format!("{w}{}", self.src) } else { hex(self.imm) };
                Some(format!("if {w}{} {operator} {operand} goto {to}", self.dst))
            }
        }
    }

    /// How many instructions a jump passes over; meaningless of what is no jump.
    fn distance(self) -> i32 {
        match (self.class(), self.operation()) {
            (JMP32, JA) => self.imm,
            _ => self.offset.into(),
        }
    }

    /// Whether it goes on elsewhere, at a place that it names.
    fn is_jump(self) -> bool {
        matches!(self.class(), JMP | JMP32)
            && !matches!((self.operation(), self.opcode & X), (CALL | EXIT, _) | (JA, X))
    }

    fn address(self, register: u8) -> String {
        let sign = if self.offset < 0 { '-' } else { '+' };
        format!("r{register} {sign} {:#x}", self.offset.unsigned_abs())
    }
}

/// As LLVM prints constants: `0x2a`, `-0x1`.
fn hex(number: impl Into<i64>) -> String {
    let number = number.into();
    let sign = if number < 0 { "-" } else { "" };
    format!("{sign}{:#x}", number.unsigned_abs())
}

/// As LLVM prints distances: `+0x2a`, `-0x1`.
fn signed_hex(number: i32) -> String {
    format!("{}{:#x}", if number < 0 { '-' } else { '+' }, number.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An instruction from its fields.
    fn slot(opcode: u8, dst: u8, src: u8, offset: i16, imm: i32) -> Vec<u8> {
        let mut bytes = vec![opcode, src << 4 | dst];
        bytes.extend(offset.to_le_bytes());
        bytes.extend(imm.to_le_bytes());
        bytes
    }

    fn text(bytes: &[u8]) -> String {
        decode(bytes).map_or_else(|| "<cut off>".into(), Instruction::text)
    }

    /// Checked against `llvm-objdump -d` where LLVM 14 knows the instruction, else against the RFC and LLVM's tests.
    #[test]
    fn instructions_are_written_as_llvm_writes_them() {
        for (bytes, expected) in [
            // Arithmetic.
            (slot(0x07, 3, 0, 0, -16), "r3 += -0x10"),
            (slot(0x0f, 1, 2, 0, 0), "r1 += r2"),
            (slot(0x1c, 1, 2, 0, 0), "w1 -= w2"),
            (slot(0x27, 1, 0, 0, 3), "r1 *= 0x3"),
            (slot(0x3f, 1, 2, 0, 0), "r1 /= r2"),
            (slot(0x3f, 1, 2, 1, 0), "r1 s/= r2"),
            (slot(0x47, 1, 0, 0, 8), "r1 |= 0x8"),
            (slot(0x57, 1, 0, 0, 255), "r1 &= 0xff"),
            (slot(0x67, 1, 0, 0, 32), "r1 <<= 0x20"),
            (slot(0x77, 1, 0, 0, 32), "r1 >>= 0x20"),
            (slot(0xc7, 1, 0, 0, 32), "r1 s>>= 0x20"),
            (slot(0x84, 1, 0, 0, 0), "w1 = -w1"),
            (slot(0x94, 1, 0, 0, 7), "w1 %= 0x7"),
            (slot(0x97, 1, 0, 1, 7), "r1 s%= 0x7"),
            (slot(0xaf, 1, 2, 0, 0), "r1 ^= r2"),
            (slot(0xb7, 1, 0, 0, 33), "r1 = 0x21"),
            (slot(0xbf, 1, 10, 0, 0), "r1 = r10"),
            (slot(0xbc, 1, 2, 0, 0), "w1 = w2"),
            (slot(0xbf, 1, 2, 8, 0), "r1 = (s8)r2"),
            (slot(0xbf, 1, 2, 32, 0), "r1 = (s32)r2"),
            (slot(0xbc, 1, 2, 16, 0), "w1 = (s16)w2"),
            (slot(0xbf, 1, 2, 1, 1 << 16), "r1 = addr_space_cast(r2, 0x1, 0x0)"),
            (slot(0xd4, 1, 0, 0, 16), "r1 = le16 r1"),
            (slot(0xdc, 1, 0, 0, 64), "r1 = be64 r1"),
            (slot(0xd7, 1, 0, 0, 32), "r1 = bswap32 r1"),
            // Loads and stores.
            (slot(0x61, 1, 10, -8, 0), "r1 = *(u32 *)(r10 - 0x8)"),
            (slot(0x71, 1, 2, 0, 0), "r1 = *(u8 *)(r2 + 0x0)"),
            (slot(0x79, 1, 2, i16::MIN, 0), "r1 = *(u64 *)(r2 - 0x8000)"),
            (slot(0x89, 1, 2, 4, 0), "r1 = *(s16 *)(r2 + 0x4)"),
            (slot(0x7a, 10, 0, -16, 5), "*(u64 *)(r10 - 0x10) = 0x5"),
            (slot(0x6b, 10, 1, -4, 0), "*(u16 *)(r10 - 0x4) = r1"),
            (slot(0x30, 0, 0, 0, 12), "r0 = *(u8 *)skb[0xc]"),
            (slot(0x40, 0, 7, 0, 0), "r0 = *(u32 *)skb[r7]"),
            // Atomics.
            (slot(0xdb, 1, 2, 0, 0x00), "lock *(u64 *)(r1 + 0x0) += r2"),
            (slot(0xc3, 1, 2, 4, 0xa0), "lock *(u32 *)(r1 + 0x4) ^= w2"),
            (slot(0xdb, 1, 2, 0, 0x41), "r2 = atomic_fetch_or((u64 *)(r1 + 0x0), r2)"),
            (slot(0xc3, 1, 2, 0, 0x51), "w2 = atomic_fetch_and((u32 *)(r1 + 0x0), w2)"),
            (slot(0xdb, 1, 2, 0, 0xe1), "r2 = xchg_64(r1 + 0x0, r2)"),
            (slot(0xc3, 1, 2, 0, 0xe1), "w2 = xchg32_32(r1 + 0x0, w2)"),
            (slot(0xdb, 1, 2, 0, 0xf1), "r0 = cmpxchg_64(r1 + 0x0, r0, r2)"),
            (slot(0xc3, 1, 2, 0, 0xf1), "w0 = cmpxchg32_32(r1 + 0x0, w0, w2)"),
            (slot(0xcb, 1, 2, 2, 0x100), "w1 = load_acquire((u16 *)(r2 + 0x2))"),
            (slot(0xdb, 1, 2, 0, 0x110), "store_release((u64 *)(r1 + 0x0), r2)"),
            // Jumps.
            (slot(0x05, 0, 0, -2, 0), "goto -0x2"),
            (slot(0x06, 0, 0, 0, 70_000), "gotol +0x11170"),
            (slot(0x15, 1, 0, 3, 0), "if r1 == 0x0 goto +0x3"),
            (slot(0x1e, 1, 2, 3, 0), "if w1 == w2 goto +0x3"),
            (slot(0x65, 1, 0, 3, -1), "if r1 s> -0x1 goto +0x3"),
            (slot(0xad, 1, 2, 3, 0), "if r1 < r2 goto +0x3"),
            (slot(0x45, 1, 0, 3, 64), "if r1 & 0x40 goto +0x3"),
            (slot(0xe5, 0, 0, 1, 0), "may_goto +0x1"),
            (slot(0x0d, 1, 0, 0, 0), "gotox r1"),
            (slot(0x85, 0, 0, 0, 6), "call 0x6"),
            (slot(0x85, 0, 1, 0, -1), "call -0x1"),
            (slot(0x8d, 1, 0, 0, 0), "callx r1"),
            (slot(0x95, 0, 0, 0, 0), "exit"),
        ] {
            assert_eq!(text(&bytes), expected, "{bytes:02x?}");
        }
    }

    #[test]
    fn a_wide_load_takes_two_slots() {
        let bytes = [slot(LOAD_64, 1, 0, 0, -1), slot(0, 0, 0, 0, 0x1234)].concat();
        assert_eq!(text(&bytes), "r1 = 0x1234ffffffff ll");
        assert_eq!(text(&bytes[..12]), "<cut off>");
    }

    #[test]
    fn what_is_no_instruction_is_unknown() {
        for bytes in [
            slot(0xff, 0, 0, 0, 0),
            slot(0x00, 0, 0, 0, 0),
            slot(0x3f, 1, 2, 7, 0),
            slot(0xdb, 1, 2, 0, 0x77),
            slot(0xd3, 1, 2, 0, 0xe1),
            slot(0xd4, 1, 0, 0, 17),
            slot(0x99, 1, 2, 0, 0),
        ] {
            assert_eq!(text(&bytes), "<unknown>", "{bytes:02x?}");
        }
    }

    #[test]
    fn no_bytes_make_it_fail() {
        for opcode in 0..=u8::MAX {
            for extreme in [i32::MIN, -1, 0, i32::MAX] {
                let instruction = slot(opcode, 15, 15, extreme as i16, extreme);
                let bytes = [instruction.clone(), instruction].concat();
                for length in 0..=bytes.len() {
                    let program = program(&bytes[..length]);
                    assert_eq!(disassemble(&program).is_empty(), length == 0);
                }
            }
        }
    }

    fn program(bytes: &[u8]) -> Program<'_> {
        let relocation = Relocation { kind: "R_BPF_64_64".into(), symbol: ".rodata".into() };
        Program {
            section: "tracepoint/a/b".into(),
            bytes,
            functions: vec![(0, "first".into()), (40, "second".into())],
            relocations: vec![(8, relocation)],
        }
    }

    #[test]
    fn a_listing_has_labels_comments_and_relocations() {
        let hello = i32::from_le_bytes(*b"Hell");
        let bytes = [
            slot(0x85, 0, 0, 0, 6),
            slot(LOAD_64, 1, 0, 0, hello),
            slot(0, 0, 0, 0, i32::from_le_bytes(*b"o, W")),
            slot(0x15, 1, 0, 1, 0),
            slot(0x95, 0, 0, 0, 0),
            slot(0x05, 0, 0, -2, 0),
        ]
        .concat();
        let expected = r#"
0000000000000000 <first>:
       0:  85 00 00 00 06 00 00 00                          call 0x6  ; bpf_trace_printk
       1:  18 01 00 00 48 65 6c 6c 00 00 00 00 6f 2c 20 57  r1 = 0x57202c6f6c6c6548 ll  ; "Hello, W"
          0000000000000008:  R_BPF_64_64  .rodata
       3:  15 01 01 00 00 00 00 00                          if r1 == 0x0 goto +0x1 <second+0x0>
       4:  95 00 00 00 00 00 00 00                          exit

0000000000000028 <second>:
       5:  05 00 fe ff 00 00 00 00                          goto -0x2 <first+0x20>
"#;
        assert_eq!(disassemble(&program(&bytes)), expected);
    }
}
