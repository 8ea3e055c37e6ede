//! Looks after the feeds, each in a task of its own, so that one that is slow delays no other: loads what is kept, looks at the
//! sources, applies what changed and has what was served judged again. Does not know how a feed is read.

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

/// How often it is seen to whether a feed is due, or was synced by another process.
const TICK: Duration = Duration::from_millis(500);

/// How often a path is looked at, whatever the interval: it costs nothing but a look. One that takes long is looked at less often.
const PATH_EVERY: Duration = Duration::from_secs(2);
const PATH_COST: u32 = 20;

/// How long one look may take in all, however lively its server: OSV's archive needs a minute on a slow line.
const DEADLINE: Duration = Duration::from_secs(10 * 60);

/// How long the start waits for the feeds, so that those that are read at once are applied before the first request.
const PATIENCE: Duration = Duration::from_secs(2);

/// What looks after feeds is made of.
pub struct FeedSchedulerDeps {
    /// The feeds.
    pub followed: Vec<FeedConfig>,
    /// Whether it is served although a feed could not be read at all yet.
    pub serve_without: bool,
    /// Where they are kept.
    pub shelf: FeedStore,
    /// Who asks servers.
    pub client: HttpClient,
    /// Where they are put in force.
    pub firewall: Arc<Firewall>,
    /// What was served.
    pub ledger: Arc<dyn Ledger>,
    /// What is cached.
    pub blobs: Arc<dyn BlobStore>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// The feeds that are followed. One a process.
pub struct FeedScheduler {
    parts: FeedSchedulerDeps,
    /// Those that were ever followed: what is followed no longer keeps its number.
    followed: Mutex<Vec<ScheduledFeed>>,
    serve_without: AtomicBool,
    /// How many were looked at for the first time.
    begun: watch::Sender<usize>,
    /// Held while what was served is judged again: once at a time, however many feeds change.
    judging: tokio::sync::Mutex<()>,
}

/// How one feed stands.
#[derive(Debug, Clone)]
pub struct FeedStatus {
    /// The feed.
    pub feed: FeedConfig,
    /// How it stands.
    pub state: FeedState,
    /// Why it is not fresh, if it is not.
    pub staleness: Option<String>,
}

struct ScheduledFeed {
    feed: FeedConfig,
    state: FeedState,
    advisories: Option<Arc<FeedAdvisories>>,
    /// When its source was last looked at, by the clock and by a watch that nobody sets.
    looked: Option<(Timestamp, Instant)>,
    took: Duration,
    /// Whether its first look is over, whatever came of it.
    has_begun: bool,
    /// Whether it was added while everything was served: until it is read, nothing is refused for want of it.
    is_added: bool,
    /// Whether it is followed no longer.
    is_dropped: bool,
    /// Of one that is followed no longer: the numbers of those that were added when it went. Its records stay in force until each of
    /// them was read, so that another address or key of a feed opens nothing meanwhile.
    successors: Vec<usize>,
}

impl FeedScheduler {
    /// The feeds of `parts`, all of them unread: until each was read, nothing is known to be good. [`FeedScheduler::follow`] reads them.
    #[must_use]
    pub fn open(parts: FeedSchedulerDeps) -> Arc<Self> {
        let followed = parts.followed.iter().map(|feed| ScheduledFeed {
            feed: feed.clone(),
            state: parts.shelf.state(feed),
            advisories: None,
            looked: None,
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

    /// The names of the feeds, by their numbers.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.lock().iter().map(|one| one.feed.name.clone()).collect()
    }

    /// Replaces the feeds. Those that are followed already keep what was read of them. Returns the numbers of the others, for
    /// [`FeedScheduler::follow`].
    pub fn replace(&self, feeds: &[FeedConfig], serve_without: bool) -> Vec<usize> {
        let mut followed = self.lock();
        // Where everything is refused for want of a feed, one in its stead is needed as well.
        let is_added = !followed.iter().any(|one| self.is_lacking(one));
        self.serve_without.store(serve_without, Ordering::Relaxed);
        let is_same = |one: &ScheduledFeed, feed: &FeedConfig| {
            let known = &one.feed;
            !one.is_dropped
                && (&known.name, &known.source, known.trust, &known.key) == (&feed.name, &feed.source, feed.trust, &feed.key)
        };
        for one in followed.iter_mut() {
            match feeds.iter().find(|feed| is_same(one, feed)) {
                Some(feed) => one.feed = feed.clone(),
                None => one.is_dropped = true,
            }
        }
        let mut added = Vec::new();
        for feed in feeds {
            if followed.iter().any(|one| is_same(one, feed)) {
                continue;
            }
            added.push(followed.len());
            followed.push(ScheduledFeed {
                feed: feed.clone(),
                state: self.parts.shelf.state(feed),
                advisories: None,
                looked: None,
                took: Duration::ZERO,
                has_begun: false,
                is_added,
                is_dropped: false,
                successors: Vec::new(),
            });
        }
        let is_dropped: Vec<bool> = followed.iter().map(|one| one.is_dropped).collect();
        for one in followed.iter_mut().filter(|one| one.is_dropped && one.advisories.is_some()) {
            one.successors.retain(|at| !is_dropped[*at]);
            one.successors.extend(&added);
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

    /// Waits until each feed was looked at once, for a short time at most.
    pub async fn first_looks(&self) {
        self.until_looked_at(PATIENCE).await;
    }

    /// Waits until each feed was looked at once, for `patience` at most.
    pub async fn until_looked_at(&self, patience: Duration) {
        let mut begun = self.begun.subscribe();
        let every = begun.wait_for(|begun| *begun >= self.parts.followed.len());
        if tokio::time::timeout(patience, every).await.is_err() {
            for FeedStatus { feed, .. } in
                self.standings().into_iter().zip(self.unread()).filter_map(|(one, unread)| unread.then_some(one))
            {
                tracing::warn!(feed.name = feed.name, "feed not read yet");
            }
        }
    }

    /// Looks at one feed whenever it is due, until it is dropped.
    ///
    /// # Errors
    /// When reading it, or judging by it, panicked.
    pub async fn follow(self: Arc<Self>, at: usize) -> Result<(), JoinError> {
        if !self.lock()[at].has_begun {
            let begun = self.begin(at).await;
            self.lock()[at].has_begun = true;
            self.begun.send_modify(|begun| *begun += 1);
            begun?;
        }
        // It may have changed while no one was here to judge.
        self.judge_again().await?;
        while !self.is_dropped(at) {
            if self.is_due(at) {
                self.look(at).await?;
            } else if self.was_synced_elsewhere(at) {
                self.reload(at).await?;
            }
            tokio::time::sleep(TICK).await;
        }
        Ok(())
    }

    /// How every feed stands now.
    #[must_use]
    pub fn standings(&self) -> Vec<FeedStatus> {
        let now = self.parts.clock.now();
        let tell = |followed: &ScheduledFeed| FeedStatus {
            feed: followed.feed.clone(),
            state: followed.state.clone(),
            staleness: followed.staleness(now),
        };
        self.lock().iter().filter(|one| !one.is_dropped).map(tell).collect()
    }

    /// Which feeds are not fresh and why, in one line.
    ///
    /// # Errors
    /// That line, when there is such a feed.
    pub fn freshness(&self) -> Result<(), String> {
        let stale: Vec<_> = self
            .standings()
            .into_iter()
            .filter_map(|standing| Some(format!("`{}` is stale: {}", standing.feed.name, standing.staleness?)))
            .collect();
        if stale.is_empty() { Ok(()) } else { Err(stale.join("; ")) }
    }

    /// Which feeds were never read, so that everything is refused, and why, in one line.
    ///
    /// # Errors
    /// That line, when there is such a feed.
    pub fn lacking(&self) -> Result<(), String> {
        let followed = self.lock();
        let lacking = followed.iter().filter(|one| self.is_lacking(one)).map(|one| {
            let why = one.state.failure.as_ref().map_or("it is being read", |failure| failure.why.as_str());
            format!("`{}` was never read, so everything is refused: {why}", one.feed.name)
        });
        let lacking: Vec<String> = lacking.collect();
        if lacking.is_empty() { Ok(()) } else { Err(lacking.join("; ")) }
    }

    /// How many advisories are in force.
    #[must_use]
    pub fn advisories(&self) -> u64 {
        self.lock().iter().filter_map(|followed| followed.advisories.as_ref()).map(|index| index.count() as u64).sum()
    }

    /// How many feeds are not fresh.
    #[must_use]
    pub fn stale(&self) -> u64 {
        self.standings().iter().filter(|standing| standing.staleness.is_some()).count() as u64
    }

    /// The first look at a feed: at a path itself; of an address what is kept counts, and it is asked where nothing is.
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

    async fn look(&self, at: usize) -> Result<(), JoinError> {
        if self.sync(at).await {
            self.apply(&mut self.lock());
            self.judge_again().await?;
        }
        Ok(())
    }

    async fn reload(&self, at: usize) -> Result<(), JoinError> {
        if self.load(at).await? {
            self.apply(&mut self.lock());
            self.judge_again().await?;
        }
        Ok(())
    }

    /// Looks at the source; whether there is something else to apply.
    async fn sync(&self, at: usize) -> bool {
        let (feed, now, begun) = (self.feed(at), self.parts.clock.now(), Instant::now());
        let syncing = feed::sync(&feed, &self.parts.shelf, &self.parts.client, now, false);
        let synced = tokio::time::timeout(DEADLINE, syncing).await.unwrap_or_else(|_| {
            let wrong = FeedError::TooSlow { after: DEADLINE };
            let state = self.lock()[at].state.clone();
            SyncOutcome::Failed(FeedState { failure: Some(FeedFailure { at: now, why: wrong.to_string() }), ..state }, wrong)
        });
        let took = begun.elapsed();
        let mut followed = self.lock();
        let followed = &mut followed[at];
        if followed.is_dropped {
            return false;
        }
        followed.looked = Some((now, Instant::now()));
        followed.took = took;
        match synced {
            SyncOutcome::Changed(loaded) => {
                Self::tell_changed(&feed, &loaded.state);
                followed.state = loaded.state;
                followed.advisories = Some(loaded.advisories);
                true
            }
            SyncOutcome::Unchanged(state) => {
                let recovered = followed.state.failure.is_some();
                // Somebody else may have synced it just now: then what is kept is loaded with the next tick.
                followed.state = FeedState { generation: followed.state.generation, ..state };
                if recovered {
                    tracing::info!(feed.name = feed.name, "a feed is fresh again");
                }
                false
            }
            // Whoever is at it will be done soon.
            SyncOutcome::Failed(_, FeedError::Busy) => false,
            SyncOutcome::Failed(state, wrong) => {
                let known = followed.state.failure.as_ref().map(|failure| failure.why.clone());
                followed.state.failure = state.failure;
                if known.as_deref() != Some(&*wrong.to_string()) {
                    self.tell_failed(&feed, &wrong.to_string(), followed.advisories.is_some() || followed.state.is_good());
                }
                false
            }
        }
    }

    /// Loads what is kept; whether there is something to apply.
    async fn load(&self, at: usize) -> Result<bool, JoinError> {
        let (feed, shelf) = (self.feed(at), self.parts.shelf.clone());
        let loading = feed.clone();
        let loaded = tokio::task::spawn_blocking(move || feed::load(&loading, &shelf)).await?;
        let feed = &feed;
        match loaded {
            Ok(Some(LoadedFeed { advisories, state })) => {
                let mut followed = self.lock();
                if followed[at].is_dropped {
                    return Ok(false);
                }
                Self::tell_changed(feed, &state);
                // A failure that was found a moment ago is newer than what is kept.
                followed[at].state = state;
                followed[at].advisories = Some(advisories);
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(wrong) => {
                self.tell_failed(feed, &wrong.to_string(), false);
                Ok(false)
            }
        }
    }

    /// Replaces what the firewall follows, whole; while it is held, so that of two that change at once the later one stays.
    fn apply(&self, followed: &mut [ScheduledFeed]) {
        let is_read: Vec<bool> = followed.iter().map(|one| one.advisories.is_some()).collect();
        for one in followed.iter_mut().filter(|one| one.is_dropped && one.successors.iter().all(|at| is_read[*at])) {
            one.advisories = None;
        }
        let lacking = followed.iter().find(|one| self.is_lacking(one)).map(|one| one.feed.name.as_str());
        let advisories = Advisories::of_feeds(followed.iter().filter_map(|one| one.advisories.clone()).collect());
        self.parts.firewall.follow(&advisories.lacking(lacking));
    }

    /// Whether nothing is known to be good for want of this feed.
    fn is_lacking(&self, one: &ScheduledFeed) -> bool {
        let counts = !one.is_dropped && !one.is_added && one.feed.trust != FeedTrust::Warn;
        one.advisories.is_none() && counts && !self.serve_without.load(Ordering::Relaxed)
    }

    /// For each feed, whether it was never read.
    fn unread(&self) -> Vec<bool> {
        self.lock().iter().filter(|one| !one.is_dropped).map(|one| one.advisories.is_none()).collect()
    }

    async fn judge_again(&self) -> Result<(), JoinError> {
        let _once = self.judging.lock().await;
        let (firewall, ledger, blobs) =
            (Arc::clone(&self.parts.firewall), Arc::clone(&self.parts.ledger), Arc::clone(&self.parts.blobs));
        let (metrics, now) = (Arc::clone(&self.parts.metrics), self.parts.clock.now());
        let judging =
            tokio::task::spawn_blocking(move || crate::firewall::judge_again(&firewall.world(), &ledger, &blobs, &metrics, now));
        if let Err(wrong) = judging.await? {
            tracing::error!(error = &wrong as &dyn std::error::Error, "what was served cannot be judged again");
        }
        Ok(())
    }

    fn is_due(&self, at: usize) -> bool {
        let followed = self.lock();
        let followed = &followed[at];
        let Some((clock, watch)) = followed.looked else { return true };
        let by_clock = timestamp::after(clock, followed.feed.interval) <= self.parts.clock.now();
        let is_path = matches!(followed.feed.source, FeedSource::Path(_));
        by_clock || (is_path && watch.elapsed() >= PATH_EVERY.max(followed.took * PATH_COST).min(followed.feed.interval))
    }

    fn was_synced_elsewhere(&self, at: usize) -> bool {
        let kept = self.parts.shelf.state(&self.feed(at));
        kept.generation != self.lock()[at].state.generation && kept.is_good()
    }

    fn tell_changed(feed: &FeedConfig, state: &FeedState) {
        let tally = &state.tally;
        FeedChanged { feed: &feed.name, records: tally.records, unreadable: tally.unreadable, skipped: tally.skipped }.emit();
    }

    fn tell_failed(&self, feed: &FeedConfig, why: &str, has_records: bool) {
        FeedFailed { feed: &feed.name, detail: why, has_records }.emit(&self.parts.metrics);
        let incident = LedgerEvent { kind: "feed_failed", name: None, version: None, detail: format!("`{}`: {why}", feed.name) };
        self.parts.ledger.record_incident(incident, self.parts.clock.now());
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
