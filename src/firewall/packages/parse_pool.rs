//! What reading and rendering a packument needs at hand: made once, used again and again, a few in all. Refuses to know
//! packuments. Without it every document would have megabytes of memory paged in, cleared and given back.

use std::sync::{Mutex, PoisonError};

use crate::npm::compression::SegmentEncoder;

/// The most that a workbench keeps of its room for the plain document, in bytes: the largest few are not kept for.
const LARGEST_KEPT: usize = 16 << 20;

/// One place to work at.
#[derive(Default)]
pub(crate) struct ParseScratch {
    /// Packs.
    pub press: SegmentEncoder,
    /// Room for a document that has to be inflated.
    pub plain: Vec<u8>,
}

/// All places that nobody works at now.
pub(crate) struct ScratchPool {
    free: Mutex<Vec<ParseScratch>>,
    most: usize,
}

impl ScratchPool {
    /// Keeps at most `most` for later.
    #[must_use]
    pub(crate) fn new(most: usize) -> Self {
        Self { free: Mutex::default(), most }
    }

    /// Works at one: a free one, or a new one.
    pub(crate) fn at<T>(&self, work: impl FnOnce(&mut ParseScratch) -> T) -> T {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut bench = free.unwrap_or_default();
        let done = work(&mut bench);
        if bench.plain.capacity() > LARGEST_KEPT {
            bench.plain = Vec::new();
        }
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < self.most {
            free.push(bench);
        }
        done
    }
}
