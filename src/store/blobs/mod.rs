//! Blobs: immutable bytes stored by digest. Documents and tarballs have separate name spaces.

pub(crate) mod disk;
pub(crate) mod index;
pub(crate) mod mmap;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use crate::npm::{Algorithm, Digest, Hasher, Integrity};
use crate::store::error::StoreError;

/// A future that opens a blob; `None` if the blob is missing.
pub type OpenBlob = Pin<Box<dyn Future<Output = Result<Option<Bytes>, StoreError>> + Send>>;

/// The kind of a blob. Documents are named by SHA-256 and tarballs by SHA-512: an integrity of one never names the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobKind {
    Document,
    Tarball,
}

impl BlobKind {
    pub fn algorithm(self) -> Algorithm {
        match self {
            Self::Document => Algorithm::Sha256,
            Self::Tarball => Algorithm::Sha512,
        }
    }
}

#[derive(Debug, Clone)]
pub struct Committed {
    /// All computed digests. The one of the kind's algorithm is its name.
    pub digests: Integrity,
    pub bytes: Bytes,
}

pub trait BlobStore: Send + Sync {
    /// Opens and maps a blob. The first opening by this process verifies it on the blocking pool. A damaged blob is deleted and
    /// counted, and the result is `None`. If another task is opening the blob, the future waits without a thread.
    fn open(&self, digest: &Digest) -> OpenBlob;

    /// Returns the bytes of `digest` if they are mapped now. Does not block.
    fn mapped(&self, digest: &Digest) -> Option<Bytes>;

    /// Checks whether this process has verified `digest`. If so, [`BlobStore::open`] does not hash it.
    fn is_verified(&self, digest: &Digest) -> bool;

    /// Removes a blob, even one in use: running responses keep their mapped bytes. Returns whether it existed.
    fn remove(&self, digest: &Digest) -> Result<bool, StoreError>;

    /// Records a use of `digest` without opening it, so that the disk keeps a blob whose content is cached in memory.
    fn touch(&self, digest: &Digest);

    /// Starts a blob that must match the digests `hasher` expects. Its kind's digest names it. Dropping it discards the bytes.
    fn begin(self: Arc<Self>, kind: BlobKind, hasher: Hasher) -> Result<Box<dyn PendingBlob>, StoreError>;
}

pub trait PendingBlob: Send {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError>;

    /// Checks all digests, syncs the file and renames it into place. Succeeds also if another task stored the same bytes first.
    /// Returns [`StoreError::Mismatch`] and keeps nothing if the bytes do not match.
    fn commit(self: Box<Self>) -> Result<Committed, StoreError>;
}
