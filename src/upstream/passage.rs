//! Passing a client's request on and upstream's answer back: audits, searches, pings, writes. Refuses to understand them,
//! and to let through a header that is not on its lists.

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, DATE, ETAG, IF_MODIFIED_SINCE,
    IF_NONE_MATCH, LAST_MODIFIED, RETRY_AFTER, USER_AGENT, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, Method, StatusCode};

use super::registry::failure;
use super::route::Route;
use super::{Authorization, Registry, UpstreamError};

/// The largest answer that is passed back, in bytes.
const ANSWER_LIMIT: u64 = 64 << 20;

/// What goes upstream, besides npm's own `npm-…`. Credentials travel as an [`Authorization`], never here.
const GOES_UP: [HeaderName; 8] =
    [ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, CONTENT_ENCODING, CONTENT_TYPE, IF_MODIFIED_SINCE, IF_NONE_MATCH, USER_AGENT];

/// What comes back, besides npm's own `npm-…`. No cookie, and no `Location`: the client would go there without us.
const COMES_BACK: [HeaderName; 8] =
    [CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, DATE, ETAG, LAST_MODIFIED, RETRY_AFTER, WWW_AUTHENTICATE];

/// A request that is passed on as it came: audit, search, ping, writes.
pub struct Passage {
    /// The method.
    pub method: Method,
    /// Path and query, encoded, below the registry's address; without a leading slash.
    pub path: String,
    /// The end-to-end headers that may be passed on (content type and encoding, accept, npm's own, `user-agent`).
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// What upstream answered to a [`Passage`], whatever its status.
pub struct Passed {
    /// The status.
    pub status: StatusCode,
    /// The end-to-end headers that may be passed back.
    pub headers: HeaderMap,
    /// The whole body, bounded.
    pub body: Bytes,
}

impl Registry {
    /// Passes a request on and its answer back, whatever the status. Only GET and HEAD are tried again when a connection
    /// fails, and only a GET follows redirects, under the rules for packuments.
    ///
    /// # Errors
    /// When there is no answer, or one that is broken or over 64 MiB; [`UpstreamError::NotFound`] for a path that leads out
    /// of the registry.
    pub async fn pass(&self, passage: Passage, authorization: &Authorization) -> Result<Passed, UpstreamError> {
        let url = self.below(&passage.path).ok_or(UpstreamError::NotFound)?;
        let headers = only(&passage.headers, &GOES_UP);
        let route = Route::to_registry(url);
        let (route, response) = if passage.method == Method::GET {
            self.get(route, headers, authorization).await?
        } else {
            let response = self.send(passage.method, &route, headers, passage.body, authorization).await?;
            (route, response)
        };
        let headers = only(&response.headers, &COMES_BACK);
        let body = response.body.collect(ANSWER_LIMIT).await.map_err(|error| failure(&route.host(), &error))?;
        Ok(Passed { status: response.status, headers, body })
    }
}

/// The headers that are listed, and npm's own.
fn only(headers: &HeaderMap, listed: &[HeaderName]) -> HeaderMap {
    let passes = |name: &HeaderName| listed.contains(name) || name.as_str().starts_with("npm-");
    let kept = headers.iter().filter(|(name, _)| passes(name));
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}
