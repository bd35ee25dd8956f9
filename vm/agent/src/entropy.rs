//! The kernel's random pool: empty in a guest just booted, and the same in every guest restored
//! from one saved state.

use std::fs::File;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, bail, ensure};

/// The most bytes of one job.
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

/// Feeds the pool with random bytes, given in hexadecimal, and makes the kernel use them at once.
pub fn feed(hex: &str) -> Result<()> {
    let info = pool_info(hex)?;
    let random = File::options().write(true).open("/dev/urandom").context("cannot open /dev/urandom to feed it")?;
    // SAFETY: `info` is laid out as the kernel expects it, and `bytes` is the buffer's true length.
    unsafe { add_entropy(random.as_raw_fd(), &raw const info) }.context("cannot feed the random pool")?;
    // SAFETY: this request takes no argument.
    match unsafe { reseed_crng(random.as_raw_fd()) } {
        // Kernels before 4.14 do not know the request, and reseed by themselves.
        Ok(_) | Err(nix::Error::EINVAL | nix::Error::ENOTTY) => Ok(()),
        Err(error) => Err(error).context("cannot reseed the random pool"),
    }
}

fn pool_info(hex: &str) -> Result<PoolInfo> {
    let bytes = decode(hex)?;
    ensure!(bytes.len() <= MOST, "the job's entropy is longer than {MOST} bytes");
    let mut buffer = [0; MOST];
    buffer[..bytes.len()].copy_from_slice(&bytes);
    let length = bytes.len() as libc::c_int;
    Ok(PoolInfo { entropy_bits: length * 8, bytes: length, buffer })
}

fn decode(hex: &str) -> Result<Vec<u8>> {
    let digits: Option<Vec<u32>> = hex.chars().map(|digit| digit.to_digit(16)).collect();
    match digits {
        Some(digits) if digits.len() % 2 == 0 => {
            Ok(digits.chunks_exact(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect())
        }
        _ => bail!("the job's entropy is not hexadecimal"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn entropy_is_credited_in_full() {
        let info = pool_info("00ff7f").unwrap();
        assert_eq!(info.bytes, 3);
        assert_eq!(info.entropy_bits, 24);
        assert_eq!(info.buffer[..4], [0x00, 0xff, 0x7f, 0]);
    }

    #[test]
    fn what_is_not_hexadecimal_is_refused() {
        for text in ["0", "0g", "0x00", "é0"] {
            assert!(pool_info(text).is_err(), "{text:?} was taken");
        }
        assert!(pool_info(&"00".repeat(MOST + 1)).is_err());
    }
}
