//! Asking a registry for a packument, or whether it changed. Refuses to look inside.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, AGE, CONTENT_ENCODING, DATE, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use jiff::Timestamp;

use super::registry::{failure, header, refusal};
use super::route::Route;
use super::{Authorization, Registry, UpstreamError};
use crate::npm::{PackageName, instant};

/// How to ask upstream whether its answer changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Validators {
    /// Its ETag, as it came.
    pub etag: Option<Box<str>>,
    /// Its Last-Modified, as it came.
    pub last_modified: Option<Box<str>>,
}

/// Upstream's answer to a question for a packument.
#[derive(Debug)]
pub struct Fetched {
    /// Upstream's clock: its `Date` plus its `Age`, if it sent a `Date`.
    pub date: Option<Timestamp>,
    /// Same bytes or new ones.
    pub freshness: Freshness,
}

/// Same bytes or new ones.
#[derive(Debug)]
pub enum Freshness {
    /// 304: what the validators named still holds.
    NotModified,
    /// 200: the body as it came over the wire.
    Changed {
        /// The body, complete.
        body: Bytes,
        /// Whether it is gzip.
        gzip: bool,
        /// Its validators.
        validators: Validators,
    },
}

impl Registry {
    /// Asks for the full packument; with `validators`, only if it changed.
    ///
    /// # Errors
    /// Whatever upstream did not do; [`UpstreamError::NotFound`] when it has no such package.
    pub async fn packument(
        &self,
        name: &PackageName,
        authorization: &Authorization,
        validators: Option<&Validators>,
    ) -> Result<Fetched, UpstreamError> {
        let url = self.below(&name.to_segment()).ok_or(UpstreamError::NotFound)?;
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        let conditional = validators.is_some_and(|validators| condition(&mut headers, validators));
        let (route, response) = self.get(Route::to_registry(url), headers, authorization).await?;
        let host = route.host();
        let date = upstream_time(&response.headers);
        match response.status {
            StatusCode::OK => {}
            StatusCode::NOT_MODIFIED if conditional => return Ok(Fetched { date, freshness: Freshness::NotModified }),
            _ => return Err(refusal(&route, response).await),
        }
        let gzip = match coding(&response.headers).as_str() {
            "" | "identity" => false,
            "gzip" | "x-gzip" => true,
            other => {
                let detail = format!("an encoding that was not asked for: `{}`", other.escape_debug());
                return Err(UpstreamError::Broken { host, detail: detail.into() });
            }
        };
        let validators = Validators {
            etag: header(&response.headers, &ETAG).map(Box::from),
            last_modified: header(&response.headers, &LAST_MODIFIED).map(Box::from),
        };
        let body = response.body.collect(self.packument_limit()).await.map_err(|error| failure(&host, &error))?;
        Ok(Fetched { date, freshness: Freshness::Changed { body, gzip, validators } })
    }
}

/// Adds what makes the question conditional; `false` if there is nothing to ask by.
fn condition(headers: &mut HeaderMap, validators: &Validators) -> bool {
    let mut add = |name: HeaderName, text: Option<&str>| {
        let value = text.and_then(|text| HeaderValue::from_str(text).ok());
        value.map(|value| headers.insert(name, value)).is_some()
    };
    let by_etag = add(IF_NONE_MATCH, validators.etag.as_deref());
    let by_date = add(IF_MODIFIED_SINCE, validators.last_modified.as_deref());
    by_etag || by_date
}

/// All `Content-Encoding` lines as one, in lower case.
fn coding(headers: &HeaderMap) -> String {
    let lines =
        headers.get_all(CONTENT_ENCODING).iter().map(|line| String::from_utf8_lossy(line.as_bytes()).trim().to_ascii_lowercase());
    lines.collect::<Vec<_>>().join(",")
}

/// When upstream made its answer plus how long that lay in a cache: what upstream's clock says now.
fn upstream_time(headers: &HeaderMap) -> Option<Timestamp> {
    let date: SystemTime = httpdate::parse_http_date(header(headers, &DATE)?).ok()?;
    let date = Timestamp::try_from(date).ok()?;
    let age = header(headers, &AGE).and_then(|age| age.parse::<u32>().ok()).unwrap_or(0);
    Some(instant::after(date, Duration::from_secs(age.into())))
}
