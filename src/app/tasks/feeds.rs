//! Keeps the feeds up to date, each in a task of its own, so that a slow one delays no other. Loads stored feeds, syncs them with
//! their sources, applies changes, and rescans past downloads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{Notify, watch};
use tokio::task::JoinError;

use crate::app::core::Core;
use crate::app::outbound;
use crate::app::supervisor::{Supervisor, TaskEnd};
use crate::app::tasks::due;
use crate::config::{Config, FeedSettings};
use crate::feed::{
    self, FeedConfig, FeedError, FeedFailure, FeedSource, FeedState, FeedStore, LoadedFeed, OnShrink, SyncOutcome,
};
use crate::firewall;
use crate::net::HttpClient;
use crate::policy::{Advisories, FeedAdvisories, FeedTrust};
use crate::server::admin::HealthChecks;
use crate::server::pages::{FeedStatus, FeedStatuses};
use crate::store::{Ledger, LedgerEvent};
use crate::telemetry::{CallbackGauge, FeedChanged, FeedFailed, TaskLabel};
use crate::units::timestamp;

/// How often each task checks whether its feed is due or was synced by another process.
const TICK: Duration = Duration::from_millis(500);

/// The interval of path checks, which cost little. A slow one is repeated after 20 times its duration, within `feed-interval`.
const PATH_EVERY: Duration = Duration::from_secs(2);
const PATH_COST: u32 = 20;

/// The total time limit of one sync. OSV's archive takes a minute on a slow connection.
const DEADLINE: Duration = Duration::from_secs(10 * 60);

/// How often files that feeds list are looked for in what was served since.
const FILE_SCAN_INTERVAL: Duration = Duration::from_secs(3600);

/// How long startup waits for the feeds, so that feeds that load fast apply to the first request.
pub(crate) const STARTUP_WAIT: Duration = Duration::from_secs(2);

/// Schedules the syncs of all feeds. One per process.
pub(crate) struct FeedScheduler {
    core: Core,
    feed_store: FeedStore,
    client: HttpClient,
    /// All feeds since the start. A removed feed keeps its number.
    followed: Mutex<Vec<ScheduledFeed>>,
    /// Whether the server serves before every feed has been read once.
    serve_without: AtomicBool,
    /// The number of feeds at the start, and of those that were checked for the first time.
    pub(crate) at_start: usize,
    begun: watch::Sender<usize>,
    /// Held during a rescan of past downloads, so that only one runs.
    rescanning: tokio::sync::Mutex<()>,
    /// Wakes the scan of served files.
    file_scan: Notify,
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
    is_dropped: bool,
    /// For a removed feed, the feeds that were added with its removal. Its records stay active until all of them are read, so
    /// that a changed address or key exposes nothing meanwhile.
    successors: Vec<usize>,
}

impl FeedScheduler {
    /// Creates a scheduler. All feeds are unread, and no version is known to be good until the tasks that
    /// [`FeedScheduler::spawn`] starts have read them.
    pub(crate) fn open(core: &Core, config: &Config) -> Arc<Self> {
        let (settings, feed_store) = (&config.feeds, FeedStore::of(&config.store.data_dir));
        let followed: Vec<_> = settings.followed.iter().map(|feed| ScheduledFeed::new(feed, &feed_store, false)).collect();
        let feeds = Arc::new(Self {
            core: core.clone(),
            feed_store,
            client: HttpClient::new(&outbound::like_upstream(&config.upstream, &core.trust)),
            serve_without: AtomicBool::new(settings.serve_without),
            at_start: followed.len(),
            followed: Mutex::new(followed),
            begun: watch::Sender::new(0),
            rescanning: tokio::sync::Mutex::default(),
            file_scan: Notify::new(),
        });
        feeds.apply(&mut feeds.lock());
        // Weak references, because the feeds hold the metrics.
        let (counted, aged) = (Arc::downgrade(&feeds), Arc::downgrade(&feeds));
        let advisories = move || counted.upgrade().map_or(0, |feeds| feeds.advisories());
        core.metrics.register_gauge(CallbackGauge::Advisories, Box::new(advisories));
        let stale = move || aged.upgrade().map_or(0, |feeds| feeds.stale().len() as u64);
        core.metrics.register_gauge(CallbackGauge::FeedsStale, Box::new(stale));
        feeds
    }

    pub(crate) fn spawn(self: &Arc<Self>, numbers: impl IntoIterator<Item = usize>, tasks: &mut Supervisor) {
        for number in numbers {
            let name = format!("feed {}", self.feed(number).name);
            tasks.spawn(TaskLabel::Feed, name, Arc::clone(self), move |feeds| feeds.follow(number));
        }
    }

    /// Starts the task that looks for listed files in what was served.
    pub(crate) fn spawn_file_scan(self: &Arc<Self>, tasks: &mut Supervisor) {
        tasks.spawn(TaskLabel::Feed, "served files", Arc::clone(self), Self::scan_files);
    }

