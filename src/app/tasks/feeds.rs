//! Keeps the feeds up to date, each in a task of its own, so that a slow one delays no other. Loads stored feeds, syncs them with
//! their sources, applies changes, and rescans past downloads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinError;

use crate::clock::Clock;
use crate::feed::{self, FeedConfig, FeedError, FeedFailure, FeedSource, FeedState, FeedStore, LoadedFeed, SyncOutcome};
use crate::firewall::Firewall;
use crate::net::HttpClient;
use crate::policy::{Advisories, FeedAdvisories, FeedTrust};
use crate::store::{BlobStore, Ledger, LedgerEvent};
use crate::telemetry::{FeedChanged, FeedFailed, Metrics};
use crate::units::timestamp;

/// How often each task checks whether its feed is due or was synced by another process.
const TICK: Duration = Duration::from_millis(500);

/// The interval of path checks, which cost little. A slow check is repeated after 20 times its duration, but within
/// `feed-interval`.
const PATH_EVERY: Duration = Duration::from_secs(2);
const PATH_COST: u32 = 20;

/// The total time limit of one sync. OSV's archive takes a minute on a slow connection.
const DEADLINE: Duration = Duration::from_secs(10 * 60);

/// How long startup waits for the feeds, so that feeds that load fast apply to the first request.
const STARTUP_WAIT: Duration = Duration::from_secs(2);

/// The dependencies of a [`FeedScheduler`].
pub struct FeedSchedulerDeps {
    pub followed: Vec<FeedConfig>,
    /// Whether the server serves before every feed has been read once.
    pub serve_without: bool,
    /// The store of the feeds.
    pub feed_store: FeedStore,
    /// The HTTP client.
    pub client: HttpClient,
    /// The firewall that applies the advisories.
    pub firewall: Arc<Firewall>,
    /// The ledger with past downloads.
    pub ledger: Arc<dyn Ledger>,
    /// The cache of tarballs.
    pub blobs: Arc<dyn BlobStore>,
    pub metrics: Arc<Metrics>,
    pub clock: Arc<dyn Clock>,
}

/// Schedules the syncs of all feeds. One per process.
pub struct FeedScheduler {
    parts: FeedSchedulerDeps,
    /// All feeds since the start. A removed feed keeps its number.
    followed: Mutex<Vec<ScheduledFeed>>,
    serve_without: AtomicBool,
    /// The number of feeds that were checked for the first time.
    begun: watch::Sender<usize>,
    /// Held during a rescan of past downloads, so that only one runs.
    judging: tokio::sync::Mutex<()>,
}

/// The status of one feed.
#[derive(Debug, Clone)]
pub struct FeedStatus {
    pub feed: FeedConfig,
    /// The state of the last sync.
    pub state: FeedState,
    /// Why it is stale, if it is.
    pub staleness: Option<String>,
}

struct ScheduledFeed {
    feed: FeedConfig,
    state: FeedState,
    advisories: Option<Arc<FeedAdvisories>>,
    /// When its source was last checked, by the wall clock and by a monotonic one.
    checked_at: Option<(Timestamp, Instant)>,
    took: Duration,
    /// Whether its first check is complete, with any result.
    has_begun: bool,
    /// Whether it was added while requests were served. Then requests are not refused until it is read.
    is_added: bool,
    /// Whether it was removed.
    is_dropped: bool,
    /// For a removed feed, the feeds that were added with its removal. Its records stay active until all of them are read, so
    /// that a changed address or key exposes nothing meanwhile.
    successors: Vec<usize>,
}

impl FeedScheduler {
    /// Creates a scheduler. All feeds are unread, and no version is known to be good until they are read.
    /// [`FeedScheduler::follow`] reads them.
    #[must_use]
    pub fn open(parts: FeedSchedulerDeps) -> Arc<Self> {
        let followed = parts.followed.iter().map(|feed| ScheduledFeed {
            feed: feed.clone(),
            state: parts.feed_store.state(feed),
            advisories: None,
            checked_at: None,
            took: Duration::ZERO,
            has_begun: false,
            is_added: false,
            is_dropped: false,
            successors: Vec::new(),
        });
        let followed = Mutex::new(followed.collect());
        let serve_without = AtomicBool::new(parts.serve_without);
        let feeds = Arc::new(Self {
            followed,
            serve_without,
            begun: watch::Sender::new(0),
            judging: tokio::sync::Mutex::default(),
            parts,
        });
        feeds.apply(&mut feeds.lock());
        feeds
    }

