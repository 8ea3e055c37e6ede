//! Gzip in segments: each deflated once and ended at a byte boundary, so that any choice of them joins into one gzip
//! member without compressing again. Refuses to know what the bytes mean.
//!
//! Never several members: some clients read only the first (measured, see the design notes on clients §6).

use std::cell::RefCell;

use bytes::Bytes;
use flate2::{Compress, Compression, Crc, Decompress, FlushCompress, FlushDecompress, Status};

/// Gzip's header: deflate, no name, no time, unknown system.
const HEADER: &[u8] = &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// An empty last block: ends a deflate stream that stands at a byte boundary.
const LAST_BLOCK: &[u8] = &[0x03, 0x00];

/// Deflate level: what zlib calls the default. Higher ones are slower and, on documents full of digests, no smaller.
const LEVEL: u32 = 6;

/// A piece of a document, deflated, that refers to nothing before it.
#[derive(Debug)]
pub struct Segment {
    deflated: Bytes,
    crc: Crc,
}

impl Segment {
    /// Deflates `plain`, which must be shorter than 4 GiB.
    #[must_use]
    pub fn deflate(plain: &[u8]) -> Self {
        let mut crc = Crc::new();
        crc.update(plain);
        Self { deflated: if plain.is_empty() { Bytes::new() } else { deflate(plain) }, crc }
    }

    /// `plain` as one stored block: for pieces too small to gain by deflating. At most 65,535 bytes.
    #[must_use]
    pub fn store(plain: &[u8]) -> Self {
        let Ok(length) = u16::try_from(plain.len()) else { return Self::deflate(plain) };
        let mut crc = Crc::new();
        crc.update(plain);
        let mut deflated = Vec::with_capacity(plain.len() + 5);
        if !plain.is_empty() {
            deflated.push(0);
            deflated.extend_from_slice(&length.to_le_bytes());
            deflated.extend_from_slice(&(!length).to_le_bytes());
            deflated.extend_from_slice(plain);
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

thread_local! {
    /// A deflater takes a quarter of a megabyte that has to be cleared: most of the work for a small segment.
    static DEFLATER: RefCell<Compress> = RefCell::new(Compress::new(Compression::new(LEVEL), false));
}

fn deflate(plain: &[u8]) -> Bytes {
    DEFLATER.with_borrow_mut(|deflater| {
        deflater.reset();
        let mut out = Vec::with_capacity(plain.len() / 6 + 64);
        let mut taken = 0;
        loop {
            // Neither error nor a stall is possible with room to write into, and room is made on every turn.
            let status = deflater.compress_vec(&plain[taken..], &mut out, FlushCompress::Full);
            debug_assert!(matches!(status, Ok(Status::Ok | Status::BufError)));
            taken = usize::try_from(deflater.total_in()).unwrap_or(plain.len());
            if taken == plain.len() && out.len() < out.capacity() {
                break;
            }
            out.reserve(out.capacity().max(4096));
        }
        out.shrink_to_fit();
        out.into()
    })
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
            let segments: Vec<_> = pieces.iter().enumerate().map(|(at, piece)| if at % 2 == 0 { Segment::deflate(piece) } else { Segment::store(piece) }).collect();
            prop_assert_eq!(inflated(&join(segments.iter())), pieces.concat());
            for (segment, piece) in segments.iter().zip(&pieces) {
                prop_assert_eq!(&segment.inflate()[..], &piece[..]);
            }
        }
    }

    #[test]
    fn large_and_repetitive_pieces_survive() {
        let piece: Vec<u8> = (0..3_000_000_u32).flat_map(|n| (n / 700).to_le_bytes()).collect();
        let segment = Segment::deflate(&piece);
        assert!(segment.deflated().len() < piece.len() / 10);
        assert_eq!(segment.inflate(), piece);
        assert_eq!(inflated(&join([&segment, &segment].into_iter())).len(), piece.len() * 2);
    }
}
