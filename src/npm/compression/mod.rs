//! Compresses a document as independent segments, so that any selection of them joins into one stream without recompression.

pub mod gzip;
pub(crate) mod zstd;

use std::ops::Range;

use bytes::Bytes;
use flate2::Crc;

use crate::npm::compression::gzip::GzipEncoder;
use crate::npm::compression::zstd::ZstdEncoder;

/// Segments up to this length are stored: starting a compressor costs more than it saves.
const MAX_STORED_BYTES: usize = 128;

/// Bytes of a document that are sampled to choose the compression level.
pub(crate) const SAMPLE: usize = 128 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SegmentFormat {
    /// Deflated and joined into one gzip member. Supported by every client.
    #[default]
    Gzip,
    /// One frame per segment; concatenated frames are one stream (RFC 8878 §3). Takes a fifth of gzip's time and is smaller.
    Zstd,
}

impl SegmentFormat {
    const fn header(self) -> &'static [u8] {
        match self {
            SegmentFormat::Gzip => gzip::HEADER,
            SegmentFormat::Zstd => &[],
        }
    }
}

/// A compressed piece of a document without references to earlier data.
#[derive(Debug)]
pub struct Segment {
    /// The compressed bytes. Hashing them identifies the plain bytes too.
    pub(crate) packed: Bytes,
    /// Length of the plain bytes.
    length: u32,
    /// Checksum of the plain bytes. gzip needs it for the whole stream; a zstd frame has its own.
    crc: Crc,
}

impl Segment {
    /// Stores `plain` (below 4 GiB) uncompressed: for small pieces and for data that is not kept.
    pub(crate) fn store(plain: &[u8], packing: SegmentFormat) -> Self {
        let packed = match packing {
            SegmentFormat::Gzip => gzip::store_gzip(plain),
            SegmentFormat::Zstd => zstd::store_zstd(plain),
        };
        Self::of(packed.into(), plain, packing)
    }

    fn of(packed: Bytes, plain: &[u8], packing: SegmentFormat) -> Self {
        let mut crc = Crc::new();
        if packing == SegmentFormat::Gzip {
            crc.update(plain);
        }
        Self { packed, length: u32::try_from(plain.len()).unwrap_or(u32::MAX), crc }
    }
}

/// Compresses segments. Reuse it: its quarter of a megabyte of tables must be paged in and cleared.
#[derive(Default)]
pub struct SegmentEncoder {
    pub(crate) packing: SegmentFormat,
    deflaters: GzipEncoder,
    framer: ZstdEncoder,
    /// Output buffer, so that each segment is allocated once at its final size.
    out: Vec<u8>,
    /// Buffer for callers that assemble the input.
    pub(crate) plain: Vec<u8>,
}

impl SegmentEncoder {
    pub fn of(packing: SegmentFormat) -> Self {
        Self { packing, ..Self::default() }
    }

    /// Begins a new document.
    pub(crate) fn begin(&mut self) {
        self.deflaters.is_thorough = false;
    }

    /// Chooses gzip's level for the current document from a sample. Deterministic, so that entity tags do not change.
    pub(crate) fn tune(&mut self, sample: &[u8]) {
        self.deflaters.tune(sample, &mut self.out);
    }

    /// Compresses `plain`, which must be shorter than 4 GiB.
    pub(crate) fn encode(&mut self, plain: &[u8]) -> Segment {
        let smaller = plain.len() > MAX_STORED_BYTES
            && match self.packing {
                SegmentFormat::Gzip => self.deflaters.deflate(plain, &mut self.out),
                SegmentFormat::Zstd => self.framer.frame(plain, &mut self.out),
            };
        if smaller {
            Segment::of(Bytes::copy_from_slice(&self.out), plain, self.packing)
        } else {
            Segment::store(plain, self.packing)
        }
    }
}

/// Moves segments into one contiguous buffer that starts with the stream header.
pub(crate) fn consolidate(packing: SegmentFormat, segments: &mut [&mut Segment]) -> Bytes {
    let header = packing.header();
    let length: usize = segments.iter().map(|segment| segment.packed.len()).sum();
    let mut arena = Vec::with_capacity(header.len() + length);
    arena.extend_from_slice(header);
    let mut ends = Vec::with_capacity(segments.len());
    for segment in &mut *segments {
        // Released as it is copied, so that a large view is not in memory twice.
        arena.extend_from_slice(&std::mem::take(&mut segment.packed));
        ends.push(arena.len());
    }
    let arena = Bytes::from(arena);
    let mut start = header.len();
    for (segment, end) in segments.iter_mut().zip(ends) {
        segment.packed = arena.slice(start..end);
        start = end;
    }
    arena
}

