//! Reuses buffers and compressors for parsing and rendering packuments. Without the pool, each document would allocate, clear and
//! free megabytes of memory.

use std::sync::{Mutex, PoisonError};

use crate::npm::compression::SegmentEncoder;

/// The largest buffer that is kept for reuse, in bytes. Few documents are larger.
const MAX_KEPT_BYTES: usize = 16 << 20;

/// The buffers of one worker.
#[derive(Default)]
pub(crate) struct ParseScratch {
    /// The compressor.
    pub press: SegmentEncoder,
    /// The buffer for a decompressed document.
    pub plain: Vec<u8>,
}

/// The unused scratch buffers.
pub(crate) struct ScratchPool {
    free: Mutex<Vec<ParseScratch>>,
    most: usize,
}

impl ScratchPool {
    /// Creates a pool that keeps at most `most` unused buffers.
    #[must_use]
    pub(crate) fn new(most: usize) -> Self {
        Self { free: Mutex::default(), most }
    }

    /// Runs `work` with unused buffers, or with new ones.
    pub(crate) fn with_scratch<T>(&self, work: impl FnOnce(&mut ParseScratch) -> T) -> T {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut scratch = free.unwrap_or_default();
        let done = work(&mut scratch);
        if scratch.plain.capacity() > MAX_KEPT_BYTES {
            scratch.plain = Vec::new();
        }
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < self.most {
            free.push(scratch);
        }
        done
    }
}