    /// Replaces the feeds, and starts tasks for the new ones. Unchanged feeds keep their records.
    pub(crate) fn replace(self: &Arc<Self>, settings: &FeedSettings, tasks: &mut Supervisor) {
        let feeds = &settings.followed;
        let mut followed = self.lock();
        // If requests are refused because of an unread feed, its replacement is required too.
        let is_added = !followed.iter().any(|entry| self.is_lacking(entry));
        self.serve_without.store(settings.serve_without, Ordering::Relaxed);
        let is_same = |entry: &ScheduledFeed, feed: &FeedConfig| {
            let FeedConfig { name, source, trust, key, .. } = &entry.feed;
            !entry.is_dropped && (name, source, *trust, key) == (&feed.name, &feed.source, feed.trust, &feed.key)
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
            followed.push(ScheduledFeed::new(feed, &self.feed_store, is_added));
        }
        let is_dropped: Vec<bool> = followed.iter().map(|entry| entry.is_dropped).collect();
        for entry in followed.iter_mut().filter(|entry| entry.is_dropped && entry.advisories.is_some()) {
            entry.successors.retain(|at| !is_dropped[*at]);
            entry.successors.extend(&added);
        }
        self.apply(&mut followed);
        drop(followed);
        self.spawn(added, tasks);
    }

    fn feed(&self, at: usize) -> FeedConfig {
        self.lock()[at].feed.clone()
    }

    /// Waits until each feed was checked once, at most for `patience`.
    pub(crate) async fn until_checked(&self, patience: Duration) {
        let mut begun = self.begun.subscribe();
        let every = begun.wait_for(|begun| *begun >= self.at_start);
        if tokio::time::timeout(patience, every).await.is_err() {
            for entry in self.lock().iter().filter(|entry| !entry.is_dropped && entry.advisories.is_none()) {
                tracing::warn!(feed.name = entry.feed.name, "feed not read yet");
            }
        }
    }

    /// Checks one feed whenever it is due, until it is removed.
    async fn follow(self: Arc<Self>, at: usize) -> TaskEnd {
        if !self.lock()[at].has_begun {
            let begun = self.begin(at).await;
            self.lock()[at].has_begun = true;
            self.begun.send_modify(|begun| *begun += 1);
            begun?;
        }
        // The feed may have changed while the server was down.
        self.rescan_exposure().await?;
        while !self.lock()[at].is_dropped {
            let changed =
                if self.is_due(at) { self.sync(at).await } else { self.was_synced_elsewhere(at) && self.load(at).await? };
            if changed {
                self.apply(&mut self.lock());
                self.rescan_exposure().await?;
            }
            tokio::time::sleep(TICK).await;
        }
        Ok(())
    }

    /// Required feeds must have been read once. Stale feeds are a warning, unless `feed-readiness` is set.
    pub(crate) fn add_checks(self: &Arc<Self>, checks: &mut HealthChecks, settings: &FeedSettings) {
        let (unread, stale) = (Arc::clone(self), Arc::clone(self));
        checks.require("feeds", move || unread.check_read());
        let freshness = move || match stale.stale() {
            stale if stale.is_empty() => Ok(()),
            stale => Err(stale.join("; ")),
        };
        if settings.readiness { checks.require("feeds", freshness) } else { checks.warn("feeds", freshness) }
    }

    /// Returns an error with the required feeds that were never read, and the reasons.
    pub(crate) fn check_read(&self) -> Result<(), String> {
        let followed = self.lock();
        let lacking = followed.iter().filter(|entry| self.is_lacking(entry)).map(|entry| {
            let why = entry.state.failure.as_ref().map_or("still loading", |failure| failure.why.as_str());
            format!("`{}` was never read, so everything is refused: {why}", entry.feed.name)
        });
        let lacking: Vec<_> = lacking.collect();
        if lacking.is_empty() { Ok(()) } else { Err(lacking.join("; ")) }
    }

    fn advisories(&self) -> u64 {
        self.lock().iter().filter_map(|entry| entry.advisories.as_ref()).map(|index| index.count() as u64).sum()
    }

    fn stale(&self) -> Vec<String> {
        let now = self.core.clock.now();
        let followed = self.lock();
        let stale = followed.iter().filter(|entry| !entry.is_dropped).filter_map(|ScheduledFeed { feed, state, .. }| {
            Some(format!("`{}` is stale: {}", feed.name, state.staleness(feed.expiry, now)?))
        });
        stale.collect()
    }

