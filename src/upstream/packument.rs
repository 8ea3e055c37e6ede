//! Fetches packuments from a registry, conditionally if validators are known. The body is returned unparsed.

use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, AGE, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, DATE, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    LAST_MODIFIED,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use jiff::Timestamp;
use serde::de::IgnoredAny;

use crate::net::{ClientResponse, Reservation};
use crate::npm::{PackageName, PackumentForm};
use crate::units::timestamp;
use crate::upstream::authorization::Authorization;
use crate::upstream::error::UpstreamError;
use crate::upstream::fetch_target::FetchTarget;
use crate::upstream::registry::Registry;
use crate::upstream::response::{ERROR_BODY, header, refusal};

/// Validators for a conditional request, verbatim.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheValidators {
    pub etag: Option<Box<str>>,
    pub last_modified: Option<Box<str>>,
}

#[derive(Debug)]
pub struct PackumentReply {
    /// The `Date` of the server that answered, or of the origin if a cache keeps it.
    pub date: Option<Timestamp>,
    /// The `Age`: how long the response was in caches. `None` if it did not come from a cache.
    pub age: Option<Duration>,
    pub freshness: PackumentBody,
}

impl PackumentReply {
    /// Returns when upstream confirmed this: the earliest of `now`, `Date`, and `now` minus `Age`. Caches may replace `Date`.
    pub(crate) fn validated(&self, now: Timestamp) -> Timestamp {
        let stored = self.age.map_or(now, |age| timestamp::saturating_sub(now, age));
        self.date.map_or(now, |date| date.min(now)).min(stored)
    }

    /// Returns upstream's clock. `None` for a response from a cache, whose `Date` may come from any server.
    pub(crate) fn clock(&self) -> Option<Timestamp> {
        self.date.filter(|_| self.age.is_none())
    }
}

#[derive(Debug)]
pub enum PackumentBody {
    /// 304: the content that the validators identify is current.
    NotModified,
    /// 200: new content, as it came over the wire. `form` is abbreviated if the media type says so, else the requested one.
    Changed { body: Bytes, form: PackumentForm, gzip: bool, validators: CacheValidators },
}

impl Registry {
    /// Fetches the packument in `form`, which mirrors may not provide; with `validators`, only if it changed. The body counts
    /// against `share` and waits for memory. Returns [`UpstreamError::NotFound`] if the package does not exist.
    pub(crate) async fn packument(
        &self,
        name: &PackageName,
        form: PackumentForm,
        authorization: &Authorization,
        validators: Option<&CacheValidators>,
        share: &mut Reservation,
    ) -> Result<PackumentReply, UpstreamError> {
        let url = self.below(&name.to_segment()).ok_or(UpstreamError::NotFound)?;
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(accepting(form)));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        let conditional = validators.is_some_and(|validators| condition(&mut headers, validators));
        let (mut target, mut response) = self.get(FetchTarget::to_registry(url.clone()), headers.clone(), authorization).await?;
        if form == PackumentForm::Full && response.status == StatusCode::OK && is_abbreviated(&response.headers) {
            // A cache that ignores `Vary` may return the abbreviated form, which lacks fields for rules. `no-cache` bypasses it.
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            (target, response) = self.get(FetchTarget::to_registry(url), headers, authorization).await?;
        }
        let host = target.host();
        let (date, age) = (date(&response.headers), age(&response.headers));
        match response.status {
            StatusCode::OK => {}
            StatusCode::NOT_MODIFIED if conditional => {
                return Ok(PackumentReply { date, age, freshness: PackumentBody::NotModified });
            }
            StatusCode::NOT_FOUND | StatusCode::GONE => return Err(missing(&target, response).await),
            _ => return Err(refusal(&target, response).await),
        }
        let gzip = match coding(&response.headers).as_str() {
            "" | "identity" => false,
            "gzip" | "x-gzip" => true,
            other => {
                let detail = format!("unexpected content encoding: `{}`", other.escape_debug());
                return Err(UpstreamError::Broken { host, detail: detail.into() });
            }
        };
        let text = |name| header(&response.headers, name).map(Box::from);
        let validators = CacheValidators { etag: text(&ETAG), last_modified: text(&LAST_MODIFIED) };
        let form = if is_abbreviated(&response.headers) { PackumentForm::Abbreviated } else { form };
        let body = response.body.collect(self.shared.packument_limit, Some(share)).await;
        let body = body.map_err(|error| UpstreamError::from_client(&host, &error))?;
        Ok(PackumentReply { date, age, freshness: PackumentBody::Changed { body, form, gzip, validators } })
    }
}

