//! What the kernel tells of BPF programs, through bpf(2).
//!
//! The layouts are those of include/uapi/linux/bpf.h. They only ever grow at the end, and the kernel
//! says how much of a structure it knows.

use std::io;
use std::mem::{offset_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

// enum bpf_cmd
const BPF_PROG_GET_NEXT_ID: libc::c_int = 11;
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_LINK_GET_FD_BY_ID: libc::c_int = 30;
const BPF_LINK_GET_NEXT_ID: libc::c_int = 31;

// enum bpf_prog_type
const BPF_PROG_TYPE_KPROBE: u32 = 2;
const BPF_PROG_TYPE_TRACEPOINT: u32 = 5;
const BPF_PROG_TYPE_PERF_EVENT: u32 = 7;

/// Program types that are attached to a perf event: by `ioctl(PERF_EVENT_IOC_SET_BPF)` before 5.15,
/// by a link since.
const PERF_EVENT_TYPES: [u32; 3] = [BPF_PROG_TYPE_KPROBE, BPF_PROG_TYPE_TRACEPOINT, BPF_PROG_TYPE_PERF_EVENT];

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
#[derive(Default)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// `struct bpf_prog_info`, up to the last field that is of use here.
#[repr(C)]
struct ProgInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    jited_prog_len: u32,
    xlated_prog_len: u32,
    jited_prog_insns: u64,
    xlated_prog_insns: u64,
    load_time: u64,
    created_by_uid: u32,
    nr_map_ids: u32,
    map_ids: u64,
    name: [u8; 16],
    ifindex: u32,
    flags: u32,
    netns_dev: u64,
    netns_ino: u64,
    nr_jited_ksyms: u32,
    nr_jited_func_lens: u32,
    jited_ksyms: u64,
    jited_func_lens: u64,
    btf_id: u32,
    func_info_rec_size: u32,
    func_info: u64,
    nr_func_info: u32,
    nr_line_info: u32,
    line_info: u64,
    jited_line_info: u64,
    nr_jited_line_info: u32,
    line_info_rec_size: u32,
    jited_line_info_rec_size: u32,
    nr_prog_tags: u32,
    prog_tags: u64,
    run_time_ns: u64,
    run_cnt: u64,
    recursion_misses: u64,
    verified_insns: u32,
    attach_btf_obj_id: u32,
}

/// The start of `struct bpf_link_info`.
#[repr(C)]
struct LinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    reserved: u32,
}

/// A structure, and how much of it this kernel knows.
struct Known<T> {
    info: T,
    bytes: usize,
}

impl<T> Known<T> {
    /// A field, unless it lies beyond what the kernel knows.
    fn field<V>(&self, offset: usize, value: impl FnOnce(&T) -> V) -> Option<V> {
        (offset + size_of::<V>() <= self.bytes).then(|| value(&self.info))
    }
}

/// A loaded BPF program.
pub struct Program {
    id: u32,
    fd: OwnedFd,
    info: Known<ProgInfo>,
}

impl Program {
    /// Opens the program with this id.
    pub fn open(id: u32) -> io::Result<Self> {
        let fd = open(BPF_PROG_GET_FD_BY_ID, id)?;
        // SAFETY: all bits zero is a valid value of a structure of integers.
        let info = info(&fd, unsafe { zeroed::<ProgInfo>() })?;
        Ok(Self { id, fd, info })
    }

    /// Reads again what changes while the program is loaded.
    pub fn refresh(&mut self) -> io::Result<()> {
        // SAFETY: as above.
        self.info = info(&self.fd, unsafe { zeroed() })?;
        Ok(())
    }

    /// Its name, cut to 15 bytes by the kernel.
    pub fn name(&self) -> String {
        let name = &self.info.info.name;
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        String::from_utf8_lossy(&name[..end]).into_owned()
    }

