//! The shelf: which blobs lie on disk, how large, how lately used, which are mapped and which are lent out. In memory
//! alone; refuses to touch the disk.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::mapping::Mapping;
use crate::npm::Digest;
use crate::telemetry::{Clock, SystemClock};

/// What a file takes on disk is a multiple of this on every file system we met, and most tarballs are only a few of it.
const BLOCK: u64 = 4096;

/// Maps are kept after their last use up to these bounds. Mapping again costs about 8 us, so they need not be generous;
/// pages of kept maps count as resident memory.
const KEPT_BYTES: u64 = 64 << 20;
const KEPT_MAPS: usize = 1024;

/// How far back the recency on disk may lag behind the one in memory.
pub(super) const STAMP_EVERY: Duration = Duration::from_secs(3600);

/// Knows every blob. About 200 bytes a blob, so a hundred thousand of them cost 20 MB.
pub(super) struct Shelf {
    state: Mutex<State>,
    /// Told when an opening ended, and when the count was done.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    blobs: HashMap<Digest, Blob>,
    /// Being opened for the first time right now: others wait, and eviction stays away.
    opening: HashSet<Digest>,
    bytes: u64,
    kept: VecDeque<Digest>,
    kept_bytes: u64,
    /// The last instant given out, so that no two uses share one.
    latest: u64,
    counted: bool,
}

struct Blob {
    footprint: u64,
    /// When it was last used, in nanoseconds since 1970.
    used: u64,
    /// The recency that the file system knows.
    stamped: u64,
    /// Whether this process saw that it hashes to its name.
    verified: bool,
    /// Whether it was used since the kept maps were last gone through.
    again: bool,
    kept: Option<Arc<Mapping>>,
    lent: Weak<Mapping>,
}

/// What became of asking for a blob.
pub(super) enum Taken<'a> {
    /// It was mapped already. `stamp` when the file system should learn of this use.
    Mapped { mapping: Arc<Mapping>, stamp: bool },
    /// The caller is to open the file; everyone else waits until it lets go of this.
    Opening(Opening<'a>),
}

/// The right to open a blob, held by one thread at a time.
pub(super) struct Opening<'a> {
    shelf: &'a Shelf,
    digest: &'a Digest,
    /// Whether it need not be hashed again.
    pub(super) verified: bool,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.shelf.lock().opening.remove(self.digest);
        self.shelf.changed.notify_all();
    }
}

impl Shelf {
    pub(super) fn new() -> Self {
        Self { state: Mutex::default(), changed: Condvar::new() }
    }

    /// Asks for a blob. Waits while another thread opens the same one.
    pub(super) fn take<'a>(&'a self, digest: &'a Digest) -> Taken<'a> {
        let mut state = self.lock();
        loop {
            if let Some((mapping, stamp)) = state.mapped(digest) {
                return Taken::Mapped { mapping, stamp };
            }
            if !state.opening.contains(digest) {
                break;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.opening.insert(digest.clone());
        let verified = state.blobs.get(digest).is_some_and(|blob| blob.verified);
        Taken::Opening(Opening { shelf: self, digest, verified })
    }

    /// The map of a blob, if it is mapped now. Counts as a use.
    pub(super) fn mapped(&self, digest: &Digest) -> Option<Arc<Mapping>> {
        self.lock().mapped(digest).map(|(mapping, _)| mapping)
    }

    pub(super) fn is_verified(&self, digest: &Digest) -> bool {
        self.lock().blobs.get(digest).is_some_and(|blob| blob.verified)
    }

    /// Puts up a verified blob with its map. `stamped` is the recency its file has.
    pub(super) fn put(&self, digest: &Digest, mapping: &Arc<Mapping>, stamped: SystemTime) {
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
    pub(super) fn count(&self, digest: &Digest, length: u64, stamped: SystemTime) {
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
    pub(super) fn counted(&self) {
        self.lock().counted = true;
        self.changed.notify_all();
    }

    /// Strikes off a blob whose file is gone or wrong.
    pub(super) fn forget(&self, digest: &Digest) {
        let mut state = self.lock();
        let gone = state.remove(digest);
        drop(state);
        drop(gone);
    }

    /// Strikes off a blob that nobody uses; `false` when someone does, or it is not there.
    pub(super) fn forget_idle(&self, digest: &Digest) -> bool {
        let mut state = self.lock();
        let idle = state.blobs.get(digest).is_some_and(Blob::is_idle) && !state.opening.contains(digest);
        let gone = if idle { state.remove(digest) } else { None };
        drop(state);
        gone.is_some()
    }

    /// The idle blobs to give up, least recently used first, so that at most `goal` bytes remain. Empty while no more
    /// than `limit` lie there, and until everything was counted: before that nobody knows which is the oldest.
    pub(super) fn surplus(&self, limit: u64, goal: u64) -> Vec<Digest> {
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
    pub(super) fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    /// Blobs on disk.
    pub(super) fn len(&self) -> u64 {
        self.lock().blobs.len() as u64
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn wait_until_counted(&self) {
        let mut state = self.lock();
        while !state.counted {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl State {
    fn mapped(&mut self, digest: &Digest) -> Option<(Arc<Mapping>, bool)> {
        let used = self.tick();
        let blob = self.blobs.get_mut(digest)?;
        let mapping = blob.lent.upgrade()?;
        blob.used = used;
        blob.again = true;
        let stamp = Duration::from_nanos(used.saturating_sub(blob.stamped)) >= STAMP_EVERY;
        if stamp {
            blob.stamped = used;
        }
        Some((mapping, stamp))
    }

    fn entry(&mut self, digest: &Digest, footprint: u64) -> &mut Blob {
        let blob = match self.blobs.entry(digest.clone()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Blob {
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

    fn remove(&mut self, digest: &Digest) -> Option<Blob> {
        let blob = self.blobs.remove(digest)?;
        self.bytes -= blob.footprint;
        if let Some(kept) = &blob.kept {
            self.kept_bytes -= kept.len();
            self.kept.retain(|other| other != digest);
        }
        Some(blob)
    }

    /// Keeps a map beyond its use; answers with the maps that had to go for it.
    fn keep(&mut self, digest: &Digest, mapping: &Arc<Mapping>) -> Vec<Arc<Mapping>> {
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

impl Blob {
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
