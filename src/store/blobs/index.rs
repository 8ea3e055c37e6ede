//! The in-memory index of blobs: size, recency and mappings. It never accesses the disk and never blocks.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use crate::clock::{Clock, SystemClock};
use crate::npm::Digest;
use crate::store::blobs::mmap::MappedFile;

/// Disk space of a file is a multiple of this on common file systems, and most tarballs have only a few blocks.
const BLOCK: u64 = 4096;

/// Limits for maps kept after their last use. Low, because mapping again costs about 8 us and kept pages count as resident.
const KEPT_BYTES: u64 = 64 << 20;
const KEPT_MAPS: usize = 1024;

/// How far recency on disk may lag behind recency in memory.
pub(crate) const STAMP_INTERVAL: Duration = Duration::from_hours(1);

/// The index of all blobs. It needs about 200 bytes per blob, so 20 MB for 100,000.
#[derive(Default)]
pub(crate) struct BlobIndex(Mutex<State>);

#[derive(Default)]
struct State {
    blobs: HashMap<Digest, BlobEntry>,
    /// Blobs that are being opened. Other tasks wait until the sender is dropped, and eviction skips them.
    opening: HashMap<Digest, watch::Sender<()>>,
    bytes: u64,
    kept: VecDeque<Digest>,
    kept_bytes: u64,
    /// The last instant used, so that no two uses have the same.
    latest: u64,
    scanned: bool,
}

#[derive(Default)]
struct BlobEntry {
    footprint: u64,
    /// When it was last used, in nanoseconds since 1970.
    used: u64,
    /// The recency recorded in the file system.
    stamped: u64,
    verified: bool,
    /// Whether it was used since the last pass over the kept maps.
    used_again: bool,
    kept: Option<Arc<MappedFile>>,
    mapped_file: Weak<MappedFile>,
}

pub(crate) enum OpenState {
    /// It is mapped. `stamp` is set if the use must be recorded in the file system.
    Mapped { mapping: Arc<MappedFile>, stamp: bool },
    /// The caller must open the file. Other tasks wait until the guard is dropped.
    Opening(OpenGuard),
    /// Another task is opening the file. Retry when the channel closes.
    Elsewhere(watch::Receiver<()>),
}

pub(crate) struct OpenGuard {
    index: Arc<BlobIndex>,
    digest: Digest,
    pub(crate) verified: bool,
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        // Dropping the sender wakes the waiting tasks.
        let ended = self.index.lock().opening.remove(&self.digest);
        drop(ended);
    }
}

impl BlobIndex {
    pub(crate) fn take(self: &Arc<Self>, digest: &Digest) -> OpenState {
        let mut state = self.lock();
        if let Some((mapping, stamp)) = state.mapped(digest) {
            return OpenState::Mapped { mapping, stamp };
        }
        if let Some(sender) = state.opening.get(digest) {
            return OpenState::Elsewhere(sender.subscribe());
        }
        state.opening.insert(digest.clone(), watch::Sender::new(()));
        let verified = state.blobs.get(digest).is_some_and(|blob| blob.verified);
        OpenState::Opening(OpenGuard { index: Arc::clone(self), digest: digest.clone(), verified })
    }

    /// Returns the map of a blob if it is mapped now. Counts as a use.
    pub(crate) fn mapped(&self, digest: &Digest) -> Option<Arc<MappedFile>> {
        self.mapped_and_due(digest).map(|(mapping, _)| mapping)
    }

    /// Like [`BlobIndex::mapped`], and returns whether the use must be recorded in the file system.
    pub(crate) fn mapped_and_due(&self, digest: &Digest) -> Option<(Arc<MappedFile>, bool)> {
        self.lock().mapped(digest)
    }

    /// Records a use of a blob without mapping it. Returns whether the use must be recorded in the file system.
    pub(crate) fn touch(&self, digest: &Digest) -> bool {
        self.lock().record_use(digest).is_some_and(|(_, stamp)| stamp)
    }

    pub(crate) fn is_verified(&self, digest: &Digest) -> bool {
        self.lock().blobs.get(digest).is_some_and(|blob| blob.verified)
    }

    /// Inserts a verified blob with its map. `stamped` is the recency of its file.
    pub(crate) fn insert(&self, digest: &Digest, mapping: &Arc<MappedFile>, stamped: SystemTime) {
        let mut state = self.lock();
        let used = state.tick();
        let footprint = footprint(mapping.len());
        let blob = state.entry(digest, footprint);
        blob.used = used;
        blob.stamped = nanoseconds(stamped);
        blob.verified = true;
        blob.mapped_file = Arc::downgrade(mapping);
        let dropped = state.keep(digest, mapping);
        drop(state);
        // Unmapping is slow, so it happens outside the lock.
        drop(dropped);
    }

