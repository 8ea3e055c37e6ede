//! Gzip in segments: each deflated once and ended at a byte boundary, so that any choice of them joins into one gzip
//! member without compressing again. Refuses to know what the bytes mean.
//!
//! Never several members: some clients read only the first (measured, see the design notes on clients §6).

use bytes::Bytes;
use flate2::{Compress, Compression, Crc, Decompress, FlushCompress, FlushDecompress, Status};

/// Gzip's header: deflate, no name, no time, unknown system.
const HEADER: &[u8] = &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// An empty last block: ends a deflate stream that stands at a byte boundary.
const LAST_BLOCK: &[u8] = &[0x03, 0x00];

/// Deflate level: half a percent larger than 6 and 15 to 40 % quicker (over the packuments of an application, 203 MB). Higher
/// ones are slower and, on documents full of digests, hardly smaller.
const LEVEL: u32 = 5;

/// Plain bytes up to which deflating saves less than a fresh start of the deflater costs.
const TINY: usize = 128;

/// The most that one stored block holds.
const LARGEST_BLOCK: usize = u16::MAX as usize;

/// A piece of a document, deflated, that refers to nothing before it.
#[derive(Debug)]
pub struct Segment {
    deflated: Bytes,
    crc: Crc,
}

impl Segment {
    /// `plain` as stored blocks: for pieces too small to gain by deflating, and for what is not worth keeping.
    #[must_use]
    pub fn store(plain: &[u8]) -> Self {
        let mut crc = Crc::new();
        crc.update(plain);
        let mut deflated = Vec::with_capacity(plain.len() + 5 * (plain.len() / LARGEST_BLOCK + 1));
        for block in plain.chunks(LARGEST_BLOCK) {
            #[expect(clippy::cast_possible_truncation, reason = "a chunk is no longer than a block may be")]
            let length = block.len() as u16;
            deflated.push(0);
            deflated.extend_from_slice(&length.to_le_bytes());
            deflated.extend_from_slice(&(!length).to_le_bytes());
            deflated.extend_from_slice(block);
        }
        Self { deflated: deflated.into(), crc }
    }

    /// The deflated bytes: whoever hashes these has hashed the plain ones.
    #[must_use]
    pub fn deflated(&self) -> &Bytes {
        &self.deflated
    }

    /// Length of the plain bytes.
    #[must_use]
    pub fn length(&self) -> u32 {
        self.crc.amount()
    }

    /// The plain bytes again.
    #[must_use]
    pub fn inflate(&self) -> Bytes {
        let length = self.length() as usize;
        let mut plain = Vec::with_capacity(length);
        let status = Decompress::new(false).decompress_vec(&self.deflated, &mut plain, FlushDecompress::Sync);
        debug_assert!(status.is_ok() && plain.len() == length, "what was deflated here inflates");
        plain.into()
    }
}

/// What deflates: made once and used again, since it holds a quarter of a megabyte that has to be paged in and cleared.
pub struct Press {
    deflater: Compress,
    /// Room to deflate into, so that a segment is allocated once, at its size.
    out: Vec<u8>,
    /// Room for whoever prepares what is to be deflated.
    pub(super) plain: Vec<u8>,
}

impl Default for Press {
    fn default() -> Self {
        Self { deflater: Compress::new(Compression::new(LEVEL), false), out: Vec::new(), plain: Vec::new() }
    }
}

impl Press {
    /// Deflates `plain`, which must be shorter than 4 GiB.
    #[must_use]
    pub fn deflate(&mut self, plain: &[u8]) -> Segment {
        if plain.len() <= TINY {
            return Segment::store(plain);
        }
        let mut crc = Crc::new();
        crc.update(plain);
        let (deflater, out) = (&mut self.deflater, &mut self.out);
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
        Segment { deflated: Bytes::copy_from_slice(out), crc }
    }
}

/// Joins segments into one gzip member; the chunks share the segments' memory.
#[must_use]
pub fn join<'a>(segments: impl Iterator<Item = &'a Segment>) -> Vec<Bytes> {
    let mut whole = Crc::new();
    let mut chunks = vec![Bytes::from_static(HEADER)];
    for segment in segments.filter(|segment| segment.length() > 0) {
        whole.combine(&segment.crc);
        chunks.push(segment.deflated.clone());
    }
    let mut end = Vec::with_capacity(10);
    end.extend_from_slice(LAST_BLOCK);
    end.extend_from_slice(&whole.sum().to_le_bytes());
    end.extend_from_slice(&whole.amount().to_le_bytes());
    chunks.push(end.into());
    chunks
}

/// Whether `bytes` begin as gzip does. JSON never does.
#[must_use]
pub fn is_gzip(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x1f, 0x8b])
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use proptest::prelude::*;

    use super::*;

    fn inflated(chunks: &[Bytes]) -> Vec<u8> {
        let whole = chunks.concat();
        let mut decoder = flate2::bufread::GzDecoder::new(&whole[..]);
        let mut plain = Vec::new();
        decoder.read_to_end(&mut plain).unwrap();
        // One member, and nothing behind it.
        assert!(decoder.into_inner().is_empty());
        plain
    }

    proptest! {
        #[test]
        fn any_choice_of_segments_joins_into_one_member(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..5000), 0..8)) {
            let mut press = Press::default();
            let segments: Vec<_> = pieces.iter().enumerate().map(|(at, piece)| if at % 2 == 0 { press.deflate(piece) } else { Segment::store(piece) }).collect();
            prop_assert_eq!(inflated(&join(segments.iter())), pieces.concat());
            for (segment, piece) in segments.iter().zip(&pieces) {
                prop_assert_eq!(&segment.inflate()[..], &piece[..]);
            }
        }
    }

    #[test]
    fn large_and_repetitive_pieces_survive() {
        let piece: Vec<u8> = (0..3_000_000_u32).flat_map(|n| (n / 700).to_le_bytes()).collect();
        let segment = Press::default().deflate(&piece);
        assert!(segment.deflated().len() < piece.len() / 10);
        assert_eq!(segment.inflate(), piece);
        assert_eq!(inflated(&join([&segment, &segment].into_iter())).len(), piece.len() * 2);
    }
}
