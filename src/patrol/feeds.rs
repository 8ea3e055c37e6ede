//! Looks after the feeds: loads what is kept, looks at the sources, puts what changed in force and has what was served judged
//! again. Refuses to know how a feed is read.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::exposure;
use crate::feed::{self, FeedConfig, FeedError, Loaded, Shelf, Source, State, Synced};
use crate::firewall::Firewall;
use crate::net::Client;
use crate::npm::instant;
use crate::policy::{Advisories, FeedAdvisories, Trust};
use crate::store::{Blobs, Incident, Ledger};
use crate::telemetry::{Clock, FeedChanged, FeedFailed, Metrics};

/// How often it is seen to whether a feed is due, or was synced by another process.
const TICK: Duration = Duration::from_millis(500);

/// How often a path is looked at, whatever the interval: it costs nothing but a look. One that takes long is looked at less often.
const PATH_EVERY: Duration = Duration::from_secs(2);
const PATH_COST: u32 = 20;

/// How long the start waits for a feed that was never read; it is fetched on behind it.
const PATIENCE: Duration = Duration::from_secs(30);

/// What looks after feeds is made of.
pub struct Parts {
    /// The feeds.
    pub followed: Vec<FeedConfig>,
    /// Whether it is served although a feed could not be read at all yet.
    pub serve_without: bool,
    /// Where they are kept.
    pub shelf: Shelf,
    /// Who asks servers.
    pub client: Client,
    /// Where they are put in force.
    pub firewall: Arc<Firewall>,
    /// What was served.
    pub ledger: Arc<dyn Ledger>,
    /// What is cached.
    pub blobs: Arc<dyn Blobs>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// The feeds that are followed. One a process.
pub struct Feeds {
    parts: Parts,
    followed: Mutex<Vec<Followed>>,
}

/// How one feed stands.
#[derive(Debug, Clone)]
pub struct Standing {
    /// The feed.
    pub feed: FeedConfig,
    /// How it stands.
    pub state: State,
    /// Why it is not fresh, if it is not.
    pub staleness: Option<String>,
}

struct Followed {
    feed: FeedConfig,
    state: State,
    advisories: Option<Arc<FeedAdvisories>>,
    /// When its source was last looked at, by the clock and by a watch that nobody sets.
    looked: Option<(Timestamp, Instant)>,
    took: Duration,
}

impl Feeds {
    /// Loads what is kept, looks at every path and at what was never read, and puts it in force. What cannot be read changes
    /// nothing but how its feed stands.
    pub async fn open(parts: Parts) -> Arc<Self> {
        let followed = parts.followed.iter().map(|feed| Followed {
            feed: feed.clone(),
            state: parts.shelf.state(feed),
            advisories: None,
            looked: None,
            took: Duration::ZERO,
        });
        let feeds = Arc::new(Self { followed: Mutex::new(followed.collect()), parts });
        for at in 0..feeds.parts.followed.len() {
            feeds.begin(at).await;
        }
        feeds.put_in_force();
        feeds
    }