const ABBREVIATED: &str = "application/vnd.npm.install-v1+json";

/// Returns the `Accept` header that npm sends for a packument in `form`.
fn accepting(form: PackumentForm) -> &'static str {
    match form {
        PackumentForm::Full => "application/json",
        PackumentForm::Abbreviated => "application/vnd.npm.install-v1+json; q=1.0, application/json; q=0.8",
    }
}

fn is_abbreviated(headers: &HeaderMap) -> bool {
    let media_type = header(headers, &CONTENT_TYPE).and_then(|value| value.split(';').next());
    media_type.is_some_and(|media_type| media_type.trim().eq_ignore_ascii_case(ABBREVIATED))
}

/// Returns the error for a 404 or 410. A registry answers with JSON. An HTML page or an empty body comes from a proxy, a captive
/// portal or another host and does not prove that the package is missing.
async fn missing(target: &FetchTarget, response: ClientResponse) -> UpstreamError {
    let (host, status) = (target.host(), response.status.as_u16());
    let body = if target.trusted { response.body.collect(ERROR_BODY, None).await.ok() } else { None };
    if body.is_some_and(|body| serde_json::from_slice::<IgnoredAny>(&body).is_ok()) {
        return UpstreamError::NotFound;
    }
    UpstreamError::MissingPage { host, status }
}

/// Adds conditional headers. Returns `false` if there is no valid validator.
fn condition(headers: &mut HeaderMap, validators: &CacheValidators) -> bool {
    let mut add = |name: HeaderName, text: Option<&str>| {
        let value = text.and_then(|text| HeaderValue::from_str(text).ok());
        value.map(|value| headers.insert(name, value)).is_some()
    };
    let by_etag = add(IF_NONE_MATCH, validators.etag.as_deref());
    let by_date = add(IF_MODIFIED_SINCE, validators.last_modified.as_deref());
    by_etag || by_date
}

/// Joins all `Content-Encoding` lines in lower case.
fn coding(headers: &HeaderMap) -> String {
    let lines =
        headers.get_all(CONTENT_ENCODING).iter().map(|line| String::from_utf8_lossy(line.as_bytes()).trim().to_ascii_lowercase());
    lines.collect::<Vec<_>>().join(",")
}

/// Returns the earliest `Date` of a response. One from a cache may have the origin's and the cache's.
fn date(headers: &HeaderMap) -> Option<Timestamp> {
    let lines = headers.get_all(DATE).iter().filter_map(|line| line.to_str().ok());
    let instant = |line: &str| Timestamp::try_from(httpdate::parse_http_date(line).ok()?).ok();
    lines.filter_map(instant).min()
}

