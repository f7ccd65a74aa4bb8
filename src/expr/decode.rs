//! Owns undoing `Content-Encoding` (gzip, deflate, br, zstd) for expressions, with a bound while decoding.
//!
//! Promises that a decompression bomb costs no more than its bound: the reader is cut off, nothing is measured after.

use std::{
    borrow::Cow,
    io::{self, Read},
};

use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::{HeaderMap, header::CONTENT_ENCODING};

use super::EvalError;

/// A decoded body may be so many times as large as the encoded one.
const GROWTH_MAX: u64 = 10;

/// Up to here the factor does not count: short repetitive bodies compress better than 10 to 1.
const FLOOR_BYTES: u64 = 64 * 1024;

/// More encodings than this on top of each other have no honest use.
const LAYERS_MAX: usize = 2;

/// The buffer of the brotli decoder.
const BUFFER_BYTES: usize = 16 * 1024;

/// The largest zstd window that is accepted, as a power of two: 8 MiB, what RFC 9659 allows for HTTP.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// The body without its `Content-Encoding`: at most ten times as large as received (or 64 KiB) and at most `max_bytes`.
/// Borrowed if there is nothing to undo.
///
/// # Errors
/// [`EvalError::Undecodable`] for an unknown encoding, more than two layers, or damaged data; [`EvalError::TooLarge`]
/// with the limit that the decoded body exceeds.
pub fn decode_body<'a>(headers: &HeaderMap, body: &'a [u8], max_bytes: u64) -> Result<Cow<'a, [u8]>, EvalError> {
    if !is_encoded(headers) {
        return Ok(Cow::Borrowed(body));
    }
    let layers = layers(headers)?;
    let limit = (body.len() as u64).saturating_mul(GROWTH_MAX).max(FLOOR_BYTES).min(max_bytes);
    let mut decoded = Cow::Borrowed(body);
    for layer in layers.into_iter().rev() {
        decoded = Cow::Owned(layer.undo(&decoded, limit)?);
    }
    Ok(decoded)
}

/// Whether there is a `Content-Encoding` at all.
pub(super) fn is_encoded(headers: &HeaderMap) -> bool {
    headers.contains_key(CONTENT_ENCODING)
}

#[derive(Clone, Copy)]
enum Layer {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

fn layers(headers: &HeaderMap) -> Result<Vec<Layer>, EvalError> {
    let mut layers = Vec::new();
    for value in headers.get_all(CONTENT_ENCODING) {
        let value = value.to_str().map_err(|_| unreadable("the Content-Encoding is not text"))?;
        for name in value.split(',').map(|name| name.trim().to_ascii_lowercase()) {
            layers.push(match name.as_str() {
                "" | "identity" => continue,
                "gzip" | "x-gzip" => Layer::Gzip,
                "deflate" => Layer::Deflate,
                "br" => Layer::Brotli,
                "zstd" => Layer::Zstd,
                other => {
                    let shown: String = other.chars().take(32).collect();
                    return Err(unreadable(&format!("unknown Content-Encoding {shown:?}")));
                }
            });
        }
    }
    if layers.len() > LAYERS_MAX { Err(unreadable("more than two encodings")) } else { Ok(layers) }
}

impl Layer {
    fn undo(self, body: &[u8], limit: u64) -> Result<Vec<u8>, EvalError> {
        match self {
            Self::Gzip => bounded(MultiGzDecoder::new(body), limit),
            // RFC 9110 means the zlib format; some senders mean raw deflate.
            Self::Deflate if is_zlib(body) => bounded(ZlibDecoder::new(body), limit),
            Self::Deflate => bounded(DeflateDecoder::new(body), limit),
            Self::Brotli => bounded(brotli_decompressor::Decompressor::new(body, BUFFER_BYTES), limit),
            Self::Zstd => bounded(zstd_reader(body).map_err(|error| unreadable(&error.to_string()))?, limit),
        }
    }
}

fn zstd_reader(body: &[u8]) -> io::Result<impl Read> {
    let mut reader = zstd::stream::read::Decoder::with_buffer(body)?;
    reader.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
    Ok(reader)
}

/// The zlib header (RFC 1950): method 8 and a checksum that makes both bytes a multiple of 31.
fn is_zlib(body: &[u8]) -> bool {
    matches!(body, [first, second, ..] if first & 0x0F == 8 && u16::from_be_bytes([*first, *second]) % 31 == 0)
}

fn bounded(reader: impl Read, limit: u64) -> Result<Vec<u8>, EvalError> {
    let mut decoded = Vec::new();
    reader.take(limit.saturating_add(1)).read_to_end(&mut decoded).map_err(|error| unreadable(&error.to_string()))?;
    if decoded.len() as u64 > limit { Err(EvalError::TooLarge(limit)) } else { Ok(decoded) }
}

fn unreadable(what: &str) -> EvalError {
    EvalError::Undecodable(what.to_owned())
}