    /// Looks again whenever a feed is due, until it is dropped.
    pub async fn watch(self: Arc<Self>) {
        if self.parts.followed.is_empty() {
            return;
        }
        // Feeds may have changed while nobody was here to judge.
        self.judge_again().await;
        loop {
            for at in 0..self.parts.followed.len() {
                if self.is_due(at) {
                    self.look(at).await;
                } else if self.was_synced_elsewhere(at) {
                    self.reload(at).await;
                }
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// How every feed stands now.
    #[must_use]
    pub fn standings(&self) -> Vec<Standing> {
        let now = self.parts.clock.now();
        let tell = |followed: &Followed| Standing {
            feed: followed.feed.clone(),
            state: followed.state.clone(),
            staleness: followed.staleness(now),
        };
        self.lock().iter().map(tell).collect()
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

    /// The first look at a feed, before anybody is served.
    async fn begin(&self, at: usize) {
        let feed = self.parts.followed[at].clone();
        let is_path = matches!(feed.source, Source::Path(_));
        if !is_path || !self.sync(at).await {
            self.load(at).await;
        }
        let never_read = self.lock()[at].advisories.is_none();
        if never_read && !is_path && tokio::time::timeout(PATIENCE, self.sync(at)).await.is_err() {
            tracing::warn!(feed.name = feed.name, "a feed takes long to arrive");
        }
    }

    async fn look(&self, at: usize) {
        if self.sync(at).await {
            self.put_in_force();
            self.judge_again().await;
        }
    }

    async fn reload(&self, at: usize) {
        if self.load(at).await {
            self.put_in_force();
            self.judge_again().await;
        }
    }

    /// Looks at the source; whether there is something else to put in force.
    async fn sync(&self, at: usize) -> bool {
        let (feed, now, begun) = (self.parts.followed[at].clone(), self.parts.clock.now(), Instant::now());
        let synced = feed::sync(&feed, &self.parts.shelf, &self.parts.client, now, false).await;
        let took = begun.elapsed();
        let mut followed = self.lock();
        let followed = &mut followed[at];
        followed.looked = Some((now, Instant::now()));
        followed.took = took;
        match synced {
            Synced::Changed(loaded) => {
                Self::tell_changed(&feed, &loaded.state);
                followed.state = loaded.state;
                followed.advisories = Some(loaded.advisories);
                true
            }
            Synced::Unchanged(state) => {
                let recovered = followed.state.failure.is_some();
                // Somebody else may have synced it just now: then what is kept is loaded with the next tick.
                followed.state = State { generation: followed.state.generation, ..state };
                if recovered {
                    tracing::info!(feed.name = feed.name, "a feed is fresh again");
                }
                false
            }
            // Whoever is at it will be done soon.
            Synced::Failed(_, FeedError::Busy) => false,
            Synced::Failed(state, wrong) => {
                let known = followed.state.failure.as_ref().map(|failure| failure.why.clone());
                followed.state.failure = state.failure;
                if known.as_deref() != Some(&*wrong.to_string()) {
                    self.tell_failed(&feed, &wrong.to_string(), followed.advisories.is_some() || followed.state.is_good());
                }
                false
            }
        }
    }

    /// Loads what is kept; whether there is something to put in force.
    async fn load(&self, at: usize) -> bool {
        let (feed, shelf) = (self.parts.followed[at].clone(), self.parts.shelf.clone());
        let loaded = tokio::task::spawn_blocking(move || feed::load(&feed, &shelf)).await;
        let feed = &self.parts.followed[at];
        match loaded {
            Ok(Ok(Some(Loaded { advisories, state }))) => {
                Self::tell_changed(feed, &state);
                let mut followed = self.lock();
                // A failure that was found a moment ago is newer than what is kept.
                followed[at].state = state;
                followed[at].advisories = Some(advisories);
                true
            }
            Ok(Ok(None)) => false,
            Ok(Err(wrong)) => {
                self.tell_failed(feed, &wrong.to_string(), false);
                false
            }
            Err(_) => {
                self.tell_failed(feed, "its task was lost", false);
                false
            }
        }
    }

    /// Replaces what the firewall follows, whole.
    fn put_in_force(&self) {
        let followed = self.lock();
        let lacking = followed.iter().find(|one| one.advisories.is_none() && one.feed.trust != Trust::Warn);
        let lacking = lacking.filter(|_| !self.parts.serve_without).map(|one| one.feed.name.clone());
        let advisories = Advisories::of_feeds(followed.iter().filter_map(|one| one.advisories.clone()).collect());
        drop(followed);
        self.parts.firewall.follow(&advisories.lacking(lacking.as_deref()));
    }

    async fn judge_again(&self) {
        let (firewall, ledger, blobs) =
            (Arc::clone(&self.parts.firewall), Arc::clone(&self.parts.ledger), Arc::clone(&self.parts.blobs));
        let (metrics, now) = (Arc::clone(&self.parts.metrics), self.parts.clock.now());
        let judged =
            tokio::task::spawn_blocking(move || exposure::judge_again(&firewall.world(), &ledger, &blobs, &metrics, now));
        match judged.await {
            Ok(Ok(_)) => {}
            Ok(Err(wrong)) => tracing::error!(error = &wrong as &dyn std::error::Error, "what was served cannot be judged again"),
            Err(wrong) => tracing::error!(error = %wrong, "what was served cannot be judged again"),
        }
    }

    fn is_due(&self, at: usize) -> bool {
        let followed = self.lock();
        let followed = &followed[at];
        let Some((clock, watch)) = followed.looked else { return true };
        let by_clock = instant::after(clock, followed.feed.interval) <= self.parts.clock.now();
        let is_path = matches!(followed.feed.source, Source::Path(_));
        by_clock || (is_path && watch.elapsed() >= PATH_EVERY.max(followed.took * PATH_COST).min(followed.feed.interval))
    }

    fn was_synced_elsewhere(&self, at: usize) -> bool {
        let kept = self.parts.shelf.state(&self.parts.followed[at]);
        kept.generation != self.lock()[at].state.generation && kept.is_good()
    }

    fn tell_changed(feed: &FeedConfig, state: &State) {
        let tally = &state.tally;
        FeedChanged { feed: &feed.name, records: tally.records, unreadable: tally.unreadable, skipped: tally.skipped }.emit();
    }

    fn tell_failed(&self, feed: &FeedConfig, why: &str, has_records: bool) {
        FeedFailed { feed: &feed.name, detail: why, has_records }.emit(&self.parts.metrics);
        let incident = Incident { kind: "feed_failed", name: None, version: None, detail: format!("`{}`: {why}", feed.name) };
        self.parts.ledger.record_incident(incident, self.parts.clock.now());
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Followed>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Followed {
    fn staleness(&self, now: Timestamp) -> Option<String> {
        self.state.staleness(self.feed.expiry, now)
    }
}
