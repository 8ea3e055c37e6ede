//! Connections to other hosts than the registry: servers, feeds, and the tunnels of the gateway.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use http::header::{HeaderMap, HeaderValue};
use jiff::Timestamp;
use url::Url;

use crate::app::error::AppError;
use crate::config::{Config, FeedSettings};
use crate::feed::{self, FeedStore, LoadedFeed};
use crate::net::{AddressScope, ClientConfig, ClientRequest, Deadlines, HttpClient, ProxySettings, TlsTrust};
use crate::policy::{Advisories, FeedTrust};
use crate::tls::{self, ServerCertificateFiles};
use crate::upstream;

/// What Coldframe calls itself where no user agent is configured.
const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("coldframe/", env!("CARGO_PKG_VERSION")));

pub(crate) fn http_client(config: &Config, deadlines: Deadlines, proxies: ProxySettings) -> Result<HttpClient, AppError> {
    let tls = tls::client_config(&config.tls)?.client;
    Ok(HttpClient::new(&ClientConfig { deadlines, proxies, tls, user_agent: USER_AGENT }))
}

/// Returns a client for a server on this machine that has one of these certificates, whatever names it has.
pub(crate) fn pinned_client(files: &ServerCertificateFiles, deadlines: Deadlines) -> Result<HttpClient, AppError> {
    let tls = tls::trust_exactly(files.leaf()?)?;
    Ok(HttpClient::new(&ClientConfig { deadlines, proxies: ProxySettings::none(), tls, user_agent: USER_AGENT }))
}

pub(crate) struct HttpReply {
    pub(crate) is_success: bool,
    pub(crate) status: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Sends one request. Reads at most `limit` bytes of the response's body, and none if it is 0.
pub(crate) async fn send(
    client: &HttpClient,
    (method, url, headers, body): (Method, Url, HeaderMap, Bytes),
    limit: u64,
) -> Result<HttpReply, String> {
    let request = ClientRequest { method, url, headers, body, reach: AddressScope::Anywhere };
    let response = client.send(&request).await.map_err(|error| error.to_string())?;
    let (status, headers) = (response.status, response.headers);
    let body = match limit {
        0 => Bytes::new(),
        limit => response.body.collect(limit, None).await.map_err(|error| error.to_string())?,
    };
    Ok(HttpReply { is_success: status.is_success(), status: status.to_string(), headers, body })
}

pub(crate) fn below(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/{path}", base.path().trim_end_matches('/')));
    url
}

/// Returns the settings of clients for feeds and egress: the proxies, CAs and deadlines of upstream.
pub(crate) fn like_upstream(upstream: &upstream::Config, trust: &TlsTrust) -> ClientConfig {
    ClientConfig {
        deadlines: upstream.deadlines,
        proxies: upstream.proxies.clone(),
        tls: Arc::clone(&trust.client),
        user_agent: HeaderValue::from_str(&upstream.user_agent).unwrap_or(USER_AGENT),
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
