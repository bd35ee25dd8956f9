//! The kernel's random pool: empty in a guest just booted, and the same in every guest restored from one snapshot.

use std::fs::File;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};

/// The most digits of one job.
const MOST: usize = 256;

/// `struct rand_pool_info` of include/uapi/linux/random.h, with room for [`MOST`] bytes.
#[repr(C)]
struct PoolInfo {
    entropy_bits: libc::c_int,
    bytes: libc::c_int,
    buffer: [u8; MOST],
}

// RNDADDENTROPY is _IOW('R', 0x03, int[2]): the size that is coded in it is not the argument's.
nix::ioctl_write_ptr_bad!(add_entropy, nix::request_code_write!(b'R', 0x03, size_of::<[libc::c_int; 2]>()), PoolInfo);
nix::ioctl_none!(reseed_crng, b'R', 0x07);

/// Feeds the pool with random hexadecimal digits, and makes the kernel use them at once.
pub fn feed(digits: &str) -> Result<()> {
    let info = pool_info(digits).context("the job's entropy is too long")?;
    let random = File::options().write(true).open("/dev/urandom").context("cannot open /dev/urandom to feed it")?;
    // SAFETY: `info` is laid out as the kernel expects it, and `bytes` is the buffer's true length.
    unsafe { add_entropy(random.as_raw_fd(), &raw const info) }.context("cannot feed the random pool")?;
    // SAFETY: this request takes no argument.
    unsafe { reseed_crng(random.as_raw_fd()) }.context("cannot reseed the random pool").map(drop)
}

/// The kernel hashes them: as they are they are as good as the bytes that they stand for.
fn pool_info(digits: &str) -> Option<PoolInfo> {
    let mut buffer = [0; MOST];
    buffer.get_mut(..digits.len())?.copy_from_slice(digits.as_bytes());
    let bytes = digits.len() as libc::c_int;
    Some(PoolInfo { entropy_bits: bytes * 4, bytes, buffer })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digit_is_credited_with_four_bits() {
        let info = pool_info("00ff7f").unwrap();
        assert_eq!((info.bytes, info.entropy_bits, &info.buffer[..7]), (6, 24, &b"00ff7f\0"[..]));
        assert!(pool_info(&"0".repeat(MOST)).is_some() && pool_info(&"0".repeat(MOST + 1)).is_none());
    }
}
