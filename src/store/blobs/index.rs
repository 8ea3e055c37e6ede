//! The shelf: which blobs lie on disk, how large, how lately used, which are mapped and which are lent out. In memory
//! alone; refuses to touch the disk.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use crate::clock::{Clock, SystemClock};
use crate::npm::Digest;
use crate::store::blobs::mmap::MappedFile;

/// What a file takes on disk is a multiple of this on every file system we met, and most tarballs are only a few of it.
const BLOCK: u64 = 4096;

/// Maps are kept after their last use up to these bounds. Mapping again costs about 8 us, so they need not be generous;
/// pages of kept maps count as resident memory.
const KEPT_BYTES: u64 = 64 << 20;
const KEPT_MAPS: usize = 1024;

/// How far back the recency on disk may lag behind the one in memory.
pub(crate) const STAMP_EVERY: Duration = Duration::from_hours(1);

/// Knows every blob. About 200 bytes a blob, so a hundred thousand of them cost 20 MB.
pub(crate) struct BlobIndex {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    blobs: HashMap<Digest, BlobEntry>,
    /// Being opened right now: others wait until the sender is gone, and eviction stays away.
    opening: HashMap<Digest, watch::Sender<()>>,
    bytes: u64,
    kept: VecDeque<Digest>,
    kept_bytes: u64,
    /// The last instant given out, so that no two uses share one.
    latest: u64,
    counted: bool,
}

struct BlobEntry {
    footprint: u64,
    /// When it was last used, in nanoseconds since 1970.
    used: u64,
    /// The recency that the file system knows.
    stamped: u64,
    /// Whether this process saw that it hashes to its name.
    verified: bool,
    /// Whether it was used since the kept maps were last gone through.
    again: bool,
    kept: Option<Arc<MappedFile>>,
    lent: Weak<MappedFile>,
}

/// What became of asking for a blob.
pub(crate) enum OpenState {
    /// It was mapped already. `stamp` when the file system should learn of this use.
    Mapped { mapping: Arc<MappedFile>, stamp: bool },
    /// The caller is to open the file; everyone else waits until it lets go of this.
    Opening(OpenGuard),
    /// Another opens the file: asked again when this ends.
    Elsewhere(watch::Receiver<()>),
}

/// The right to open a blob, held by one task at a time.
pub(crate) struct OpenGuard {
    shelf: Arc<BlobIndex>,
    digest: Digest,
    /// Whether it need not be hashed again.
    pub(crate) verified: bool,
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        // Those that wait are woken by the end of the sender.
        let ended = self.shelf.lock().opening.remove(&self.digest);
        drop(ended);
    }
}

