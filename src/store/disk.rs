//! Blobs as files: `blobs/<algorithm>/<two digits>/<hex>`, written aside, hashed as they land, renamed into place, never
//! changed again. Refuses to know what is in them.
//!
//! Killed at any instant, a name under `blobs/` holds the whole blob or nothing: its bytes are synced before they get it.
//! The directory itself is not synced; a power cut may lose a name, which costs one fetch.

use std::fs::{self, File, FileTimes};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::SystemTime;

use bytes::Bytes;
use tempfile::NamedTempFile;

use super::StoreError;
use super::blobs::{Blobs, PendingBlob};
use super::data_dir::{DataDir, Ownership};
use super::mapping::{Mapping, lend};
use super::shelf::{Opening, STAMP_EVERY, Shelf, Taken};
use crate::npm::{Algorithm, Digest, Hasher, Integrity};

/// Blobs in a data directory, bounded in bytes: the least recently used goes first, never one that is in use.
pub struct DiskBlobs {
    files: Arc<Files>,
    temporary: PathBuf,
    count: Option<JoinHandle<()>>,
    _ownership: Ownership,
}

/// What the disk holds now, and what was lost since this process started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BlobStatistics {
    /// Bytes on disk, each blob rounded up to blocks of 4 KiB. Grows until the count at start is done.
    pub bytes: u64,
    /// Blobs on disk.
    pub blobs: u64,
    /// Blobs that did not hash to their name and were deleted.
    pub dropped: u64,
    /// Blobs that made room for others.
    pub evicted: u64,
}

impl DiskBlobs {
    /// The blobs of a data directory, at most `cache_size` bytes of them. What lies there is counted on a thread of its
    /// own; until that is done nothing is evicted.
    ///
    /// # Errors
    /// When that thread cannot be started.
    pub fn open(data_dir: &DataDir, cache_size: u64) -> Result<Arc<Self>, StoreError> {
        let root = data_dir.blobs();
        let files = Arc::new(Files {
            root: root.clone(),
            limit: cache_size,
            shelf: Shelf::new(),
            placing: Mutex::new(()),
            closing: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
        });
        let counted = Arc::clone(&files);
        let count = std::thread::Builder::new()
            .name("coldframe-blobs".to_owned())
            .spawn(move || counted.count())
            .map_err(StoreError::file("start a thread that counts", root))?;
        let temporary = data_dir.temporary();
        Ok(Arc::new(Self { files, temporary, count: Some(count), _ownership: data_dir.ownership() }))
    }

    /// What the disk holds now.
    #[must_use]
    pub fn statistics(&self) -> BlobStatistics {
        BlobStatistics {
            bytes: self.files.shelf.bytes(),
            blobs: self.files.shelf.len(),
            dropped: self.files.dropped.load(Ordering::Relaxed),
            evicted: self.files.evicted.load(Ordering::Relaxed),
        }
    }
}

impl Drop for DiskBlobs {
    fn drop(&mut self) {
        self.files.closing.store(true, Ordering::Relaxed);
        // Its panic, if it had one, was printed where it happened.
        let _ = self.count.take().map(JoinHandle::join);
    }
}

impl Blobs for DiskBlobs {
    fn open(&self, digest: &Digest) -> Result<Option<Bytes>, StoreError> {
        match self.files.shelf.take(digest) {
            Taken::Mapped { mapping, stamp } => {
                if stamp {
                    self.files.stamp(digest);
                }
                Ok(Some(lend(mapping)))
            }
            Taken::Opening(opening) => self.files.open(digest, opening),
        }
    }

    fn is_warm(&self, digest: &Digest) -> bool {
        self.files.shelf.is_verified(digest)
    }

    fn begin(self: Arc<Self>, expected: Integrity) -> Result<Box<dyn PendingBlob>, StoreError> {
        let file = NamedTempFile::new_in(&self.temporary).map_err(StoreError::file("create a file in", &self.temporary))?;
        Ok(Box::new(Landing {
            digest: expected.strongest().clone(),
            hasher: Hasher::new(expected),
            file,
            length: 0,
            blobs: self,
        }))
    }
}

/// A blob in its temporary file, which goes when this does.
struct Landing {
    digest: Digest,
    hasher: Hasher,
    file: NamedTempFile,
    length: u64,
    blobs: Arc<DiskBlobs>,
}

impl PendingBlob for Landing {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.as_file_mut().write_all(bytes).map_err(StoreError::file("write", self.file.path()))?;
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn commit(self: Box<Self>) -> Result<Bytes, StoreError> {
        let Self { digest, hasher, file, length, blobs } = *self;
        hasher.finish()?;
        let written = file.as_file().metadata().map_err(StoreError::file("look at", file.path()))?.len();
        if written != length {
            // A write that failed half-way was tried again: the hasher saw its bytes once, the file more often.
            let source = io::Error::new(io::ErrorKind::InvalidData, format!("{written} bytes on disk instead of {length}"));
            return Err(StoreError::file("write", file.path())(source));
        }
        file.as_file().sync_data().map_err(StoreError::file("sync", file.path()))?;
        let mapping = Mapping::of(file.as_file()).map_err(StoreError::file("map", file.path()))?;
        let mapping = blobs.files.place(&digest, file, Arc::new(mapping))?;
        blobs.files.make_room();
        Ok(lend(mapping))
    }
}

/// The files and what is known of them; shared with the thread that counts.
struct Files {
    root: PathBuf,
    limit: u64,
    shelf: Shelf,
    /// Held while a name is given or taken, so that a file that just came is not removed for one that just went.
    placing: Mutex<()>,
    closing: AtomicBool,
    dropped: AtomicU64,
    evicted: AtomicU64,
}

