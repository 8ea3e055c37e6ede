//! Connections to other hosts than the registry: downloads of feeds, and the tunnels of the gateway.

use std::path::Path;
use std::sync::Arc;

use http::HeaderValue;
use jiff::Timestamp;

use crate::config::FeedSettings;
use crate::feed::{self, FeedStore, LoadedFeed};
use crate::net::{self, ClientConfig, HttpClient, OutboundProxy};
use crate::policy::{Advisories, FeedTrust};
use crate::upstream;

/// Creates the HTTP client for feeds, with the proxies, CAs and deadlines of upstream.
pub(crate) fn feed_client(upstream: &upstream::Config, trust: &net::TlsTrust) -> HttpClient {
    HttpClient::new(&settings(upstream, trust))
}

/// Returns the outbound proxy of the gateway: the one that upstream is reached through, if any.
pub(crate) fn outbound_proxy(upstream: &upstream::Config, trust: &net::TlsTrust) -> OutboundProxy {
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

/// Loads the advisories for a single command: paths are read, URLs are taken from the cache. Blocks; makes no network requests.
pub(crate) fn load_feeds_once(feeds: &FeedSettings, data_dir: &Path, scratch: &Path, now: Timestamp) -> Advisories {
    let (store, scratch_store) = (FeedStore::of(data_dir), FeedStore::of(scratch));
    let (mut found, mut lacking) = (Vec::new(), None);
    for feed in &feeds.followed {
        let read = feed::load_path_once(feed, &scratch_store, &store, now).or_else(|error| {
            tracing::warn!(feed.name = feed.name, error = %error, "feed not read");
            Ok(None)
        });
        let kept = |read: Option<LoadedFeed>| read.map_or_else(|| feed::load(feed, &store), |read| Ok(Some(read)));
        match read.and_then(kept) {
            Ok(Some(loaded)) => found.push(loaded.advisories),
            Ok(None) | Err(_) if feed.trust == FeedTrust::Warn || feeds.serve_without => {}
            Ok(None) | Err(_) => lacking = lacking.or(Some(feed.name.as_str())),
        }
    }
    Advisories::of_feeds(found).lacking(lacking)
}
