//! Brotli compression of whole documents: at its fast levels, segments cannot be joined. Not slower than gzip.

use ::brotli::enc::BrotliEncoderParams;
use bytes::Bytes;

/// Takes the time of gzip's default level and makes packuments 8 % smaller; quality 2 takes half as long again and gains almost
/// nothing.
const QUALITY: i32 = 1;

/// Compresses `plain` into one stream with the default window of 4 MiB. CPU bound: a few milliseconds per megabyte.
#[must_use]
pub fn compress(plain: &[u8]) -> Bytes {
    let params = BrotliEncoderParams { quality: QUALITY, size_hint: plain.len(), ..BrotliEncoderParams::default() };
    let mut packed = Vec::with_capacity(plain.len() / 8 + 64);
    let done = ::brotli::BrotliCompress(&mut &*plain, &mut packed, &params);
    debug_assert!(done.is_ok(), "reading and writing memory cannot fail");
    packed.into()
}
