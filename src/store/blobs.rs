//! Blobs: immutable bytes filed under what they hash to.

use std::sync::Arc;

use bytes::Bytes;

use super::StoreError;
use crate::npm::{Digest, Integrity};

/// A place for immutable bytes.
pub trait Blobs: Send + Sync {
    /// The bytes filed under `digest`, mapped, or `None`. Verified at its first opening by this process (that call
    /// blocks and hashes); one that fails is dropped, counted, and `None`.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    fn open(&self, digest: &Digest) -> Result<Option<Bytes>, StoreError>;

    /// The bytes filed under `digest` if they are mapped now. Does not block.
    fn mapped(&self, digest: &Digest) -> Option<Bytes>;

    /// Whether `digest` is there and was verified by this process: then [`Blobs::open`] will not block for long.
    fn is_warm(&self, digest: &Digest) -> bool;

    /// Removes a blob, whoever uses it: bytes that are on their way to a client go on. Whether it was there.
    ///
    /// # Errors
    /// When the file is there and cannot be removed.
    fn remove(&self, digest: &Digest) -> Result<bool, StoreError>;

    /// Notes a use of `digest` that did not open it: what stands in memory must not be the first to go from the disk.
    fn touch(&self, digest: &Digest);

    /// Starts a blob that must hash to `expected`; filed under its strongest digest. Dropping it keeps nothing.
    ///
    /// # Errors
    /// When no temporary file can be made.
    fn begin(self: Arc<Self>, expected: Integrity) -> Result<Box<dyn PendingBlob>, StoreError>;
}

/// Bytes on their way into the store.
pub trait PendingBlob: Send {
    /// Takes the next bytes: hashed and written to the temporary file.
    ///
    /// # Errors
    /// When the disk does not take them.
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError>;

    /// Checks every digest, syncs, and renames into place. Losing the race to the same bytes is success.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`] when the bytes are not what was expected: nothing is kept. Otherwise the disk's.
    fn commit(self: Box<Self>) -> Result<Bytes, StoreError>;
}
