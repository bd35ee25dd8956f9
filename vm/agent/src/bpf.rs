//! What the kernel tells of BPF programs, through bpf(2).
//!
//! The layouts are those of include/uapi/linux/bpf.h. They only ever grow at the end, and the kernel
//! says how much of a structure it knows.

use std::io;
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

/// What the kernel says of an open object, as much of the structure as it knows.
struct Info(Vec<u8>);

/// How much is asked for of `struct bpf_prog_info`, and of `struct bpf_link_info`, in bytes.
const PROG_INFO: usize = 224;
const LINK_INFO: usize = 12;

/// Where a field is in `struct bpf_prog_info`, in bytes.
mod at {
    pub const KIND: usize = 0;
    pub const JITED_PROG_LEN: usize = 16;
    pub const XLATED_PROG_LEN: usize = 20;
    pub const NAME: usize = 64;
    pub const RUN_TIME_NS: usize = 192;
    pub const RUN_CNT: usize = 200;
    /// Since 5.16.
    pub const VERIFIED_INSNS: usize = 216;
    /// In `struct bpf_link_info`.
    pub const LINK_PROG_ID: usize = 8;
}

impl Info {
    /// Asks for the first `length` bytes.
    fn of(object: &OwnedFd, length: usize) -> io::Result<Self> {
        let mut info = vec![0; length];
        let mut attr = InfoAttr {
            bpf_fd: object.as_raw_fd().unsigned_abs(),
            info_len: length as u32,
            info: info.as_mut_ptr() as u64,
        };
        // SAFETY: the kernel writes at most `info_len` bytes to `info`, which has so many; it reads the
        // pointers in it, which are null.
        unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)? };
        Ok(Self::known(info, attr.info_len as usize))
    }

    fn known(mut info: Vec<u8>, bytes: usize) -> Self {
        info.truncate(bytes);
        Self(info)
    }

    /// A field, unless it lies beyond what the kernel knows.
    fn field<const SIZE: usize>(&self, start: usize) -> Option<[u8; SIZE]> {
        self.0.get(start..start + SIZE)?.try_into().ok()
    }

    fn u32(&self, start: usize) -> Option<u32> {
        self.field(start).map(u32::from_ne_bytes)
    }

    fn u64(&self, start: usize) -> Option<u64> {
        self.field(start).map(u64::from_ne_bytes)
    }
}

/// A loaded BPF program.
pub struct Program {
    id: u32,
    fd: OwnedFd,
    info: Info,
}

impl Program {
    /// Opens the program with this id.
    pub fn open(id: u32) -> io::Result<Self> {
        let fd = open(BPF_PROG_GET_FD_BY_ID, id)?;
        let info = Info::of(&fd, PROG_INFO)?;
        Ok(Self { id, fd, info })
    }

    /// Reads again what changes while the program is loaded.
    pub fn refresh(&mut self) -> io::Result<()> {
        self.info = Info::of(&self.fd, PROG_INFO)?;
        Ok(())
    }

    /// Its name, cut to 15 bytes by the kernel.
    pub fn name(&self) -> String {
        let name = self.info.field::<16>(at::NAME).unwrap_or_default();
        String::from_utf8_lossy(name.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
    }

    /// Instructions that the verifier processed (since 5.16).
    pub fn verified_insns(&self) -> Option<u64> {
        self.info.u32(at::VERIFIED_INSNS).map(u64::from)
    }

    /// Size in bytes as the verifier rewrote it.
    pub fn xlated_bytes(&self) -> Option<u64> {
        self.info.u32(at::XLATED_PROG_LEN).map(u64::from).filter(|bytes| *bytes > 0)
    }

    /// Size in bytes as machine code; nothing when it is interpreted.
    pub fn jited_bytes(&self) -> Option<u64> {
        self.info.u32(at::JITED_PROG_LEN).map(u64::from).filter(|bytes| *bytes > 0)
    }

    /// How often it ran while statistics were on, and for how many nanoseconds in all (since 5.1).
    pub fn runs(&self) -> Option<(u64, u64)> {
        self.info.u64(at::RUN_CNT).zip(self.info.u64(at::RUN_TIME_NS))
    }

    /// How it is attached: `link` or `ioctl`; nothing when the kernel does not tell, or it is not.
    /// `links` are the programs that links refer to.
    pub fn attached(&self, links: &[u32]) -> Option<&'static str> {
        if links.contains(&self.id) {
            Some("link")
        } else {
            self.info.u32(at::KIND).filter(|kind| PERF_EVENT_TYPES.contains(kind)).map(|_| "ioctl")
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
    let linked = |id| Info::of(&open(BPF_LINK_GET_FD_BY_ID, id).ok()?, LINK_INFO).ok()?.u32(at::LINK_PROG_ID);
    links.into_iter().filter_map(linked).collect()
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
    fn a_field_that_the_kernel_does_not_know_is_absent() {
        let known = |bytes| Info::known(vec![1; PROG_INFO], bytes).u32(at::VERIFIED_INSNS);
        assert_eq!(
            (known(216), known(219), known(220), known(300)),
            (None, None, Some(0x0101_0101), Some(0x0101_0101))
        );
    }
}
