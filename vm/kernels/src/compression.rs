//! The compressions that kernels, modules and packages come in.

use std::io::{self, BufRead, Read};

/// `zstd --long` and `--ultra` use windows above the library's default limit of 128 MiB.
const MAX_ZSTD_WINDOW_LOG: u32 = 31;

/// Decompresses all that `reader` yields; if it is a `single` stream, leaves what comes after it, such as the size that
/// the kernel's build appends. `None` when the first bytes are no known compression's.
pub fn decompressed<'a>(mut reader: impl BufRead + 'a, single: bool) -> io::Result<Option<Box<dyn Read + 'a>>> {
    Ok(Some(match reader.fill_buf()? {
        [0x1f, 0x8b, ..] if single => Box::new(flate2::bufread::GzDecoder::new(reader)),
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
        // The older lzma ("alone") format has no magic; these are its usual properties and dictionary size.
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] | [0x5d, 0, 0, ..] => {
            let flags = if single { 0 } else { liblzma::stream::CONCATENATED };
            let stream = liblzma::stream::Stream::new_auto_decoder(u64::MAX, flags)?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(reader, stream))
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let decoder = zstd::stream::read::Decoder::with_buffer(reader)?;
            let mut decoder = if single { decoder.single_frame() } else { decoder };
            decoder.window_log_max(MAX_ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
        _ => return Ok(None),
    }))
}