    /// Adds a file found on disk, unless it is known.
    pub(crate) fn add_scanned(&self, digest: &Digest, length: u64, stamped: SystemTime) {
        let mut state = self.lock();
        if state.blobs.contains_key(digest) {
            return;
        }
        // A file time in the future must not keep a blob permanently.
        let stamped = nanoseconds(stamped).min(state.tick());
        let blob = state.entry(digest, footprint(length));
        (blob.used, blob.stamped) = (stamped, stamped);
    }

    /// Marks the scan as complete. Evictions are possible from now on.
    pub(crate) fn finish_scan(&self) {
        self.lock().scanned = true;
    }

    pub(crate) fn forget(&self, digest: &Digest) {
        let mut state = self.lock();
        let removed = state.remove(digest);
        drop(state);
        drop(removed);
    }

    /// Removes a blob that is not in use. Returns `false` if it is in use or unknown.
    pub(crate) fn forget_idle(&self, digest: &Digest) -> bool {
        let mut state = self.lock();
        let idle = state.blobs.get(digest).is_some_and(BlobEntry::is_idle) && !state.opening.contains_key(digest);
        let removed = if idle { state.remove(digest) } else { None };
        drop(state);
        removed.is_some()
    }

    /// Returns the idle blobs to evict so that at most `goal` bytes remain, least recently used first. Empty while the total is
    /// within `limit`, and until the scan is complete, because the oldest blobs are unknown before.
    pub(crate) fn eviction_candidates(&self, limit: u64, goal: u64) -> Vec<Digest> {
        let state = self.lock();
        if !state.scanned || state.bytes <= limit {
            return Vec::new();
        }
        let excess = state.bytes - goal.min(state.bytes);
        let mut idle: Vec<(u64, u64)> =
            state.blobs.values().filter(|blob| blob.is_idle()).map(|blob| (blob.used, blob.footprint)).collect();
        drop(state);
        idle.sort_unstable();
        let (mut freed, mut newest) = (0, 0);
        for (used, footprint) in idle {
            if freed >= excess {
                break;
            }
            freed += footprint;
            newest = used;
        }
        let state = self.lock();
        let old = state.blobs.iter().filter(|(_, blob)| blob.used <= newest && blob.is_idle());
        let mut old: Vec<(u64, Digest)> = old.map(|(digest, blob)| (blob.used, digest.clone())).collect();
        drop(state);
        old.sort_unstable();
        old.into_iter().map(|(_, digest)| digest).collect()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    pub(crate) fn len(&self) -> u64 {
        self.lock().blobs.len() as u64
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn mapped(&mut self, digest: &Digest) -> Option<(Arc<MappedFile>, bool)> {
        let mapping = self.blobs.get(digest)?.mapped_file.upgrade()?;
        let (blob, stamp) = self.record_use(digest)?;
        blob.used_again = true;
        Some((mapping, stamp))
    }

    fn record_use(&mut self, digest: &Digest) -> Option<(&mut BlobEntry, bool)> {
        let used = self.tick();
        let blob = self.blobs.get_mut(digest)?;
        blob.used = used;
        let stamp = Duration::from_nanos(used.saturating_sub(blob.stamped)) >= STAMP_INTERVAL;
        if stamp {
            blob.stamped = used;
        }
        Some((blob, stamp))
    }

    fn entry(&mut self, digest: &Digest, footprint: u64) -> &mut BlobEntry {
        let blob = self.blobs.entry(digest.clone()).or_default();
        self.bytes = self.bytes - blob.footprint + footprint;
        blob.footprint = footprint;
        blob
    }

    fn remove(&mut self, digest: &Digest) -> Option<BlobEntry> {
        let blob = self.blobs.remove(digest)?;
        self.bytes -= blob.footprint;
        if let Some(kept) = &blob.kept {
            self.kept_bytes -= kept.len();
            self.kept.retain(|other| other != digest);
        }
        Some(blob)
    }

    /// Keeps a map after its use. Returns the maps to drop because of the limits.
    fn keep(&mut self, digest: &Digest, mapping: &Arc<MappedFile>) -> Vec<Arc<MappedFile>> {
        let mut removed = Vec::new();
        if mapping.len() > KEPT_BYTES {
            return removed;
        }
        let Some(blob) = self.blobs.get_mut(digest) else { return removed };
        self.kept_bytes += mapping.len();
        match blob.kept.replace(Arc::clone(mapping)) {
            None => self.kept.push_back(digest.clone()),
            Some(old) => {
                self.kept_bytes -= old.len();
                removed.push(old);
            }
        }
        while self.kept_bytes > KEPT_BYTES || self.kept.len() > KEPT_MAPS {
            let Some(oldest) = self.kept.pop_front() else { break };
            let Some(blob) = self.blobs.get_mut(&oldest) else { continue };
            if std::mem::take(&mut blob.used_again) {
                self.kept.push_back(oldest);
                continue;
            }
            if let Some(old) = blob.kept.take() {
                self.kept_bytes -= old.len();
                removed.push(old);
            }
        }
        removed
    }

    fn tick(&mut self) -> u64 {
        let now = u64::try_from(SystemClock.now().as_nanosecond()).unwrap_or_default();
        self.latest = now.max(self.latest + 1);
        self.latest
    }
}

impl BlobEntry {
    fn is_idle(&self) -> bool {
        self.mapped_file.strong_count() <= usize::from(self.kept.is_some())
    }
}

fn footprint(length: u64) -> u64 {
    length.max(1).next_multiple_of(BLOCK)
}

fn nanoseconds(instant: SystemTime) -> u64 {
    let since = instant.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "only the order of the instants matters")]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::npm::Algorithm;

