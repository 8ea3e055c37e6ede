//! Blobs: immutable bytes filed under what they hash to, documents and tarballs apart.

pub mod disk;
pub(crate) mod index;
pub(crate) mod mmap;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use crate::npm::{Algorithm, Digest, Hasher, Integrity};
use crate::store::StoreError;

/// The bytes of a blob that is being opened: `None` where it is missing.
pub type OpenBlob = Pin<Box<dyn Future<Output = Result<Option<Bytes>, StoreError>> + Send>>;

/// What a blob holds. The two have name spaces of their own: a document is named by its SHA-256, a tarball by its SHA-512, so that
/// no statement about a tarball leads to a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobKind {
    /// A packument as it came over the wire.
    Document,
    /// A tarball.
    Tarball,
}

impl BlobKind {
    /// The algorithm whose digest names a blob of this kind.
    #[must_use]
    pub fn algorithm(self) -> Algorithm {
        match self {
            Self::Document => Algorithm::Sha256,
            Self::Tarball => Algorithm::Sha512,
        }
    }
}

/// A blob that was written.
#[derive(Debug, Clone)]
pub struct Committed {
    /// Every digest that was computed of its bytes; the one of its kind's algorithm is its name.
    pub digests: Integrity,
    /// The bytes, mapped.
    pub bytes: Bytes,
}

/// A place for immutable bytes.
pub trait BlobStore: Send + Sync {
    /// The bytes filed under `digest`, mapped. Verified at its first opening by this process, on a thread of the blocking pool;
    /// one that fails is dropped, counted, and `None`. While it is opened by another, the future waits and no thread does.
    fn open(&self, digest: &Digest) -> OpenBlob;

    /// The bytes filed under `digest` if they are mapped now. Does not block.
    fn mapped(&self, digest: &Digest) -> Option<Bytes>;

    /// Whether `digest` is there and was verified by this process: then [`BlobStore::open`] hashes nothing.
    fn is_warm(&self, digest: &Digest) -> bool;

    /// Removes a blob, whoever uses it: bytes that are on their way to a client go on. Whether it was there.
    ///
    /// # Errors
    /// When the file is there and cannot be removed.
    fn remove(&self, digest: &Digest) -> Result<bool, StoreError>;

    /// Notes a use of `digest` that did not open it: what stands in memory must not be the first to go from the disk.
    fn touch(&self, digest: &Digest);

    /// Starts a blob that must match what `hasher` expects, and is filed under the digest of its kind's algorithm. Dropping it keeps
    /// nothing.
    ///
    /// # Errors
    /// When no temporary file can be made.
    fn begin(self: Arc<Self>, kind: BlobKind, hasher: Hasher) -> Result<Box<dyn PendingBlob>, StoreError>;
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
    fn commit(self: Box<Self>) -> Result<Committed, StoreError>;
}