    /// Checks a feed for the first time. A path is read; a URL is fetched only if there are no stored records to load.
    async fn begin(&self, at: usize) -> TaskEnd {
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

    /// Syncs a feed with its source. Returns whether there are changes to apply.
    async fn sync(&self, at: usize) -> bool {
        let (feed, now, begun) = (self.feed(at), self.core.clock.now(), Instant::now());
        let syncing = feed::sync(&feed, &self.feed_store, &self.client, now, OnShrink::Reject);
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
                followed.replace(loaded);
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
        let (feed, feed_store) = (self.feed(at), self.feed_store.clone());
        let loading = feed.clone();
        match tokio::task::spawn_blocking(move || feed::load(&loading, &feed_store)).await? {
            Ok(Some(loaded)) => {
                let followed = &mut self.lock()[at];
                if !followed.is_dropped {
                    followed.replace(loaded);
                }
                return Ok(!followed.is_dropped);
            }
            Ok(None) => {}
            Err(error) => self.log_failed(&feed, &error.to_string(), false),
        }
        Ok(false)
    }

    /// Replaces all advisories of the firewall. The lock is held, so that the later of two parallel changes wins.
    fn apply(&self, followed: &mut [ScheduledFeed]) {
        let is_read: Vec<bool> = followed.iter().map(|entry| entry.advisories.is_some()).collect();
        for entry in followed.iter_mut().filter(|entry| entry.is_dropped && entry.successors.iter().all(|at| is_read[*at])) {
            entry.advisories = None;
        }
        let lacking = followed.iter().find(|entry| self.is_lacking(entry)).map(|entry| entry.feed.name.as_str());
        let advisories = Advisories::of_feeds(followed.iter().filter_map(|entry| entry.advisories.clone()).collect());
        self.core.firewall.set_advisories(&advisories.lacking(lacking));
    }

    /// Checks whether requests are refused because this feed is unread.
    fn is_lacking(&self, entry: &ScheduledFeed) -> bool {
        let counts = !entry.is_dropped && !entry.is_added && entry.feed.trust != FeedTrust::Warn;
        entry.advisories.is_none() && counts && !self.serve_without.load(Ordering::Relaxed)
    }

    async fn rescan_exposure(&self) -> TaskEnd {
        let _once = self.rescanning.lock().await;
        let (core, now) = (self.core.clone(), self.core.clock.now());
        let rescan = tokio::task::spawn_blocking(move || {
            firewall::rescan(&core.firewall.policy(), &*core.ledger, &*core.blobs, &core.metrics, now)
        });
        if let Err(error) = rescan.await? {
            tracing::error!(error = &error as &dyn std::error::Error, "exposure rescan failed");
        }
        self.file_scan.notify_one();
        Ok(())
    }

    /// Looks for listed files in what was served, after each change of a feed and once an hour. A task of its own, because it may take
    /// a minute.
    async fn scan_files(self: Arc<Self>) -> TaskEnd {
        loop {
            tokio::select! {
                () = self.file_scan.notified() => {}
                () = due::wait(&*self.core.clock, FILE_SCAN_INTERVAL) => {}
            }
            if self.core.firewall.scan_served_files().await {
                self.rescan_exposure().await?;
            }
        }
    }

    fn is_due(&self, at: usize) -> bool {
        let followed = self.lock();
        let followed = &followed[at];
        let Some((clock, watch)) = followed.checked_at else { return true };
        let by_clock = timestamp::saturating_add(clock, followed.feed.interval) <= self.core.clock.now();
        let is_path = matches!(followed.feed.source, FeedSource::Path(_));
        by_clock || (is_path && watch.elapsed() >= PATH_EVERY.max(followed.took * PATH_COST).min(followed.feed.interval))
    }

    fn was_synced_elsewhere(&self, at: usize) -> bool {
        let kept = self.feed_store.state(&self.feed(at));
        kept.generation != self.lock()[at].state.generation && kept.is_good()
    }

    fn log_failed(&self, feed: &FeedConfig, why: &str, has_records: bool) {
        FeedFailed { feed: &feed.name, detail: why, has_records }.emit(&self.core.metrics);
        let incident = LedgerEvent { kind: "feed_failed", name: None, version: None, detail: format!("`{}`: {why}", feed.name) };
        self.core.ledger.record_event(incident, self.core.clock.now());
    }

    fn lock(&self) -> MutexGuard<'_, Vec<ScheduledFeed>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FeedStatuses for FeedScheduler {
    fn statuses(&self) -> Vec<FeedStatus> {
        let now = self.core.clock.now();
        let followed = self.lock();
        let current = followed.iter().filter(|entry| !entry.is_dropped);
        let status = current.map(|ScheduledFeed { feed, state, advisories, .. }| FeedStatus {
            name: feed.name.clone(),
            trust: feed.trust.as_str(),
            records: advisories.as_ref().map_or(0, |index| index.count() as u64),
            synced: state.synced,
            changed: state.changed,
            staleness: state.staleness(feed.expiry, now),
        });
        status.collect()
    }
}

impl ScheduledFeed {
    fn new(feed: &FeedConfig, store: &FeedStore, is_added: bool) -> Self {
        Self {
            feed: feed.clone(),
            state: store.state(feed),
            advisories: None,
            checked_at: None,
            took: Duration::ZERO,
            has_begun: false,
            is_added,
            is_dropped: false,
            successors: Vec::new(),
        }
    }

    /// Replaces the records, and logs their number.
    fn replace(&mut self, loaded: LoadedFeed) {
        let tally = &loaded.state.tally;
        let (records, unreadable, skipped) = (tally.records, tally.unreadable, tally.skipped);
        FeedChanged { feed: &self.feed.name, records, unreadable, skipped }.emit();
        self.state = loaded.state;
        self.advisories = Some(loaded.advisories);
    }
}