/// Joins segments of one format into a stream. The chunks share the segments' memory. Segments that are adjacent in `arena`
/// become one chunk: sockets write a few large chunks faster than many small ones.
pub(crate) fn join<'a>(packing: SegmentFormat, arena: &Bytes, segments: impl Iterator<Item = &'a Segment>) -> Vec<Bytes> {
    let mut whole = Crc::new();
    let mut chunks: Vec<Bytes> = Vec::new();
    // Part of the arena that is not yet pushed.
    let mut open = 0..packing.header().len();
    for segment in segments.filter(|segment| segment.length > 0) {
        if packing == SegmentFormat::Gzip {
            whole.combine(&segment.crc);
        }
        let Some(position) = position_in(arena, &segment.packed) else {
            chunks.push(arena.slice(std::mem::take(&mut open)));
            chunks.push(segment.packed.clone());
            continue;
        };
        if position.start == open.end {
            open.end = position.end;
        } else {
            chunks.push(arena.slice(std::mem::replace(&mut open, position)));
        }
    }
    chunks.push(arena.slice(open));
    if packing == SegmentFormat::Gzip {
        chunks.push(gzip::end(&whole));
    }
    chunks.retain(|chunk| !chunk.is_empty());
    if chunks.is_empty() {
        // Decoders reject a stream without frames.
        chunks.push(zstd::store_zstd(&[]).into());
    }
    chunks
}

fn position_in(arena: &Bytes, part: &Bytes) -> Option<Range<usize>> {
    let start = (part.as_ptr() as usize).checked_sub(arena.as_ptr() as usize)?;
    let end = start.checked_add(part.len())?;
    (end <= arena.len()).then_some(start..end)
}

pub(crate) fn decode<'a>(packing: SegmentFormat, segments: impl Iterator<Item = &'a Segment> + Clone) -> Bytes {
    let length: usize = segments.clone().map(|segment| segment.length as usize).sum();
    let packed = segments.filter(|segment| segment.length > 0).map(|segment| (&segment.packed[..], segment.length as usize));
    let plain = match packing {
        SegmentFormat::Gzip => gzip::inflate(packed, length),
        SegmentFormat::Zstd => zstd::decode_frames(packed, length),
    };
    debug_assert_eq!(plain.len(), length, "segments compressed here must decompress");
    plain.into()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use proptest::prelude::*;

    use super::*;

    const BOTH: [SegmentFormat; 2] = [SegmentFormat::Gzip, SegmentFormat::Zstd];

    /// Decompresses as a client does: one gzip member with nothing after it, or zstd frames.
    fn unpacked(packing: SegmentFormat, chunks: &[Bytes]) -> Vec<u8> {
        let whole = chunks.concat();
        let mut plain = Vec::new();
        match packing {
            SegmentFormat::Gzip => {
                let mut decoder = flate2::bufread::GzDecoder::new(&whole[..]);
                decoder.read_to_end(&mut plain).unwrap();
                assert!(decoder.into_inner().is_empty());
            }
            SegmentFormat::Zstd => {
                ::zstd::Decoder::new(&whole[..]).unwrap().read_to_end(&mut plain).unwrap();
            }
        }
        plain
    }

    fn alone(packing: SegmentFormat) -> Bytes {
        Bytes::from_static(packing.header())
    }

    proptest! {
        #[test]
        fn any_selection_of_segments_joins_into_one_stream(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..5000), 0..8)) {
            for packing in BOTH {
                let mut encoder = SegmentEncoder::of(packing);
                let segments: Vec<_> = pieces.iter().enumerate().map(|(at, piece)| if at % 2 == 0 { encoder.encode(piece) } else { Segment::store(piece, packing) }).collect();
                prop_assert_eq!(unpacked(packing, &join(packing, &alone(packing), segments.iter())), pieces.concat());
                prop_assert_eq!(&decode(packing, segments.iter())[..], &pieces.concat()[..]);
                // After consolidation, and with every other segment left out.
                let mut segments = segments;
                let arena = consolidate(packing, &mut segments.iter_mut().collect::<Vec<_>>());
                let whole = join(packing, &arena, segments.iter());
                prop_assert!(whole.len() <= 2);
                prop_assert_eq!(unpacked(packing, &whole), pieces.concat());
                let some = pieces.iter().step_by(2).flatten().copied().collect::<Vec<_>>();
                prop_assert_eq!(unpacked(packing, &join(packing, &arena, segments.iter().step_by(2))), some);
            }
        }
    }

    #[test]
    fn large_and_repetitive_pieces_round_trip() {
        let piece: Vec<u8> = (0..3_000_000_u32).flat_map(|n| (n / 700).to_le_bytes()).collect();
        for packing in BOTH {
            let segment = SegmentEncoder::of(packing).encode(&piece);
            assert!(segment.packed.len() < piece.len() / 10);
            assert_eq!(decode(packing, [&segment].into_iter()), piece);
            let stored = Segment::store(&piece, packing);
            assert_eq!(decode(packing, [&stored].into_iter()), piece);
            let all = [&segment, &stored, &segment];
            assert_eq!(unpacked(packing, &join(packing, &alone(packing), all.into_iter())).len(), piece.len() * 3);
        }
    }

    #[test]
    fn stored_pieces_of_any_length_round_trip() {
        for length in
            [1, 128, 255, 256, 257, 65_535, 65_791, 65_792, 65_793, (128 << 10) - 1, 128 << 10, (128 << 10) + 1, 400_000]
        {
            let piece: Vec<u8> = (0..length).map(|at: usize| at.to_le_bytes()[0]).collect();
            for packing in BOTH {
                let stored = Segment::store(&piece, packing);
                assert_eq!(unpacked(packing, &join(packing, &alone(packing), [&stored].into_iter())), piece, "{length}");
            }
        }
    }
}
