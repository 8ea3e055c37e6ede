//! A buffer of shared chunks, sent with one vectored write and never copied into one buffer.

use std::io::IoSlice;
use std::sync::Arc;

use bytes::{Buf, Bytes};

/// Bytes to send, in one chunk or in several shared chunks.
#[derive(Debug, Clone, Default)]
pub struct ChunkedBuf {
    /// The rest of the chunk being sent. Empty only at the end.
    current: Bytes,
    /// All chunks; those from `next` on follow `current`.
    pieces: Option<Arc<[Bytes]>>,
    next: usize,
    /// The total number of bytes left. The last chunk may be longer.
    left: usize,
}

impl ChunkedBuf {
    pub fn of(pieces: Arc<[Bytes]>) -> Self {
        let left = pieces.iter().map(Bytes::len).sum();
        let mut buffer = Self { current: Bytes::new(), pieces: Some(pieces), next: 0, left };
        buffer.skip_empty();
        buffer
    }

    /// Splits off the first `most` bytes, or all if there are fewer.
    pub(crate) fn split_to(&mut self, most: usize) -> Self {
        let first = Self { left: self.left.min(most), ..self.clone() };
        self.advance(first.left);
        first
    }

    /// Moves to the next non-empty chunk if the current one is sent.
    fn skip_empty(&mut self) {
        while self.current.is_empty() && self.left > 0 {
            let Some(piece) = self.pieces.as_ref().and_then(|pieces| pieces.get(self.next)) else { return };
            self.current = piece.clone();
            self.next += 1;
        }
    }
}

impl From<Bytes> for ChunkedBuf {
    fn from(bytes: Bytes) -> Self {
        Self { left: bytes.len(), current: bytes, pieces: None, next: 0 }
    }
}

impl Buf for ChunkedBuf {
    fn remaining(&self) -> usize {
        self.left
    }

    fn chunk(&self) -> &[u8] {
        &self.current[..self.current.len().min(self.left)]
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let (mut filled, mut left) = (0, self.left);
        let behind = self.pieces.as_deref().unwrap_or_default().get(self.next..).unwrap_or_default();
        let pieces = std::iter::once(&self.current).chain(behind).filter(|piece| !piece.is_empty());
        for (slice, piece) in slices.iter_mut().zip(pieces) {
            if left == 0 {
                break;
            }
            let length = piece.len().min(left);
            *slice = IoSlice::new(&piece[..length]);
            (filled, left) = (filled + 1, left - length);
        }
        filled
    }

    /// # Panics
    /// Panics if fewer than `count` bytes are left, like [`Buf::advance`].
    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.left, "cannot advance by {count} bytes: only {} left", self.left);
        while count > 0 {
            let step = count.min(self.current.len());
            self.current.advance(step);
            (self.left, count) = (self.left - step, count - step);
            self.skip_empty();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn split_and_vectored_reads_yield_the_bytes_of_all_chunks(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..8),
            cuts in prop::collection::vec(1_usize..30, 0..8),
            steps in prop::collection::vec(1_usize..9, 1..8),
        ) {
            let whole = pieces.concat();
            let shared: Arc<[Bytes]> = pieces.into_iter().map(Bytes::from).collect();
            let mut rest = ChunkedBuf::of(shared);
            let mut read = Vec::new();
            for most in cuts.into_iter().chain([usize::MAX]) {
                let mut buffer = rest.split_to(most);
                prop_assert!(buffer.remaining() <= most);
                for step in steps.iter().cycle() {
                    let mut slices = [IoSlice::new(&[]); 3];
                    let filled = buffer.chunks_vectored(&mut slices);
                    let seen: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.iter().copied()).collect();
                    prop_assert!(seen.starts_with(buffer.chunk()));
                    prop_assert_eq!(buffer.has_remaining(), !seen.is_empty());
                    let length = seen.len().min(*step);
                    read.extend_from_slice(&seen[..length]);
                    buffer.advance(length);
                    if !buffer.has_remaining() {
                        break;
                    }
                }
            }
            prop_assert_eq!(rest.remaining(), 0);
            prop_assert_eq!(read, whole);
        }
    }
}