/// Returns the largest `Age` of a response; `None` if zero or not a number. An overflow counts as the maximum (RFC 9111, 1.2.2).
fn age(headers: &HeaderMap) -> Option<Duration> {
    let seconds = |text: &str| {
        let digits: &str = text.trim().split(|letter: char| !letter.is_ascii_digit()).next()?;
        (!digits.is_empty()).then(|| digits.parse::<u32>().unwrap_or(u32::MAX))
    };
    let lines = headers.get_all(AGE).iter().filter_map(|line| line.to_str().ok());
    let largest = lines.flat_map(|line| line.split(',')).filter_map(seconds).max()?;
    (largest > 0).then(|| Duration::from_secs(largest.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::testing::{ReceivedRequest, ScriptedServer, ServerAction, answer};
    use crate::upstream::testing;

    fn name() -> PackageName {
        PackageName::parse("@acme/ui").unwrap()
    }

    async fn ask(
        script: impl Fn(&ReceivedRequest, usize) -> ServerAction + Send + Sync + 'static,
    ) -> Result<PackumentReply, UpstreamError> {
        let server = ScriptedServer::plain(script).await;
        testing::registry(&server.url())
            .packument(&name(), PackumentForm::Full, &Authorization::Lent, None, &mut testing::share())
            .await
    }

    async fn refused(status: &'static str, headers: &'static [&'static str], body: &'static str) -> String {
        let refused = ask(move |_, _| ServerAction::Say(answer(status, headers, body.as_bytes()))).await.unwrap_err();
        let host = match &refused {
            UpstreamError::Denied { host, .. }
            | UpstreamError::Status { host, .. }
            | UpstreamError::MissingPage { host, .. }
            | UpstreamError::Broken { host, .. } => host.to_string(),
            _ => "-".to_owned(),
        };
        refused.to_string().replace(&host, "HOST")
    }

    #[tokio::test]
    async fn response_without_optional_headers_is_accepted() {
        let server = ScriptedServer::plain(|_, _| ServerAction::Say(answer("200 OK", &[], b"{}"))).await;
        let registry = testing::registry(&format!("{}api/npm", server.url()));
        let fetched =
            registry.packument(&name(), PackumentForm::Full, &Authorization::None, None, &mut testing::share()).await.unwrap();
        assert_eq!(fetched.date, None);
        let PackumentBody::Changed { body, form, gzip, validators } = fetched.freshness else { panic!("{fetched:?}") };
        assert_eq!(
            (body.as_ref(), form, gzip, validators),
            (b"{}".as_slice(), PackumentForm::Full, false, CacheValidators::default())
        );
        let heard = &server.heard()[0];
        assert_eq!(heard.line(), "GET /api/npm/@acme%2fui HTTP/1.1");
        assert_eq!((heard.header("accept"), heard.header("accept-encoding")), (Some("application/json"), Some("gzip")));
        assert_eq!((heard.header("user-agent"), heard.header("authorization")), (Some("coldframe/trial"), None));
        assert_eq!(heard.header("if-none-match"), None);
    }

    #[tokio::test]
    async fn validators_are_sent_verbatim_and_304_is_not_modified() {
        let server = ScriptedServer::plain(|heard, _| match heard.header("if-none-match") {
            None => ServerAction::Say(answer(
                "200 OK",
                &[
                    "content-encoding: GZIP",
                    "etag: W/\"1\"",
                    "last-modified: Mon, 01 Jan 2024 00:00:00 GMT",
                    "date: Mon, 01 Jan 2024 00:00:10 GMT",
                    "age: 50",
                ],
                b"\x1f\x8b",
            )),
            Some(_) => ServerAction::Say(b"HTTP/1.1 304 Not Modified\r\n\r\n".to_vec()),
        })
        .await;
        let registry = testing::registry(&server.url());
        let first =
            registry.packument(&name(), PackumentForm::Full, &Authorization::Lent, None, &mut testing::share()).await.unwrap();
        assert_eq!(first.date, Some("2024-01-01T00:00:10Z".parse().unwrap()));
        assert_eq!((first.age, first.clock()), (Some(Duration::from_secs(50)), None));
        let PackumentBody::Changed { gzip, validators, .. } = first.freshness else { panic!("{first:?}") };
        assert!(gzip);
        let second = registry
            .packument(&name(), PackumentForm::Full, &Authorization::Lent, Some(&validators), &mut testing::share())
            .await
            .unwrap();
        assert!(matches!(second.freshness, PackumentBody::NotModified));
        let heard = &server.heard()[1];
        assert_eq!(
            (heard.header("if-none-match"), heard.header("if-modified-since")),
            (Some("W/\"1\""), Some("Mon, 01 Jan 2024 00:00:00 GMT"))
        );
    }

    #[test]
    fn validated_time_uses_date_and_age() {
        let now: Timestamp = "2026-04-03T12:00:00Z".parse().unwrap();
        let parsed = |lines: &[(HeaderName, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(name, HeaderValue::from_str(value).unwrap());
            }
            let fetched = PackumentReply { date: date(&headers), age: age(&headers), freshness: PackumentBody::NotModified };
            (now.duration_since(fetched.validated(now)).as_secs(), fetched.clock().is_some())
        };
        let (old, new) = ("Fri, 03 Apr 2026 11:00:00 GMT", "Fri, 03 Apr 2026 12:00:00 GMT");
        assert_eq!(parsed(&[]), (0, false));
        assert_eq!(parsed(&[(DATE, old)]), (3600, true));
        assert_eq!(parsed(&[(DATE, "Fri, 03 Apr 2026 13:00:00 GMT")]), (0, true));
        assert_eq!(parsed(&[(DATE, new), (AGE, "7200")]), (7200, false));
        assert_eq!(parsed(&[(DATE, old), (AGE, "60")]), (3600, false));
        assert_eq!(parsed(&[(AGE, "0")]), (0, false));
        assert_eq!(parsed(&[(DATE, new), (DATE, old)]), (3600, true));
        assert_eq!(parsed(&[(DATE, new), (AGE, "-7200, 60")]), (60, false));
        assert_eq!(parsed(&[(DATE, "soon"), (AGE, "")]), (0, false));
        assert_eq!(parsed(&[(DATE, new), (AGE, "5, 90"), (AGE, "30")]), (90, false));
        assert_eq!(parsed(&[(AGE, "99999999999999999999")]).0, i64::from(u32::MAX));
        assert_eq!(parsed(&[(AGE, "soon")]), (0, false));
    }

    #[tokio::test]
    async fn unrequested_abbreviated_form_is_retried_once_and_recognised() {
        const UNASKED: &str = "content-type: Application/vnd.npm.install-v1+json; charset=utf-8";
        for (heeds, form) in [(true, PackumentForm::Full), (false, PackumentForm::Abbreviated)] {
            let server = ScriptedServer::plain(move |heard, _| match heard.header("cache-control") {
                Some("no-cache") if heeds => ServerAction::Say(answer("200 OK", &["content-type: application/json"], b"{}")),
                _ => ServerAction::Say(answer("200 OK", &[UNASKED], b"{}")),
            })
            .await;
            let registry = testing::registry(&server.url());
            let fetched = registry
                .packument(&name(), PackumentForm::Full, &Authorization::None, None, &mut testing::share())
                .await
                .unwrap();
            assert!(matches!(fetched.freshness, PackumentBody::Changed { form: came, .. } if came == form), "{heeds}");
            assert_eq!(server.heard().len(), 2);
            let fetched = registry
                .packument(&name(), PackumentForm::Abbreviated, &Authorization::None, None, &mut testing::share())
                .await
                .unwrap();
            assert!(matches!(fetched.freshness, PackumentBody::Changed { form: PackumentForm::Abbreviated, .. }));
            assert_eq!(server.heard().len(), 3);
        }
    }

    #[tokio::test]
    async fn caller_chooses_the_credentials() {
        let server = ScriptedServer::plain(|_, _| ServerAction::Say(answer("200 OK", &[], b"{}"))).await;
        let registry = testing::registry(&server.url());
        for who in [Authorization::None, Authorization::Lent, Authorization::Own("Bearer own".into())] {
            registry.packument(&name(), PackumentForm::Full, &who, None, &mut testing::share()).await.unwrap();
        }
        let sent: Vec<_> = server.heard().iter().map(|heard| heard.header("authorization").map(str::to_owned)).collect();
        assert_eq!(sent, [None, Some("Bearer lent".to_owned()), Some("Bearer own".to_owned())]);
    }

    #[tokio::test]
    async fn statuses_map_to_errors() {
        assert_eq!(refused("404 Not Found", &[], "{}").await, "not found upstream");
        assert_eq!(refused("410 Gone", &[], "{}").await, "not found upstream");
        assert_eq!(refused("404 Not Found", &[], "\"version not found\"").await, "not found upstream");
        for page in ["", "<html>", "{\"error\":"] {
            let expected = "upstream `HOST` answered 404 without JSON, probably from a proxy";
            assert_eq!(refused("404 Not Found", &[], page).await, expected, "{page}");
        }
        assert_eq!(
            refused("401 Unauthorized", &[], "{\"error\":\"who\\n are \\u001b[31myou\u{e9}?\"}").await,
            "upstream `HOST` refused with 401: who are [31myou??"
        );
        assert_eq!(refused("403 Blocked by policy", &[], "<html>").await, "upstream `HOST` refused with 403: Blocked by policy");
        assert_eq!(refused("403 Forbidden", &[], "").await, "upstream `HOST` refused with 403: Forbidden");
        assert_eq!(refused("429 Slow down", &["retry-after: 7"], "").await, "upstream `HOST` answered 429");
        assert_eq!(refused("500 Oops", &[], "").await, "upstream `HOST` answered 500");
        assert_eq!(refused("503 Later", &[], "").await, "upstream `HOST` answered 503");
        assert_eq!(refused("304 Not Modified", &[], "").await, "upstream `HOST` sent an invalid response: unexpected status 304");
        let brotli = refused("200 OK", &["content-encoding: gzip", "content-encoding: br"], "x").await;
        assert_eq!(brotli, "upstream `HOST` sent an invalid response: unexpected content encoding: `gzip,br`");
    }

    #[tokio::test]
    async fn retry_after_is_kept() {
        let busy = ask(|_, _| ServerAction::Say(answer("429 Slow down", &["retry-after: 7"], b""))).await.unwrap_err();
        assert!(matches!(busy, UpstreamError::Status { status: 429, retry_after: Some(after), .. } if &*after == "7"));
    }

    #[tokio::test]
    async fn packument_over_the_limit_is_rejected() {
        let result = ask(|_, _| ServerAction::Hang(b"HTTP/1.1 200 OK\r\ncontent-length: 1001\r\n\r\n{".to_vec())).await;
        assert!(matches!(result.unwrap_err(), UpstreamError::TooLarge { limit: 1_000, .. }));
        let endless =
            |_: &ReceivedRequest, _: usize| ServerAction::Hang([b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), &[b'x'; 1_001]].concat());
        assert!(matches!(ask(endless).await.unwrap_err(), UpstreamError::TooLarge { limit: 1_000, .. }));
    }

    #[tokio::test]
    async fn broken_slow_and_missing_servers_have_distinct_errors() {
        let short =
            ask(|_, _| ServerAction::Close(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{".to_vec())).await.unwrap_err();
        assert!(matches!(short, UpstreamError::Broken { .. }), "{short}");
        let server = ScriptedServer::plain(|_, _| ServerAction::Hang(Vec::new())).await;
        let silent = testing::impatient_registry(&server.url())
            .packument(&name(), PackumentForm::Full, &Authorization::None, None, &mut testing::share())
            .await
            .unwrap_err();
        assert!(matches!(silent, UpstreamError::TimedOut { .. }), "{silent}");
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let absent = testing::registry(&format!("http://127.0.0.1:{port}/"))
            .packument(&name(), PackumentForm::Full, &Authorization::None, None, &mut testing::share())
            .await
            .unwrap_err();
        assert_eq!(
            absent.to_string(),
            format!("cannot reach upstream `127.0.0.1:{port}`: TCP: 127.0.0.1:{port}: connection refused")
        );
    }
}
