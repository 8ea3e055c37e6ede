//! Memory-mapped files as `Bytes`. The only module of the store with `unsafe` code.

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use memmap2::Mmap;

/// A memory-mapped file. Bytes from it keep it mapped, even after the file is removed.
pub(crate) struct MappedFile(Mmap);

impl MappedFile {
    /// Maps a whole file, which may be empty.
    /// Fails if the operating system cannot map it: out of address space, or not a regular file.
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        #[expect(
            unsafe_code,
            reason = "a mapping avoids a copy per cache hit, and memmap2 cannot guarantee that the file does not change"
        )]
        // SAFETY: a map is sound while the file is neither written nor truncated. Only this process writes blobs, under a
        // temporary name. It maps complete files and afterwards only renames or unlinks them, which does not change the mapped
        // inode. The directory has mode 0700 and is locked by this process.
        let map = unsafe { Mmap::map(file) }?;
        Ok(Self(map))
    }

    pub(crate) fn len(&self) -> u64 {
        self.0.len() as u64
    }
}

/// Returns bytes that keep `mapping` alive while any clone or slice of them exists.
pub(crate) fn to_bytes(mapping: Arc<MappedFile>) -> Bytes {
    struct Lent(Arc<MappedFile>);
    impl AsRef<[u8]> for Lent {
        fn as_ref(&self) -> &[u8] {
            &self.0.0
        }
    }
    Bytes::from_owner(Lent(mapping))
}