impl BlobIndex {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::default() }
    }

    /// Asks for a blob. Does not block.
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
        OpenState::Opening(OpenGuard { shelf: Arc::clone(self), digest: digest.clone(), verified })
    }

    /// The map of a blob, if it is mapped now. Counts as a use.
    pub(crate) fn mapped(&self, digest: &Digest) -> Option<Arc<MappedFile>> {
        self.at_hand(digest).map(|(mapping, _)| mapping)
    }

    /// The same, and whether the file system should learn of this use.
    pub(crate) fn at_hand(&self, digest: &Digest) -> Option<(Arc<MappedFile>, bool)> {
        self.lock().mapped(digest)
    }

    /// Notes a use of a blob that is not to be mapped; whether the file system should learn of it.
    pub(crate) fn touch(&self, digest: &Digest) -> bool {
        self.lock().note_use(digest).is_some_and(|(_, stamp)| stamp)
    }

    pub(crate) fn is_verified(&self, digest: &Digest) -> bool {
        self.lock().blobs.get(digest).is_some_and(|blob| blob.verified)
    }

    /// Puts up a verified blob with its map. `stamped` is the recency its file has.
    pub(crate) fn put(&self, digest: &Digest, mapping: &Arc<MappedFile>, stamped: SystemTime) {
        let mut state = self.lock();
        let used = state.tick();
        let footprint = footprint(mapping.len());
        let blob = state.entry(digest, footprint);
        blob.used = used;
        blob.stamped = nanoseconds(stamped);
        blob.verified = true;
        blob.lent = Arc::downgrade(mapping);
        let dropped = state.keep(digest, mapping);
        drop(state);
        // Unmapping takes its time; nobody should wait for it.
        drop(dropped);
    }

    /// Takes note of a file found on disk, unless it is known already.
    pub(crate) fn count(&self, digest: &Digest, length: u64, stamped: SystemTime) {
        let mut state = self.lock();
        if state.blobs.contains_key(digest) {
            return;
        }
        // A clock that was wrong once must not keep a blob for ever.
        let stamped = nanoseconds(stamped).min(state.tick());
        let blob = state.entry(digest, footprint(length));
        (blob.used, blob.stamped) = (stamped, stamped);
    }

    /// All files on disk are known now: from here on, room is made when it is needed.
    pub(crate) fn counted(&self) {
        self.lock().counted = true;
    }

    /// Strikes off a blob whose file is gone or wrong.
    pub(crate) fn forget(&self, digest: &Digest) {
        let mut state = self.lock();
        let gone = state.remove(digest);
        drop(state);
        drop(gone);
    }

    /// Strikes off a blob that nobody uses; `false` when someone does, or it is not there.
    pub(crate) fn forget_idle(&self, digest: &Digest) -> bool {
        let mut state = self.lock();
        let idle = state.blobs.get(digest).is_some_and(BlobEntry::is_idle) && !state.opening.contains_key(digest);
        let gone = if idle { state.remove(digest) } else { None };
        drop(state);
        gone.is_some()
    }

    /// The idle blobs to give up, least recently used first, so that at most `goal` bytes remain. Empty while no more
    /// than `limit` lie there, and until everything was counted: before that nobody knows which is the oldest.
    pub(crate) fn surplus(&self, limit: u64, goal: u64) -> Vec<Digest> {
        let state = self.lock();
        if !state.counted || state.bytes <= limit {
            return Vec::new();
        }
        let excess = state.bytes - goal.min(state.bytes);
        let mut idle: Vec<(u64, u64)> =
            state.blobs.values().filter(|blob| blob.is_idle()).map(|blob| (blob.used, blob.footprint)).collect();
        drop(state);
        idle.sort_unstable();
        let mut freed = 0;
        let mut newest = 0;
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

    /// Bytes on disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    /// Blobs on disk.
    pub(crate) fn len(&self) -> u64 {
        self.lock().blobs.len() as u64
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn mapped(&mut self, digest: &Digest) -> Option<(Arc<MappedFile>, bool)> {
        let mapping = self.blobs.get(digest)?.lent.upgrade()?;
        let (blob, stamp) = self.note_use(digest)?;
        blob.again = true;
        Some((mapping, stamp))
    }

    fn note_use(&mut self, digest: &Digest) -> Option<(&mut BlobEntry, bool)> {
        let used = self.tick();
        let blob = self.blobs.get_mut(digest)?;
        blob.used = used;
        let stamp = Duration::from_nanos(used.saturating_sub(blob.stamped)) >= STAMP_EVERY;
        if stamp {
            blob.stamped = used;
        }
        Some((blob, stamp))
    }

    fn entry(&mut self, digest: &Digest, footprint: u64) -> &mut BlobEntry {
        let blob = match self.blobs.entry(digest.clone()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(BlobEntry {
                footprint: 0,
                used: 0,
                stamped: 0,
                verified: false,
                again: false,
                kept: None,
                lent: Weak::new(),
            }),
        };
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

    /// Keeps a map beyond its use; answers with the maps that had to go for it.
    fn keep(&mut self, digest: &Digest, mapping: &Arc<MappedFile>) -> Vec<Arc<MappedFile>> {
        let mut gone = Vec::new();
        if mapping.len() > KEPT_BYTES {
            return gone;
        }
        let Some(blob) = self.blobs.get_mut(digest) else { return gone };
        self.kept_bytes += mapping.len();
        match blob.kept.replace(Arc::clone(mapping)) {
            None => self.kept.push_back(digest.clone()),
            Some(old) => {
                self.kept_bytes -= old.len();
                gone.push(old);
            }
        }
        while self.kept_bytes > KEPT_BYTES || self.kept.len() > KEPT_MAPS {
            let Some(oldest) = self.kept.pop_front() else { break };
            let Some(blob) = self.blobs.get_mut(&oldest) else { continue };
            if std::mem::take(&mut blob.again) {
                self.kept.push_back(oldest);
                continue;
            }
            if let Some(old) = blob.kept.take() {
                self.kept_bytes -= old.len();
                gone.push(old);
            }
        }
        gone
    }

    fn tick(&mut self) -> u64 {
        let now = u64::try_from(SystemClock.now().as_nanosecond()).unwrap_or_default();
        self.latest = now.max(self.latest + 1);
        self.latest
    }
}

impl BlobEntry {
    fn is_idle(&self) -> bool {
        self.lent.strong_count() <= usize::from(self.kept.is_some())
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
#[expect(clippy::disallowed_methods, reason = "any instants in order will do")]
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
    fn kept_maps_are_bounded_in_number_and_the_hot_ones_stay() {
        let shelf = BlobIndex::new();
        let (shared, hot) = (mapping(10), mapping(10));
        shelf.put(&digest(0), &hot, SystemTime::now());
        let seen = Arc::downgrade(&hot);
        drop(hot);
        for number in 1..3000 {
            shelf.put(&digest(number), &shared, SystemTime::now());
            assert!(shelf.mapped(&digest(0)).is_some());
        }
        assert_eq!(shelf.lock().kept.len(), KEPT_MAPS);
        assert_eq!(shelf.lock().kept_bytes, 10 * KEPT_MAPS as u64);
        for number in 3000..9000 {
            shelf.put(&digest(number), &shared, SystemTime::now());
        }
        assert!(seen.upgrade().is_none(), "nobody used it for long");
        assert!(shelf.is_verified(&digest(0)), "it need not be hashed again");
    }

    #[test]
    fn kept_maps_are_bounded_in_bytes() {
        let shelf = BlobIndex::new();
        for number in 0..10 {
            shelf.put(&digest(number), &mapping(KEPT_BYTES / 4), SystemTime::now());
        }
        assert_eq!(shelf.lock().kept.len(), 4);
        assert_eq!(shelf.lock().kept_bytes, KEPT_BYTES);
        let large = mapping(KEPT_BYTES + 1);
        shelf.put(&digest(99), &large, SystemTime::now());
        assert_eq!(Arc::strong_count(&large), 1);
    }

    #[test]
    fn nothing_is_surplus_before_everything_was_counted() {
        let shelf = BlobIndex::new();
        for number in 0..4 {
            shelf.count(&digest(number), 5000, UNIX_EPOCH + Duration::from_secs(number as u64));
        }
        assert_eq!(shelf.bytes(), 4 * 8192);
        assert!(shelf.surplus(8192, 8192).is_empty());
        shelf.counted();
        assert_eq!(shelf.surplus(3 * 8192, 2 * 8192), [digest(0), digest(1)]);
        assert!(shelf.surplus(4 * 8192, 0).is_empty());
    }

    #[test]
    fn a_use_is_to_be_stamped_once_an_hour() {
        let shelf = Arc::new(BlobIndex::new());
        let map = mapping(1);
        let stamps = |shelf: &Arc<BlobIndex>| matches!(shelf.take(&digest(1)), OpenState::Mapped { stamp: true, .. });
        shelf.put(&digest(1), &map, SystemTime::now());
        assert!(!stamps(&shelf));
        shelf.put(&digest(1), &map, SystemTime::now() - 2 * STAMP_EVERY);
        assert!(stamps(&shelf));
        assert!(!stamps(&shelf));
    }

    #[test]
    fn what_is_used_without_being_opened_stays() {
        let shelf = BlobIndex::new();
        for number in 0..3 {
            shelf.count(&digest(number), 1, UNIX_EPOCH + Duration::from_secs(number as u64));
        }
        shelf.counted();
        assert!(shelf.touch(&digest(0)), "the file system knows of a use long ago");
        assert!(!shelf.touch(&digest(0)) && !shelf.touch(&digest(9)));
        assert_eq!(shelf.surplus(2 * 4096, 2 * 4096), [digest(1)]);
    }

    #[test]
    fn a_clock_that_was_wrong_once_keeps_no_blob_for_ever() {
        let shelf = BlobIndex::new();
        shelf.count(&digest(1), 1, SystemTime::now() + Duration::from_secs(1 << 33));
        shelf.put(&digest(2), &mapping(1), SystemTime::now());
        shelf.counted();
        assert_eq!(shelf.surplus(4096, 4096), [digest(1)]);
    }

    #[tokio::test]
    async fn who_asks_for_what_is_being_opened_is_woken_when_that_ends() {
        let shelf = Arc::new(BlobIndex::new());
        let OpenState::Opening(opening) = shelf.take(&digest(1)) else { panic!("nobody opens it") };
        let OpenState::Elsewhere(mut ended) = shelf.take(&digest(1)) else { panic!("it is being opened") };
        let waiting = tokio::spawn(async move { ended.changed().await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(opening);
        assert!(waiting.await.unwrap().is_err(), "the sender is gone");
        assert!(matches!(shelf.take(&digest(1)), OpenState::Opening(_)));
    }
}