    fn digest(number: usize) -> Digest {
        Digest::of(Algorithm::Sha256, &number.to_le_bytes())
    }

    fn mapping(length: u64) -> Arc<MappedFile> {
        let mut file = tempfile::tempfile().unwrap();
        file.set_len(length).unwrap();
        file.flush().unwrap();
        Arc::new(MappedFile::of(&file).unwrap())
    }

    #[test]
    fn kept_maps_are_bounded_in_number_and_used_ones_stay() {
        let index = BlobIndex::default();
        let (shared, hot) = (mapping(10), mapping(10));
        index.insert(&digest(0), &hot, SystemTime::now());
        let seen = Arc::downgrade(&hot);
        drop(hot);
        for number in 1..3000 {
            index.insert(&digest(number), &shared, SystemTime::now());
            assert!(index.mapped(&digest(0)).is_some());
        }
        assert_eq!(index.lock().kept.len(), KEPT_MAPS);
        assert_eq!(index.lock().kept_bytes, 10 * KEPT_MAPS as u64);
        for number in 3000..9000 {
            index.insert(&digest(number), &shared, SystemTime::now());
        }
        assert!(seen.upgrade().is_none(), "an unused map is dropped");
        assert!(index.is_verified(&digest(0)), "the blob stays verified");
    }

    #[test]
    fn kept_maps_are_bounded_in_bytes() {
        let index = BlobIndex::default();
        for number in 0..10 {
            index.insert(&digest(number), &mapping(KEPT_BYTES / 4), SystemTime::now());
        }
        assert_eq!(index.lock().kept.len(), 4);
        assert_eq!(index.lock().kept_bytes, KEPT_BYTES);
        let large = mapping(KEPT_BYTES + 1);
        index.insert(&digest(99), &large, SystemTime::now());
        assert_eq!(Arc::strong_count(&large), 1);
    }

    #[test]
    fn no_eviction_before_the_scan_is_complete() {
        let index = BlobIndex::default();
        for number in 0..4 {
            index.add_scanned(&digest(number), 5000, UNIX_EPOCH + Duration::from_secs(number as u64));
        }
        assert_eq!(index.bytes(), 4 * 8192);
        assert!(index.eviction_candidates(8192, 8192).is_empty());
        index.finish_scan();
        assert_eq!(index.eviction_candidates(3 * 8192, 2 * 8192), [digest(0), digest(1)]);
        assert!(index.eviction_candidates(4 * 8192, 0).is_empty());
    }

    #[test]
    fn use_is_stamped_once_an_hour() {
        let index = Arc::new(BlobIndex::default());
        let map = mapping(1);
        let stamps = |index: &Arc<BlobIndex>| matches!(index.take(&digest(1)), OpenState::Mapped { stamp: true, .. });
        index.insert(&digest(1), &map, SystemTime::now());
        assert!(!stamps(&index));
        index.insert(&digest(1), &map, SystemTime::now() - 2 * STAMP_INTERVAL);
        assert!(stamps(&index));
        assert!(!stamps(&index));
    }

    #[test]
    fn touched_blob_is_not_evicted() {
        let index = BlobIndex::default();
        for number in 0..3 {
            index.add_scanned(&digest(number), 1, UNIX_EPOCH + Duration::from_secs(number as u64));
        }
        index.finish_scan();
        assert!(index.touch(&digest(0)), "the recorded use is old");
        assert!(!index.touch(&digest(0)) && !index.touch(&digest(9)));
        assert_eq!(index.eviction_candidates(2 * 4096, 2 * 4096), [digest(1)]);
    }

    #[test]
    fn file_time_in_the_future_does_not_keep_a_blob() {
        let index = BlobIndex::default();
        index.add_scanned(&digest(1), 1, SystemTime::now() + Duration::from_secs(1 << 33));
        index.insert(&digest(2), &mapping(1), SystemTime::now());
        index.finish_scan();
        assert_eq!(index.eviction_candidates(4096, 4096), [digest(1)]);
    }

    #[tokio::test]
    async fn waiting_task_is_woken_when_the_open_ends() {
        let index = Arc::new(BlobIndex::default());
        let OpenState::Opening(opening) = index.take(&digest(1)) else { panic!("not being opened") };
        let OpenState::Elsewhere(mut ended) = index.take(&digest(1)) else { panic!("being opened") };
        let waiting = tokio::spawn(async move { ended.changed().await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(opening);
        assert!(waiting.await.unwrap().is_err(), "the sender is dropped");
        assert!(matches!(index.take(&digest(1)), OpenState::Opening(_)));
    }
}
