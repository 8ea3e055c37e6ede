//! zstd frames, each whole in itself: frames behind each other are one stream (RFC 8878 §3), which bun 1.4, pnpm 12 and curl
//! read to its end (tried). Refuses to know what the bytes mean.

use ::zstd::bulk::{Compressor, Decompressor};

/// Three to six times quicker than gzip and smaller on packuments. Its window is 512 KiB; clients take up to 8 MiB (RFC 9659).
const LEVEL: i32 = 1;

const MAGIC: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();

/// The most that one block holds.
const LARGEST_BLOCK: usize = 128 << 10;

/// Writes frames. Holds its tables from the first one on.
#[derive(Default)]
pub(crate) struct ZstdEncoder(Option<Compressor<'static>>);

impl ZstdEncoder {
    /// Packs `plain` into a frame that tells its length and a checksum, in place of what was in `out`. False when memory for it
    /// is missing or nothing is gained: then it is stored.
    pub(crate) fn frame(&mut self, plain: &[u8], out: &mut Vec<u8>) -> bool {
        let Some(compressor) = self.compressor() else { return false };
        out.clear();
        out.reserve(::zstd::zstd_safe::compress_bound(plain.len()));
        compressor.compress_to_buffer(plain, out).is_ok_and(|length| length < plain.len())
    }

    fn compressor(&mut self) -> Option<&mut Compressor<'static>> {
        if self.0.is_none() {
            let mut compressor = Compressor::new(LEVEL).ok()?;
            compressor.include_checksum(true).ok()?;
            self.0 = Some(compressor);
        }
        self.0.as_mut()
    }
}

/// `plain`, which must be shorter than 4 GiB, as a frame of raw blocks: written in a fraction of the time that a compressor
/// takes to start.
pub(crate) fn store(plain: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(plain.len() + 12 + 3 * (plain.len() / LARGEST_BLOCK));
    frame.extend_from_slice(&MAGIC);
    push_length(plain.len(), &mut frame);
    let mut blocks = plain.chunks(LARGEST_BLOCK).peekable();
    if plain.is_empty() {
        push_block(&[], true, &mut frame);
    }
    while let Some(block) = blocks.next() {
        push_block(block, blocks.peek().is_none(), &mut frame);
    }
    frame
}

/// The frame's description: one segment, whose length is told in as few bytes as hold it.
#[expect(clippy::cast_possible_truncation, reason = "each arm writes what fits")]
fn push_length(length: usize, frame: &mut Vec<u8>) {
    match length {
        0..256 => frame.extend_from_slice(&[0x20, length as u8]),
        256..65_792 => {
            frame.push(0x60);
            frame.extend_from_slice(&((length - 256) as u16).to_le_bytes());
        }
        _ => {
            frame.push(0xa0);
            frame.extend_from_slice(&(length as u32).to_le_bytes());
        }
    }
}

/// A raw block: three bytes that hold its length and whether it is the last, then itself.
#[expect(clippy::cast_possible_truncation, reason = "a block is no longer than 128 KiB")]
fn push_block(block: &[u8], last: bool, frame: &mut Vec<u8>) {
    let header = (block.len() as u32) << 3 | u32::from(last);
    frame.extend_from_slice(&header.to_le_bytes()[..3]);
    frame.extend_from_slice(block);
}

/// The plain bytes of frames, each with its plain length, `length` together. Shorter when a frame is broken.
pub(crate) fn unframe<'a>(frames: impl Iterator<Item = (&'a [u8], usize)>, length: usize) -> Vec<u8> {
    let mut plain = vec![0; length];
    let mut start = 0;
    let Ok(mut decompressor) = Decompressor::new() else { return Vec::new() };
    for (frame, length) in frames {
        let Some(room) = plain.get_mut(start..start + length) else { break };
        if decompressor.decompress_to_buffer(frame, room).ok() != Some(length) {
            break;
        }
        start += length;
    }
    plain.truncate(start);
    plain
}
