//! A document in packed segments: each packed once, for itself, so that any choice of them joins into one stream without packing
//! again. Refuses to know what the bytes mean, and who reads which packing.

pub mod brotli;
pub mod gzip;
pub(crate) mod zstd;

use std::ops::Range;

use bytes::Bytes;
use flate2::Crc;

use crate::npm::compression::gzip::GzipEncoder;
use crate::npm::compression::zstd::ZstdEncoder;

/// Plain bytes up to which packing saves less than a fresh start of the packer costs.
const TINY: usize = 128;

/// How many bytes of a document show how it is packed best.
pub(crate) const SAMPLE: usize = 128 << 10;

/// How segments are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SegmentFormat {
    /// Deflated, and joined into one gzip member. Every client reads it.
    #[default]
    Gzip,
    /// A frame each, and frames behind each other are one stream (RFC 8878 §3). Packed in a fifth of gzip's time, and smaller.
    Zstd,
}

impl SegmentFormat {
    /// What a joined stream begins with.
    const fn header(self) -> &'static [u8] {
        match self {
            SegmentFormat::Gzip => gzip::HEADER,
            SegmentFormat::Zstd => &[],
        }
    }
}

/// A piece of a document, packed, that refers to nothing before it.
#[derive(Debug)]
pub struct Segment {
    packed: Bytes,
    /// Of the plain bytes.
    length: u32,
    /// Of the plain bytes: gzip sums over the whole, a zstd frame has a sum of its own.
    crc: Crc,
}

