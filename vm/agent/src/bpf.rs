//! What the kernel tells of BPF programs, through bpf(2).
//!
//! The layouts are those of include/uapi/linux/bpf.h. They only ever grow at the end, and what is asked for in vain
//! stays zero.

use std::io;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

// enum bpf_cmd
const BPF_PROG_GET_NEXT_ID: libc::c_int = 11;
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_LINK_GET_FD_BY_ID: libc::c_int = 30;
const BPF_LINK_GET_NEXT_ID: libc::c_int = 31;

/// The part of `union bpf_attr` that walks and opens by id.
#[repr(C)]
#[derive(Default)]
struct IdAttr {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// The part of `union bpf_attr` that asks about an open object.
#[repr(C)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// `struct bpf_prog_info`, up to what was added in 5.16.
#[repr(C)]
#[derive(Default)]
pub struct ProgramInfo {
    pub kind: u32,
    pub id: u32,
    pub tag: [u8; 8],
    pub jited_bytes: u32,
    pub xlated_bytes: u32,
    pub from_jited_insns_to_map_ids: [u64; 5],
    pub name: [u8; 16],
    pub from_ifindex_to_prog_tags: [u64; 14],
    pub run_time_ns: u64,
    pub run_count: u64,
    pub recursion_misses: u64,
    /// Since 5.16.
    pub verified_insns: u32,
    pub attach_btf_obj_id: u32,
}

// Fields are where the kernel has them.
const _: () = assert!(offset_of!(ProgramInfo, name) == 64 && offset_of!(ProgramInfo, run_time_ns) == 192);
const _: () = assert!(offset_of!(ProgramInfo, verified_insns) == 216 && size_of::<ProgramInfo>() == 224);

/// The beginning of `struct bpf_link_info`.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
}

pub fn programs() -> io::Result<Vec<u32>> {
    ids(BPF_PROG_GET_NEXT_ID)
}

pub fn open_program(id: u32) -> io::Result<OwnedFd> {
    open(BPF_PROG_GET_FD_BY_ID, id)
}

pub fn program_info(program: &OwnedFd) -> io::Result<ProgramInfo> {
    // SAFETY: it is a program's.
    unsafe { info(program) }
}

/// The ids of the programs that links refer to; none on a kernel that cannot tell (before 5.8).
pub fn linked_programs() -> Vec<u32> {
    let links = ids(BPF_LINK_GET_NEXT_ID).unwrap_or_default();
    // SAFETY: it is a link's.
    let info = |link| unsafe { info::<LinkInfo>(&open(BPF_LINK_GET_FD_BY_ID, link).ok()?).ok() };
    links.into_iter().filter_map(info).map(|info| info.program).collect()
}

fn ids(command: libc::c_int) -> io::Result<Vec<u32>> {
    let mut ids = Vec::new();
    let mut attr = IdAttr::default();
    loop {
        // SAFETY: these commands read `id` and write `next_id`.
        match unsafe { bpf(command, &mut attr) } {
            Ok(_) => ids.push(attr.next_id),
            // ENOENT: there is none after that.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(ids),
            Err(error) => return Err(error),
        }
        attr.id = attr.next_id;
    }
}

fn open(command: libc::c_int, id: u32) -> io::Result<OwnedFd> {
    let mut attr = IdAttr { id, ..IdAttr::default() };
    // SAFETY: these commands read `id` and `open_flags`, and return a descriptor of ours.
    unsafe { Ok(OwnedFd::from_raw_fd(bpf(command, &mut attr)?)) }
}

/// # Safety
/// `Info` must be the kernel's structure for objects of this kind.
unsafe fn info<Info: Default>(object: &OwnedFd) -> io::Result<Info> {
    let mut info = Info::default();
    let bpf_fd = object.as_raw_fd().unsigned_abs();
    let mut attr = InfoAttr { bpf_fd, info_len: size_of::<Info>() as u32, info: &raw mut info as u64 };
    // SAFETY: the kernel writes at most `info_len` bytes to `info`; it reads the pointers in it, which are null.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)? };
    Ok(info)
}

/// # Safety
/// `attr` must be what the command expects, and point to what it expects.
unsafe fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<RawFd> {
    // SAFETY: the caller's.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as RawFd) }
}
