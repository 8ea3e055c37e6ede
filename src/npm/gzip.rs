//! Gzip in segments: each deflated once and ended at a byte boundary, so that any choice of them joins into one gzip
//! member without compressing again. Refuses to know what the bytes mean.
//!
//! Never several members: some clients read only the first (measured, see the design notes on clients §6).

use std::ops::Range;

use bytes::Bytes;
use flate2::{Compress, Compression, Crc, Decompress, FlushCompress, FlushDecompress, Status};

/// Gzip's header: deflate, no name, no time, unknown system.
const HEADER: &[u8] = &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// An empty last block: ends a deflate stream that stands at a byte boundary.
const LAST_BLOCK: &[u8] = &[0x03, 0x00];

/// The usual level: half a percent larger than 6 and 15 to 40 % quicker (over the packuments of an application, 203 MB).
const QUICK: u32 = 5;

/// The level that zlib calls 6: zlib-rs gives it another match finder up to its own 6. On documents that repeat themselves over
/// kilobytes (`next`) it makes 40 % less of them for half as much time again; on others a few percent for up to four times as much.
const THOROUGH: u32 = 7;

/// How many bytes of a document show which it is.
pub(super) const SAMPLE: usize = 128 << 10;

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
}

/// What deflates: made once and used again, since it holds a quarter of a megabyte that has to be paged in and cleared.
pub struct Press {
    quick: Compress,
    /// Made when it is first tried.
    thorough: Option<Compress>,
    /// Whether the document at hand is worth it.
    is_thorough: bool,
    /// Room to deflate into, so that a segment is allocated once, at its size.
    out: Vec<u8>,
    /// Room for whoever prepares what is to be deflated.
    pub(super) plain: Vec<u8>,
}

impl Default for Press {
    fn default() -> Self {
        let quick = Compress::new(Compression::new(QUICK), false);
        Self { quick, thorough: None, is_thorough: false, out: Vec::new(), plain: Vec::new() }
    }
}

impl Press {
    /// Begins a document: nothing is known of it.
    pub fn begin(&mut self) {
        self.is_thorough = false;
    }

    /// Finds out on a sample how the document at hand is deflated best. The same bytes give the same answer, so that an entity
    /// tag does not change by itself.
    pub fn tune(&mut self, sample: &[u8]) {
        let thorough = self.thorough.get_or_insert_with(|| Compress::new(Compression::new(THOROUGH), false));
        run(&mut self.quick, sample, &mut self.out);
        let quick = self.out.len();
        run(thorough, sample, &mut self.out);
        // A tenth less of a sample is a quarter less and more of the whole.
        self.is_thorough = self.out.len() * 10 < quick * 9;
    }

    /// Deflates `plain`, which must be shorter than 4 GiB.
    #[must_use]
    pub fn deflate(&mut self, plain: &[u8]) -> Segment {
        if plain.len() <= TINY {
            return Segment::store(plain);
        }
        let mut crc = Crc::new();
        crc.update(plain);
        let thorough = self.thorough.as_mut().filter(|_| self.is_thorough);
        run(thorough.unwrap_or(&mut self.quick), plain, &mut self.out);
        Segment { deflated: Bytes::copy_from_slice(&self.out), crc }
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

/// Moves segments behind each other into one piece of memory, which begins with gzip's header.
#[must_use]
pub fn settle(segments: &mut [&mut Segment]) -> Bytes {
    let length: usize = segments.iter().map(|segment| segment.deflated.len()).sum();
    let mut arena = Vec::with_capacity(HEADER.len() + length);
    arena.extend_from_slice(HEADER);
    for segment in &*segments {
        arena.extend_from_slice(&segment.deflated);
    }
    let arena = Bytes::from(arena);
    let mut start = HEADER.len();
    for segment in segments {
        let end = start + segment.deflated.len();
        segment.deflated = arena.slice(start..end);
        start = end;
    }
    arena
}

/// Joins segments into one gzip member. The chunks share the segments' memory, and those that stand behind each other in the
/// `arena` leave as one: a socket takes few large chunks more quickly than many small ones.
#[must_use]
pub fn join<'a>(arena: &Bytes, segments: impl Iterator<Item = &'a Segment>) -> Vec<Bytes> {
    let mut whole = Crc::new();
    let mut chunks: Vec<Bytes> = Vec::new();
    // Part of the arena that is still to be pushed.
    let mut open = 0..HEADER.len();
    for segment in segments.filter(|segment| segment.length() > 0) {
        whole.combine(&segment.crc);
        let Some(place) = place_in(arena, &segment.deflated) else {
            chunks.push(arena.slice(std::mem::take(&mut open)));
            chunks.push(segment.deflated.clone());
            continue;
        };
        if place.start == open.end {
            open.end = place.end;
        } else {
            chunks.push(arena.slice(std::mem::replace(&mut open, place)));
        }
    }
    chunks.push(arena.slice(open));
    let mut end = Vec::with_capacity(10);
    end.extend_from_slice(LAST_BLOCK);
    end.extend_from_slice(&whole.sum().to_le_bytes());
    end.extend_from_slice(&whole.amount().to_le_bytes());
    chunks.push(end.into());
    chunks.retain(|chunk| !chunk.is_empty());
    chunks
}

/// Where `part` lies in `arena`, if it does.
fn place_in(arena: &Bytes, part: &Bytes) -> Option<Range<usize>> {
    let start = (part.as_ptr() as usize).checked_sub(arena.as_ptr() as usize)?;
    let end = start.checked_add(part.len())?;
    (end <= arena.len()).then_some(start..end)
}

/// The plain bytes of segments again.
#[must_use]
pub fn inflate<'a>(segments: impl Iterator<Item = &'a Segment> + Clone) -> Bytes {
    let length: usize = segments.clone().map(|segment| segment.length() as usize).sum();
    let mut plain = Vec::with_capacity(length);
    let mut inflater = Decompress::new(false);
    for segment in segments.filter(|segment| segment.length() > 0) {
        inflater.reset(false);
        let status = inflater.decompress_vec(&segment.deflated, &mut plain, FlushDecompress::Sync);
        debug_assert!(status.is_ok(), "what was deflated here inflates");
    }
    debug_assert_eq!(plain.len(), length, "to what it was");
    plain.into()
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
            let alone = Bytes::from_static(HEADER);
            prop_assert_eq!(inflated(&join(&alone, segments.iter())), pieces.concat());
            prop_assert_eq!(&inflate(segments.iter())[..], &pieces.concat()[..]);
            // Settled, and every other one left out.
            let mut segments = segments;
            let arena = settle(&mut segments.iter_mut().collect::<Vec<_>>());
            let whole = join(&arena, segments.iter());
            prop_assert!(whole.len() <= 2);
            prop_assert_eq!(inflated(&whole), pieces.concat());
            let some = pieces.iter().step_by(2).flatten().copied().collect::<Vec<_>>();
            prop_assert_eq!(inflated(&join(&arena, segments.iter().step_by(2))), some);
        }
    }

    #[test]
    fn large_and_repetitive_pieces_survive() {
        let piece: Vec<u8> = (0..3_000_000_u32).flat_map(|n| (n / 700).to_le_bytes()).collect();
        let segment = Press::default().deflate(&piece);
        assert!(segment.deflated().len() < piece.len() / 10);
        assert_eq!(inflate([&segment].into_iter()), piece);
        let alone = Bytes::from_static(HEADER);
        assert_eq!(inflated(&join(&alone, [&segment, &segment].into_iter())).len(), piece.len() * 2);
    }
}
