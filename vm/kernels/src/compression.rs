//! The compressions that kernels, modules and packages come in.

use std::io::{self, BufRead, Read};

/// `zstd --long` and `--ultra` use windows above the library's default limit of 128 MiB.
const MAX_ZSTD_WINDOW_LOG: u32 = 31;

/// The compressions that kernels, modules and packages come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    /// Or the older lzma ("alone") format.
    Xz,
    Zstd,
}

impl Compression {
    /// Told by the first bytes, `None` when they are no known compression's.
    pub fn of(start: &[u8]) -> Option<Self> {
        match start {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            // The "alone" format has no magic; these are its usual properties and dictionary size.
            [0x5d, 0, 0, ..] => Some(Self::Xz),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Told by the end of a file's name: the empty string, `.gz`, `.xz`, `.lzma`, `.zst`.
    pub fn of_suffix(suffix: &str) -> Option<Self> {
        match suffix {
            "" => Some(Self::None),
            ".gz" => Some(Self::Gzip),
            ".xz" | ".lzma" => Some(Self::Xz),
            ".zst" => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Decompresses all streams that `reader` yields.
    pub fn decoder<'a>(self, reader: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
        self.decode(reader, false)
    }

    /// Decompresses one stream and leaves what comes after it, such as the size that the kernel's build appends.
    pub fn single_decoder<'a>(self, reader: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
        self.decode(reader, true)
    }

    fn decode<'a>(self, reader: impl BufRead + 'a, single: bool) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Self::None => Box::new(reader),
            Self::Gzip if single => Box::new(flate2::bufread::GzDecoder::new(reader)),
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
            Self::Xz => {
                let flags = if single { 0 } else { liblzma::stream::CONCATENATED };
                let stream = liblzma::stream::Stream::new_auto_decoder(u64::MAX, flags)?;
                Box::new(liblzma::bufread::XzDecoder::new_stream(reader, stream))
            }
            Self::Zstd => {
                let decoder = zstd::stream::read::Decoder::with_buffer(reader)?;
                let mut decoder = if single { decoder.single_frame() } else { decoder };
                decoder.window_log_max(MAX_ZSTD_WINDOW_LOG)?;
                Box::new(decoder)
            }
        })
    }
}