    /// Instructions that the verifier processed (since 5.16).
    pub fn verified_insns(&self) -> Option<u64> {
        let field = self.info.field(offset_of!(ProgInfo, verified_insns), |i| i.verified_insns);
        field.map(u64::from)
    }

    /// Size in bytes as the verifier rewrote it.
    pub fn xlated_bytes(&self) -> Option<u64> {
        Some(u64::from(self.info.info.xlated_prog_len)).filter(|bytes| *bytes > 0)
    }

    /// Size in bytes as machine code; nothing when it is interpreted.
    pub fn jited_bytes(&self) -> Option<u64> {
        Some(u64::from(self.info.info.jited_prog_len)).filter(|bytes| *bytes > 0)
    }

    /// How often it ran while statistics were on, and for how many nanoseconds in all (since 5.1).
    pub fn runs(&self) -> Option<(u64, u64)> {
        self.info
            .field(offset_of!(ProgInfo, run_cnt), |i| i.run_cnt)
            .zip(self.info.field(offset_of!(ProgInfo, run_time_ns), |i| i.run_time_ns))
    }

    /// How it is attached: `link` or `ioctl`; nothing when the kernel does not tell, or it is not.
    /// `links` are the programs that links refer to.
    pub fn attached(&self, links: &[u32]) -> Option<&'static str> {
        if links.contains(&self.id) {
            Some("link")
        } else {
            PERF_EVENT_TYPES.contains(&self.info.info.kind).then_some("ioctl")
        }
    }
}

/// The ids of all programs that are loaded.
pub fn programs() -> io::Result<Vec<u32>> {
    ids(BPF_PROG_GET_NEXT_ID)
}

/// The ids of the programs that links refer to; none on a kernel that cannot tell (before 5.8).
pub fn linked_programs() -> Vec<u32> {
    let links = ids(BPF_LINK_GET_NEXT_ID).unwrap_or_default();
    links.into_iter().filter_map(|id| linked_program(id).ok()).collect()
}

fn linked_program(link: u32) -> io::Result<u32> {
    let fd = open(BPF_LINK_GET_FD_BY_ID, link)?;
    let empty = LinkInfo { kind: 0, id: 0, prog_id: 0, reserved: 0 };
    Ok(info(&fd, empty)?.info.prog_id)
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

fn info<T>(object: &OwnedFd, mut info: T) -> io::Result<Known<T>> {
    let mut attr = InfoAttr {
        bpf_fd: object.as_raw_fd().unsigned_abs(),
        info_len: size_of::<T>() as u32,
        info: (&raw mut info) as u64,
    };
    // SAFETY: the kernel writes at most `info_len` bytes to `info`, which has so many; it reads the
    // pointers in it, which are null.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)? };
    Ok(Known { info, bytes: attr.info_len as usize })
}

/// # Safety
/// `attr` must be what the command expects, and point to what it expects.
unsafe fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<RawFd> {
    // SAFETY: the caller's.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as RawFd) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layouts_are_the_kernel_s() {
        // pahole's offsets of struct bpf_prog_info, Linux 6.12.
        assert_eq!(offset_of!(ProgInfo, name), 64);
        assert_eq!(offset_of!(ProgInfo, jited_ksyms), 112);
        assert_eq!(offset_of!(ProgInfo, nr_prog_tags), 180);
        assert_eq!(offset_of!(ProgInfo, run_time_ns), 192);
        assert_eq!(offset_of!(ProgInfo, verified_insns), 216);
        assert_eq!(size_of::<ProgInfo>(), 224);
        assert_eq!(size_of::<LinkInfo>(), 16);
    }

    #[test]
    fn a_field_that_the_kernel_does_not_know_is_absent() {
        let known = |bytes| {
            // SAFETY: all bits zero is a valid value of a structure of integers.
            let info = Known { info: unsafe { zeroed::<ProgInfo>() }, bytes };
            info.field(offset_of!(ProgInfo, verified_insns), |i| i.verified_insns)
        };
        assert_eq!(known(216), None);
        assert_eq!(known(220), Some(0));
    }
}