    /// Returns the names of the feeds by number.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.lock().iter().map(|entry| entry.feed.name.clone()).collect()
    }

    /// Replaces the feeds. Unchanged feeds keep their records. Returns the numbers of the added feeds, to be passed to
    /// [`FeedScheduler::follow`].
    pub fn replace(&self, feeds: &[FeedConfig], serve_without: bool) -> Vec<usize> {
        let mut followed = self.lock();
        // If requests are refused because of an unread feed, its replacement is required too.
        let is_added = !followed.iter().any(|entry| self.is_lacking(entry));
        self.serve_without.store(serve_without, Ordering::Relaxed);
        let is_same = |entry: &ScheduledFeed, feed: &FeedConfig| {
            let known = &entry.feed;
            !entry.is_dropped
                && (&known.name, &known.source, known.trust, &known.key) == (&feed.name, &feed.source, feed.trust, &feed.key)
        };
        for entry in followed.iter_mut() {
            match feeds.iter().find(|feed| is_same(entry, feed)) {
                Some(feed) => entry.feed = feed.clone(),
                None => entry.is_dropped = true,
            }
        }
        let mut added = Vec::new();
        for feed in feeds {
            if followed.iter().any(|entry| is_same(entry, feed)) {
                continue;
            }
            added.push(followed.len());
            followed.push(ScheduledFeed {
                feed: feed.clone(),
                state: self.parts.feed_store.state(feed),
                advisories: None,
                checked_at: None,
                took: Duration::ZERO,
                has_begun: false,
                is_added,
                is_dropped: false,
                successors: Vec::new(),
            });
        }
        let is_dropped: Vec<bool> = followed.iter().map(|entry| entry.is_dropped).collect();
        for entry in followed.iter_mut().filter(|entry| entry.is_dropped && entry.advisories.is_some()) {
            entry.successors.retain(|at| !is_dropped[*at]);
            entry.successors.extend(&added);
        }
        self.apply(&mut followed);
        added
    }

    fn feed(&self, at: usize) -> FeedConfig {
        self.lock()[at].feed.clone()
    }

    fn is_dropped(&self, at: usize) -> bool {
        self.lock()[at].is_dropped
    }

    /// Waits for a short time until each feed was checked once.
    pub async fn first_looks(&self) {
        self.until_looked_at(STARTUP_WAIT).await;
    }

    /// Waits until each feed was checked once, at most for `patience`.
    pub async fn until_looked_at(&self, patience: Duration) {
        let mut begun = self.begun.subscribe();
        let every = begun.wait_for(|begun| *begun >= self.parts.followed.len());
        if tokio::time::timeout(patience, every).await.is_err() {
            for FeedStatus { feed, .. } in
                self.statuses().into_iter().zip(self.unread()).filter_map(|(entry, unread)| unread.then_some(entry))
            {
                tracing::warn!(feed.name = feed.name, "feed not read yet");
            }
        }
    }

    /// Checks one feed whenever it is due, until it is removed.
    ///
    /// # Errors
    /// Returns an error if a sync or a rescan panicked.
    pub async fn follow(self: Arc<Self>, at: usize) -> Result<(), JoinError> {
        if !self.lock()[at].has_begun {
            let begun = self.begin(at).await;
            self.lock()[at].has_begun = true;
            self.begun.send_modify(|begun| *begun += 1);
            begun?;
        }
        // The feed may have changed while the server was down.
        self.rescan_exposure().await?;
        while !self.is_dropped(at) {
            if self.is_due(at) {
                self.check_due(at).await?;
            } else if self.was_synced_elsewhere(at) {
                self.reload(at).await?;
            }
            tokio::time::sleep(TICK).await;
        }
        Ok(())
    }

    /// Returns the status of every feed.
    #[must_use]
    pub fn statuses(&self) -> Vec<FeedStatus> {
        let now = self.parts.clock.now();
        let status_of = |followed: &ScheduledFeed| FeedStatus {
            feed: followed.feed.clone(),
            state: followed.state.clone(),
            staleness: followed.staleness(now),
        };
        self.lock().iter().filter(|entry| !entry.is_dropped).map(status_of).collect()
    }

    /// Checks that all feeds are fresh.
    ///
    /// # Errors
    /// Returns one line with the stale feeds and the reasons.
    pub fn freshness(&self) -> Result<(), String> {
        let stale: Vec<_> = self
            .statuses()
            .into_iter()
            .filter_map(|standing| Some(format!("`{}` is stale: {}", standing.feed.name, standing.staleness?)))
            .collect();
        if stale.is_empty() { Ok(()) } else { Err(stale.join("; ")) }
    }

    /// Checks that all required feeds have been read.
    ///
    /// # Errors
    /// Returns one line with the unread feeds and the reasons.
    pub fn lacking(&self) -> Result<(), String> {
        let followed = self.lock();
        let lacking = followed.iter().filter(|entry| self.is_lacking(entry)).map(|entry| {
            let why = entry.state.failure.as_ref().map_or("still loading", |failure| failure.why.as_str());
            format!("`{}` was never read, so everything is refused: {why}", entry.feed.name)
        });
        let lacking: Vec<String> = lacking.collect();
        if lacking.is_empty() { Ok(()) } else { Err(lacking.join("; ")) }
    }

    /// Returns the number of active advisories.
    #[must_use]
    pub fn advisories(&self) -> u64 {
        self.lock().iter().filter_map(|followed| followed.advisories.as_ref()).map(|index| index.count() as u64).sum()
    }

    /// Returns the number of stale feeds.
    #[must_use]
    pub fn stale(&self) -> u64 {
        self.statuses().iter().filter(|standing| standing.staleness.is_some()).count() as u64
    }

    /// Checks a feed for the first time. A path is read; for a URL the stored records are loaded, and it is fetched only if there
    /// are none.
    async fn begin(&self, at: usize) -> Result<(), JoinError> {
        let is_path = matches!(self.feed(at).source, FeedSource::Path(_));
        let mut changed = is_path && self.sync(at).await;
        if !changed {
            changed = self.load(at).await?;
        }
        let never_read = self.lock()[at].advisories.is_none();
        if never_read && !is_path {
            changed |= self.sync(at).await;
        }
        if changed {
            self.apply(&mut self.lock());
        }
        Ok(())
    }

    async fn check_due(&self, at: usize) -> Result<(), JoinError> {
        if self.sync(at).await {
            self.apply(&mut self.lock());
            self.rescan_exposure().await?;
        }
        Ok(())
    }

    async fn reload(&self, at: usize) -> Result<(), JoinError> {
        if self.load(at).await? {
            self.apply(&mut self.lock());
            self.rescan_exposure().await?;
        }
        Ok(())
    }

    /// Syncs a feed with its source. Returns whether there are changes to apply.
    async fn sync(&self, at: usize) -> bool {
        let (feed, now, begun) = (self.feed(at), self.parts.clock.now(), Instant::now());
        let syncing = feed::sync(&feed, &self.parts.feed_store, &self.parts.client, now, false);
        let synced = tokio::time::timeout(DEADLINE, syncing).await.unwrap_or_else(|_| {
            let error = FeedError::TooSlow { after: DEADLINE };
            let state = self.lock()[at].state.clone();
            SyncOutcome::Failed(FeedState { failure: Some(FeedFailure { at: now, why: error.to_string() }), ..state }, error)
        });
        let took = begun.elapsed();
        let mut followed = self.lock();
        let followed = &mut followed[at];
        if followed.is_dropped {
            return false;
        }
        followed.checked_at = Some((now, Instant::now()));
        followed.took = took;
        match synced {
            SyncOutcome::Changed(loaded) => {
                Self::log_changed(&feed, &loaded.state);
                followed.state = loaded.state;
                followed.advisories = Some(loaded.advisories);
                true
            }
            SyncOutcome::Unchanged(state) => {
                let recovered = followed.state.failure.is_some();
                // Another process may have synced it. The next tick loads the stored records then.
                followed.state = FeedState { generation: followed.state.generation, ..state };
                if recovered {
                    tracing::info!(feed.name = feed.name, "feed recovered");
                }
                false
            }
            // Another process is syncing it.
            SyncOutcome::Failed(_, FeedError::Busy) => false,
            SyncOutcome::Failed(state, error) => {
                let known = followed.state.failure.as_ref().map(|failure| failure.why.clone());
                followed.state.failure = state.failure;
                if known.as_deref() != Some(&*error.to_string()) {
                    self.log_failed(&feed, &error.to_string(), followed.advisories.is_some() || followed.state.is_good());
                }
                false
            }
        }
    }

    /// Loads the stored records. Returns whether there are changes to apply.
    async fn load(&self, at: usize) -> Result<bool, JoinError> {
        let (feed, feed_store) = (self.feed(at), self.parts.feed_store.clone());
        let loading = feed.clone();
        let loaded = tokio::task::spawn_blocking(move || feed::load(&loading, &feed_store)).await?;
        let feed = &feed;
        match loaded {
            Ok(Some(LoadedFeed { advisories, state })) => {
                let mut followed = self.lock();
                if followed[at].is_dropped {
                    return Ok(false);
                }
                Self::log_changed(feed, &state);
                followed[at].state = state;
                followed[at].advisories = Some(advisories);
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(error) => {
                self.log_failed(feed, &error.to_string(), false);
                Ok(false)
            }
        }
    }

    /// Replaces all advisories of the firewall. The lock is held, so that the later of two parallel changes wins.
    fn apply(&self, followed: &mut [ScheduledFeed]) {
        let is_read: Vec<bool> = followed.iter().map(|entry| entry.advisories.is_some()).collect();
        for entry in followed.iter_mut().filter(|entry| entry.is_dropped && entry.successors.iter().all(|at| is_read[*at])) {
            entry.advisories = None;
        }
        let lacking = followed.iter().find(|entry| self.is_lacking(entry)).map(|entry| entry.feed.name.as_str());
        let advisories = Advisories::of_feeds(followed.iter().filter_map(|entry| entry.advisories.clone()).collect());
        self.parts.firewall.set_advisories(&advisories.lacking(lacking));
    }

    /// Checks whether requests are refused because this feed is unread.
    fn is_lacking(&self, entry: &ScheduledFeed) -> bool {
        let counts = !entry.is_dropped && !entry.is_added && entry.feed.trust != FeedTrust::Warn;
        entry.advisories.is_none() && counts && !self.serve_without.load(Ordering::Relaxed)
    }

    /// Returns for each feed whether it was never read.
    fn unread(&self) -> Vec<bool> {
        self.lock().iter().filter(|entry| !entry.is_dropped).map(|entry| entry.advisories.is_none()).collect()
    }

    async fn rescan_exposure(&self) -> Result<(), JoinError> {
        let _once = self.judging.lock().await;
        let (firewall, ledger, blobs) =
            (Arc::clone(&self.parts.firewall), Arc::clone(&self.parts.ledger), Arc::clone(&self.parts.blobs));
        let (metrics, now) = (Arc::clone(&self.parts.metrics), self.parts.clock.now());
        let judging =
            tokio::task::spawn_blocking(move || crate::firewall::rescan(&firewall.policy(), &ledger, &blobs, &metrics, now));
        if let Err(error) = judging.await? {
            tracing::error!(error = &error as &dyn std::error::Error, "exposure rescan failed");
        }
        Ok(())
    }

    fn is_due(&self, at: usize) -> bool {
        let followed = self.lock();
        let followed = &followed[at];
        let Some((clock, watch)) = followed.checked_at else { return true };
        let by_clock = timestamp::saturating_add(clock, followed.feed.interval) <= self.parts.clock.now();
        let is_path = matches!(followed.feed.source, FeedSource::Path(_));
        by_clock || (is_path && watch.elapsed() >= PATH_EVERY.max(followed.took * PATH_COST).min(followed.feed.interval))
    }

    fn was_synced_elsewhere(&self, at: usize) -> bool {
        let kept = self.parts.feed_store.state(&self.feed(at));
        kept.generation != self.lock()[at].state.generation && kept.is_good()
    }

    fn log_changed(feed: &FeedConfig, state: &FeedState) {
        let tally = &state.tally;
        FeedChanged { feed: &feed.name, records: tally.records, unreadable: tally.unreadable, skipped: tally.skipped }.emit();
    }

    fn log_failed(&self, feed: &FeedConfig, why: &str, has_records: bool) {
        FeedFailed { feed: &feed.name, detail: why, has_records }.emit(&self.parts.metrics);
        let incident = LedgerEvent { kind: "feed_failed", name: None, version: None, detail: format!("`{}`: {why}", feed.name) };
        self.parts.ledger.record_event(incident, self.parts.clock.now());
    }

    fn lock(&self) -> MutexGuard<'_, Vec<ScheduledFeed>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ScheduledFeed {
    fn staleness(&self, now: Timestamp) -> Option<String> {
        self.state.staleness(self.feed.expiry, now)
    }
}