impl Segment {
    /// `plain`, which must be shorter than 4 GiB, as it is: for pieces too small to gain, and for what is not worth keeping.
    #[must_use]
    pub fn store(plain: &[u8], packing: SegmentFormat) -> Self {
        let packed = match packing {
            SegmentFormat::Gzip => gzip::store(plain),
            SegmentFormat::Zstd => zstd::store(plain),
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

    /// The packed bytes: whoever hashes these has hashed the plain ones.
    #[must_use]
    pub fn packed(&self) -> &Bytes {
        &self.packed
    }

    /// Length of the plain bytes.
    #[must_use]
    pub fn length(&self) -> u32 {
        self.length
    }
}

/// What packs: made once and used again, since it holds a quarter of a megabyte that has to be paged in and cleared.
#[derive(Default)]
pub struct SegmentEncoder {
    packing: SegmentFormat,
    deflaters: GzipEncoder,
    framer: ZstdEncoder,
    /// Room to pack into, so that a segment is allocated once, at its size.
    out: Vec<u8>,
    /// Room for whoever prepares what is to be packed.
    pub(crate) plain: Vec<u8>,
}

impl SegmentEncoder {
    /// A press that packs this way.
    #[must_use]
    pub fn of(packing: SegmentFormat) -> Self {
        Self { packing, ..Self::default() }
    }

    /// Packs this way from now on.
    pub fn pack_as(&mut self, packing: SegmentFormat) {
        self.packing = packing;
    }

    /// How it packs.
    #[must_use]
    pub fn packing(&self) -> SegmentFormat {
        self.packing
    }

    /// Begins a document: nothing is known of it.
    pub fn begin(&mut self) {
        self.deflaters.begin();
    }

    /// Whether a sample of the document at hand is of use.
    #[must_use]
    pub fn wants_sample(&self) -> bool {
        self.packing == SegmentFormat::Gzip
    }

    /// Finds out on a sample how the document at hand is packed best. The same bytes give the same answer, so that an entity
    /// tag does not change by itself.
    pub fn tune(&mut self, sample: &[u8]) {
        self.deflaters.tune(sample, &mut self.out);
    }

    /// Packs `plain`, which must be shorter than 4 GiB.
    #[must_use]
    pub fn pack(&mut self, plain: &[u8]) -> Segment {
        let smaller = plain.len() > TINY
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

/// Moves segments behind each other into one piece of memory, which begins as their stream does.
#[must_use]
pub fn settle(packing: SegmentFormat, segments: &mut [&mut Segment]) -> Bytes {
    let header = packing.header();
    let length: usize = segments.iter().map(|segment| segment.packed.len()).sum();
    let mut arena = Vec::with_capacity(header.len() + length);
    arena.extend_from_slice(header);
    let mut ends = Vec::with_capacity(segments.len());
    for segment in &mut *segments {
        // Given up as it is copied, so that a large view is not held twice.
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

/// Joins segments, all of this packing, into one stream. The chunks share the segments' memory, and those that stand behind each
/// other in the `arena` leave as one: a socket takes few large chunks more quickly than many small ones.
#[must_use]
pub fn join<'a>(packing: SegmentFormat, arena: &Bytes, segments: impl Iterator<Item = &'a Segment>) -> Vec<Bytes> {
    let mut whole = Crc::new();
    let mut chunks: Vec<Bytes> = Vec::new();
    // Part of the arena that is still to be pushed.
    let mut open = 0..packing.header().len();
    for segment in segments.filter(|segment| segment.length > 0) {
        if packing == SegmentFormat::Gzip {
            whole.combine(&segment.crc);
        }
        let Some(place) = place_in(arena, &segment.packed) else {
            chunks.push(arena.slice(std::mem::take(&mut open)));
            chunks.push(segment.packed.clone());
            continue;
        };
        if place.start == open.end {
            open.end = place.end;
        } else {
            chunks.push(arena.slice(std::mem::replace(&mut open, place)));
        }
    }
    chunks.push(arena.slice(open));
    if packing == SegmentFormat::Gzip {
        chunks.push(gzip::end(&whole));
    }
    chunks.retain(|chunk| !chunk.is_empty());
    if chunks.is_empty() {
        // A stream of no frames is none that decoders take.
        chunks.push(zstd::store(&[]).into());
    }
    chunks
}

/// Where `part` lies in `arena`, if it does.
fn place_in(arena: &Bytes, part: &Bytes) -> Option<Range<usize>> {
    let start = (part.as_ptr() as usize).checked_sub(arena.as_ptr() as usize)?;
    let end = start.checked_add(part.len())?;
    (end <= arena.len()).then_some(start..end)
}

/// The plain bytes of segments, all of this packing, again.
#[must_use]
pub fn unpack<'a>(packing: SegmentFormat, segments: impl Iterator<Item = &'a Segment> + Clone) -> Bytes {
    let length: usize = segments.clone().map(|segment| segment.length as usize).sum();
    let packed = segments.filter(|segment| segment.length > 0).map(|segment| (&segment.packed[..], segment.length as usize));
    let plain = match packing {
        SegmentFormat::Gzip => gzip::inflate(packed, length),
        SegmentFormat::Zstd => zstd::unframe(packed, length),
    };
    debug_assert_eq!(plain.len(), length, "what was packed here unpacks to what it was");
    plain.into()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use proptest::prelude::*;

    use super::*;

    const BOTH: [SegmentFormat; 2] = [SegmentFormat::Gzip, SegmentFormat::Zstd];

    /// As a client unpacks it: one gzip member with nothing behind it, or frames.
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
        fn any_choice_of_segments_joins_into_one_stream(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..5000), 0..8)) {
            for packing in BOTH {
                let mut press = SegmentEncoder::of(packing);
                let segments: Vec<_> = pieces.iter().enumerate().map(|(at, piece)| if at % 2 == 0 { press.pack(piece) } else { Segment::store(piece, packing) }).collect();
                prop_assert_eq!(unpacked(packing, &join(packing, &alone(packing), segments.iter())), pieces.concat());
                prop_assert_eq!(&unpack(packing, segments.iter())[..], &pieces.concat()[..]);
                // Settled, and every other one left out.
                let mut segments = segments;
                let arena = settle(packing, &mut segments.iter_mut().collect::<Vec<_>>());
                let whole = join(packing, &arena, segments.iter());
                prop_assert!(whole.len() <= 2);
                prop_assert_eq!(unpacked(packing, &whole), pieces.concat());
                let some = pieces.iter().step_by(2).flatten().copied().collect::<Vec<_>>();
                prop_assert_eq!(unpacked(packing, &join(packing, &arena, segments.iter().step_by(2))), some);
            }
        }
    }

    #[test]
    fn large_and_repetitive_pieces_survive() {
        let piece: Vec<u8> = (0..3_000_000_u32).flat_map(|n| (n / 700).to_le_bytes()).collect();
        for packing in BOTH {
            let segment = SegmentEncoder::of(packing).pack(&piece);
            assert!(segment.packed().len() < piece.len() / 10);
            assert_eq!(unpack(packing, [&segment].into_iter()), piece);
            let stored = Segment::store(&piece, packing);
            assert_eq!(unpack(packing, [&stored].into_iter()), piece);
            let all = [&segment, &stored, &segment];
            assert_eq!(unpacked(packing, &join(packing, &alone(packing), all.into_iter())).len(), piece.len() * 3);
        }
    }

    #[test]
    fn a_stored_piece_of_any_length_is_read_again() {
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