impl Files {
    /// Opens a file that is not mapped now; hashes it unless this process did so before.
    fn open(&self, digest: &Digest, opening: Opening<'_>) -> Result<Option<Bytes>, StoreError> {
        let path = self.path(digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.strike_off(digest, &opening);
                return Ok(self.shelf.mapped(digest).map(lend));
            }
            Err(error) => return Err(StoreError::file("open", path)(error)),
        };
        if !opening.verified && !hashes_to(&file, digest).map_err(StoreError::file("read", &path))? {
            self.drop_damaged(digest, &path, &opening)?;
            return Ok(self.shelf.mapped(digest).map(lend));
        }
        let mapping = Arc::new(Mapping::of(&file).map_err(StoreError::file("map", &path))?);
        self.shelf.put(digest, &mapping, note_use(&file));
        Ok(Some(lend(mapping)))
    }

    /// Gives a verified blob its name, unless the same bytes have it and are in use: then those serve.
    fn place(&self, digest: &Digest, file: NamedTempFile, mapping: Arc<Mapping>) -> Result<Arc<Mapping>, StoreError> {
        let path = self.path(digest);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(StoreError::file("create", parent))?;
        }
        let _placing = self.placing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = self.shelf.mapped(digest).filter(|_| path.exists()) {
            return Ok(there);
        }
        file.persist(&path).map_err(|refused| StoreError::file("rename a finished file to", path)(refused.error))?;
        self.shelf.put(digest, &mapping, SystemTime::now());
        Ok(mapping)
    }

    /// Gives up the least recently used blobs until the limit holds again, and a little more so as not to be back soon.
    fn make_room(&self) {
        let goal = self.limit / 100 * 95;
        for digest in self.shelf.surplus(self.limit, goal) {
            if self.shelf.bytes() <= goal || self.closing.load(Ordering::Relaxed) {
                return;
            }
            let _placing = self.placing.lock().unwrap_or_else(PoisonError::into_inner);
            if !self.shelf.forget_idle(&digest) {
                continue;
            }
            let path = self.path(&digest);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    // It is counted again at the next start; until then the limit is off by this one file.
                    tracing::warn!(file.path = %path.display(), error = %error, "cannot remove a blob to make room");
                }
                _ => _ = self.evicted.fetch_add(1, Ordering::Relaxed),
            }
        }
    }

    /// Takes note of every file, then makes room if a smaller limit was set since.
    fn count(&self) {
        for algorithm in [Algorithm::Sha1, Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha512] {
            for shard in list(&self.root.join(algorithm.as_str())) {
                for file in list(&shard.path()) {
                    if self.closing.load(Ordering::Relaxed) {
                        return;
                    }
                    let Some(digest) = file.file_name().to_str().and_then(|name| read_name(algorithm, name)) else { continue };
                    let Ok(metadata) = file.metadata() else { continue };
                    self.shelf.count(&digest, metadata.len(), metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH));
                }
            }
        }
        self.shelf.counted();
        self.make_room();
    }

    /// Deletes a file that is not what its name says, unless it was replaced by one that is.
    fn drop_damaged(&self, digest: &Digest, path: &Path, opening: &Opening<'_>) -> Result<(), StoreError> {
        let _placing = self.placing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.shelf.is_verified(digest) != opening.verified {
            return Ok(());
        }
        self.shelf.forget(digest);
        self.dropped.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(blob.digest = %digest.to_sri(), "dropped a blob that is not what its name says");
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::file("remove", path)(error)),
            _ => Ok(()),
        }
    }

    /// Strikes off a blob whose file is not there, unless it came while we looked.
    fn strike_off(&self, digest: &Digest, opening: &Opening<'_>) {
        let _placing = self.placing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.shelf.is_verified(digest) == opening.verified && !self.path(digest).exists() {
            self.shelf.forget(digest);
        }
    }

    fn stamp(&self, digest: &Digest) {
        if let Ok(file) = File::open(self.path(digest)) {
            note_use(&file);
        }
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.to_hex();
        self.root.join(digest.algorithm().as_str()).join(&hex[..2]).join(hex)
    }
}

/// Lets the file system know of a use, so that recency outlives this process, unless it knows of one not long ago.
/// Answers with what it knows now. Losing one is no loss.
fn note_use(file: &File) -> SystemTime {
    let now = SystemTime::now();
    let known = file.metadata().and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    if now.duration_since(known).is_ok_and(|ago| ago < STAMP_EVERY) {
        return known;
    }
    let _ = file.set_times(FileTimes::new().set_modified(now));
    now
}

/// The digest a file is named after, if it is named after one.
fn read_name(algorithm: Algorithm, name: &str) -> Option<Digest> {
    if !name.len().is_multiple_of(2) || !name.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let bytes: Option<Vec<u8>> =
        (0..name.len()).step_by(2).map(|at| u8::from_str_radix(name.get(at..at + 2)?, 16).ok()).collect();
    Digest::from_bytes(algorithm, &bytes?)
}

/// Hashes through reads and not through a map: a sector that cannot be read is then an error and not a signal.
fn hashes_to(mut file: &File, digest: &Digest) -> io::Result<bool> {
    let mut hasher = Hasher::new(Integrity::single(digest.clone()));
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish().is_ok()),
            Ok(length) => hasher.update(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// What lies in a directory; nothing when it is not there or cannot be read, since counting is no reason to fail.
fn list(directory: &Path) -> impl Iterator<Item = fs::DirEntry> {
    fs::read_dir(directory).into_iter().flatten().flatten()
}
