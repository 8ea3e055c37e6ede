//! Joins the feeds to the rest: who asks for them, where their numbers and their freshness show. Refuses to look at them.

use std::path::Path;
use std::sync::Arc;

use http::HeaderValue;
use jiff::Timestamp;

use crate::config::FeedSettings;
use crate::feed::{self, FeedStore, LoadedFeed};
use crate::net::{self, ClientConfig, HttpClient, OutboundProxy};
use crate::policy::{Advisories, FeedTrust};
use crate::server::admin::HealthCheck;
use crate::telemetry::{CallbackGauge, Metrics};
use crate::upstream;

/// Asks for feeds as upstream is asked: through the same proxies, trusting the same authorities, within the same deadlines.
pub(crate) fn client(upstream: &upstream::Config, trust: &net::TlsTrust) -> HttpClient {
    HttpClient::new(&settings(upstream, trust))
}

/// Who connects the gateway to others, where upstream is asked through somebody too.
pub(crate) fn parent(upstream: &upstream::Config, trust: &net::TlsTrust) -> OutboundProxy {
    OutboundProxy::new(&settings(upstream, trust))
}

fn settings(upstream: &upstream::Config, trust: &net::TlsTrust) -> ClientConfig {
    let ours = HeaderValue::from_static(concat!("coldframe/", env!("CARGO_PKG_VERSION")));
    ClientConfig {
        deadlines: upstream.deadlines,
        proxies: upstream.proxies.clone(),
        tls: Arc::clone(&trust.client),
        user_agent: HeaderValue::from_str(&upstream.user_agent).unwrap_or(ours),
    }
}

/// What the feeds say, for a question that is asked once: paths are read, of addresses what is kept counts. Blocks; asks nobody.
pub(crate) fn glance(feeds: &FeedSettings, data_dir: &Path, scratch: &Path, now: Timestamp) -> Advisories {
    let (shelf, aside) = (FeedStore::of(data_dir), FeedStore::of(scratch));
    let (mut found, mut lacking) = (Vec::new(), None);
    for feed in &feeds.followed {
        let read = feed::read_path(feed, &aside, &shelf, now).or_else(|wrong| {
            tracing::warn!(feed.name = feed.name, error = %wrong, "a feed cannot be read, its last good records count");
            Ok(None)
        });
        let kept = |read: Option<LoadedFeed>| read.map_or_else(|| feed::load(feed, &shelf), |read| Ok(Some(read)));
        match read.and_then(kept) {
            Ok(Some(loaded)) => found.push(loaded.advisories),
            Ok(None) | Err(_) if feed.trust == FeedTrust::Warn || feeds.serve_without => {}
            Ok(None) | Err(_) => lacking = lacking.or(Some(feed.name.as_str())),
        }
    }
    Advisories::of_feeds(found).lacking(lacking)
}

/// Has the numbers of the feeds read whenever they are rendered.
pub(crate) fn watch(feeds: &Arc<crate::app::tasks::feeds::FeedScheduler>, metrics: &Metrics) {
    // Weakly: the feeds hold the numbers.
    let (counted, aged) = (Arc::downgrade(feeds), Arc::downgrade(feeds));
    let advisories = move || counted.upgrade().map_or(0, |feeds| feeds.advisories());
    metrics.watch(CallbackGauge::Advisories, Box::new(advisories));
    let stale = move || aged.upgrade().map_or(0, |feeds| feeds.stale());
    metrics.watch(CallbackGauge::FeedsStale, Box::new(stale));
}

/// Whether every feed that is to be obeyed was read.
pub(crate) fn lacking(feeds: &Arc<crate::app::tasks::feeds::FeedScheduler>) -> HealthCheck {
    let feeds = Arc::clone(feeds);
    Arc::new(move || feeds.lacking())
}

/// Whether every feed is fresh.
pub(crate) fn freshness(feeds: &Arc<crate::app::tasks::feeds::FeedScheduler>) -> HealthCheck {
    let feeds = Arc::clone(feeds);
    Arc::new(move || feeds.freshness())
}
