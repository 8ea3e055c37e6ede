//! Gzip in segments: each deflated once and ended at a byte boundary, so that any choice of them joins into one gzip
//! member without compressing again. Refuses to know what the bytes mean.
//!
//! Never several members: some clients read only the first (measured, see the design notes on clients §6).

use bytes::Bytes;
use flate2::{Compress, Compression, Crc, Decompress, FlushCompress, FlushDecompress, Status};

/// Gzip's header: deflate, no name, no time, unknown system.
pub(crate) const HEADER: &[u8] = &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// An empty last block: ends a deflate stream that stands at a byte boundary.
const LAST_BLOCK: &[u8] = &[0x03, 0x00];

/// The usual level: half a percent larger than 6 and 15 to 40 % quicker (over the packuments of an application, 203 MB).
const QUICK: u32 = 5;

/// The level that zlib calls 6: zlib-rs gives it another match finder up to its own 6. On documents that repeat themselves over
/// kilobytes (`next`) it makes 40 % less of them for half as much time again; on others a few percent for up to four times as much.
const THOROUGH: u32 = 7;

/// The most that one stored block holds.
const LARGEST_BLOCK: usize = u16::MAX as usize;

/// `plain` as stored blocks.
pub(crate) fn store(plain: &[u8]) -> Vec<u8> {
    let mut deflated = Vec::with_capacity(plain.len() + 5 * (plain.len() / LARGEST_BLOCK + 1));
    for block in plain.chunks(LARGEST_BLOCK) {
        #[expect(clippy::cast_possible_truncation, reason = "a chunk is no longer than a block may be")]
        let length = block.len() as u16;
        deflated.push(0);
        deflated.extend_from_slice(&length.to_le_bytes());
        deflated.extend_from_slice(&(!length).to_le_bytes());
        deflated.extend_from_slice(block);
    }
    deflated
}

/// What deflates. Each holds its tables from the first time it is tried on.
#[derive(Default)]
pub(crate) struct GzipEncoder {
    quick: Option<Compress>,
    thorough: Option<Compress>,
    /// Whether the document at hand is worth it.
    is_thorough: bool,
}

impl GzipEncoder {
    /// Begins a document: nothing is known of it.
    pub(crate) fn begin(&mut self) {
        self.is_thorough = false;
    }

    /// Finds out on a sample how the document at hand is deflated best.
    pub(crate) fn tune(&mut self, sample: &[u8], out: &mut Vec<u8>) {
        run(self.quick(), sample, out);
        let quick = out.len();
        run(self.thorough(), sample, out);
        // A tenth less of a sample is a quarter less and more of the whole.
        self.is_thorough = out.len() * 10 < quick * 9;
    }

    /// Deflates `plain` in place of what was in `out`. True: what is longer for it is not worth a second look.
    pub(crate) fn deflate(&mut self, plain: &[u8], out: &mut Vec<u8>) -> bool {
        let deflater = if self.is_thorough { self.thorough() } else { self.quick() };
        run(deflater, plain, out);
        true
    }

    fn quick(&mut self) -> &mut Compress {
        self.quick.get_or_insert_with(|| Compress::new(Compression::new(QUICK), false))
    }

    fn thorough(&mut self) -> &mut Compress {
        self.thorough.get_or_insert_with(|| Compress::new(Compression::new(THOROUGH), false))
    }
}

/// Deflates `plain` to a byte boundary, in place of what was in `out`.
fn run(deflater: &mut Compress, plain: &[u8], out: &mut Vec<u8>) {
    deflater.reset();
    out.clear();
    out.reserve(plain.len() / 4 + 4096);
    let mut taken = 0;
    loop {
        // Neither error nor a stall is possible with room to write into, and room is made on every turn. The reset before
        // each piece forgets what a full flush would.
        let status = deflater.compress_vec(&plain[taken..], out, FlushCompress::Sync);
        debug_assert!(matches!(status, Ok(Status::Ok | Status::BufError)));
        taken = usize::try_from(deflater.total_in()).unwrap_or(plain.len());
        if taken == plain.len() && out.len() < out.capacity() {
            break;
        }
        out.reserve(out.capacity().max(4096));
    }
}

/// What ends a member whose plain bytes sum up to `whole`.
pub(crate) fn end(whole: &Crc) -> Bytes {
    let mut end = Vec::with_capacity(10);
    end.extend_from_slice(LAST_BLOCK);
    end.extend_from_slice(&whole.sum().to_le_bytes());
    end.extend_from_slice(&whole.amount().to_le_bytes());
    end.into()
}

/// The plain bytes of deflated pieces, `length` together.
pub(crate) fn inflate<'a>(pieces: impl Iterator<Item = (&'a [u8], usize)>, length: usize) -> Vec<u8> {
    let mut plain = Vec::with_capacity(length);
    let mut inflater = Decompress::new(false);
    for (piece, _) in pieces {
        inflater.reset(false);
        let status = inflater.decompress_vec(piece, &mut plain, FlushDecompress::Sync);
        debug_assert!(status.is_ok(), "what was deflated here inflates");
    }
    plain
}

/// Whether `bytes` begin as gzip does. JSON never does.
#[must_use]
pub fn is_gzip(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x1f, 0x8b])
}
