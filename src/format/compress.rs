//! Compresses and decompresses: gzip, zlib, raw deflate, zstd.
//!
//! The size of decompressed data is limited, so that a small message cannot take any amount of memory.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use ruzstd::encoding::CompressionLevel;

/// The largest decompressed data, bytes.
pub const LARGEST: u64 = 64 * 1024 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Gzip,
    Zlib,
    /// raw deflate
    Flate,
    Zstd,
}

/// Why bytes cannot be compressed or decompressed.
#[derive(Debug, thiserror::Error)]
pub enum CompressError {
    #[error("{0}")]
    Data(String),
    #[error("the data is larger than {LARGEST} bytes")]
    TooLarge,
}

impl Method {
    pub fn of(name: &str) -> Option<Method> {
        match name {
            "gzip" => Some(Method::Gzip),
            "zlib" => Some(Method::Zlib),
            "flate" => Some(Method::Flate),
            "zstd" => Some(Method::Zstd),
            _ => None,
        }
    }

    ///
    /// # Errors
    /// [`CompressError::Data`]
    pub fn pack(self, data: &[u8]) -> Result<Vec<u8>, CompressError> {
        let level = Compression::default();
        let written = match self {
            Method::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), level);
                encoder.write_all(data).and_then(|()| encoder.finish())
            }
            Method::Zlib => {
                let mut encoder = ZlibEncoder::new(Vec::new(), level);
                encoder.write_all(data).and_then(|()| encoder.finish())
            }
            Method::Flate => {
                let mut encoder = DeflateEncoder::new(Vec::new(), level);
                encoder.write_all(data).and_then(|()| encoder.finish())
            }
            Method::Zstd => Ok(ruzstd::encoding::compress_to_vec(data, CompressionLevel::Fastest)),
        };
        written.map_err(|error| CompressError::Data(error.to_string()))
    }

    ///
    /// # Errors
    /// [`CompressError`]
    pub fn unpack(self, data: &[u8]) -> Result<Vec<u8>, CompressError> {
        match self {
            Method::Gzip => bounded(MultiGzDecoder::new(data)),
            Method::Zlib => bounded(ZlibDecoder::new(data)),
            Method::Flate => bounded(DeflateDecoder::new(data)),
            Method::Zstd => match ruzstd::decoding::StreamingDecoder::new(data) {
                Ok(decoder) => bounded(decoder),
                Err(error) => Err(CompressError::Data(error.to_string())),
            },
        }
    }
}

/// Reads everything from the decoder; fails if it exceeds the limit.
fn bounded(decoder: impl Read) -> Result<Vec<u8>, CompressError> {
    let mut data = Vec::new();
    match decoder.take(LARGEST + 1).read_to_end(&mut data) {
        Err(error) => Err(CompressError::Data(error.to_string())),
        Ok(size) if size as u64 > LARGEST => Err(CompressError::TooLarge),
        Ok(_) => Ok(data),
    }
}
