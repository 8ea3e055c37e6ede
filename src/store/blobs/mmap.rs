//! Mapped files as bytes. The one place of the store with `unsafe`; refuses to know which file it maps.

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use memmap2::Mmap;

/// A mapped file. Whoever holds bytes lent from it holds it open, also after the file lost its name.
pub(crate) struct MappedFile(Mmap);

impl MappedFile {
    /// Maps a whole file, which may be empty.
    ///
    /// # Errors
    /// When the operating system does not map it: out of address space, or not a regular file.
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        #[expect(
            unsafe_code,
            reason = "mapping is what makes a hit cost no copy, and memmap2 cannot promise what the file system does"
        )]
        // SAFETY: a map is sound while nobody writes to or truncates the file. Blobs are written under a temporary name
        // by us alone, mapped when they are complete, and from then on only renamed and unlinked, which leaves the
        // mapped inode as it is. The directory is 0700 and locked by this process.
        let map = unsafe { Mmap::map(file) }?;
        Ok(Self(map))
    }

    /// How many bytes are mapped.
    pub(crate) fn len(&self) -> u64 {
        self.0.len() as u64
    }
}

/// Bytes that keep `mapping` in use for as long as a clone or a slice of them lives.
pub(crate) fn lend(mapping: Arc<MappedFile>) -> Bytes {
    struct Lent(Arc<MappedFile>);
    impl AsRef<[u8]> for Lent {
        fn as_ref(&self) -> &[u8] {
            &self.0.0
        }
    }
    Bytes::from_owner(Lent(mapping))
}
