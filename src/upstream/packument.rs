//! Asking a registry for a packument, or whether it changed. Refuses to look inside.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, AGE, CONTENT_ENCODING, DATE, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use jiff::Timestamp;

use super::registry::{failure, header, refusal};
use super::route::Route;
use super::{Authorization, Registry, UpstreamError};
use crate::net::Share;
use crate::npm::{Form, PackageName, instant};

/// How to ask upstream whether its answer changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Validators {
    /// Its `ETag`, as it came.
    pub etag: Option<Box<str>>,
    /// Its `Last-Modified`, as it came.
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
    /// Asks for the packument in `form`, which mirrors may not have; with `validators`, only if it changed.
    /// What comes counts against `share`, and waits for it.
    ///
    /// # Errors
    /// Whatever upstream did not do; [`UpstreamError::NotFound`] when it has no such package.
    pub async fn packument(
        &self,
        name: &PackageName,
        form: Form,
        authorization: &Authorization,
        validators: Option<&Validators>,
        share: &mut Share,
    ) -> Result<Fetched, UpstreamError> {
        let url = self.below(&name.to_segment()).ok_or(UpstreamError::NotFound)?;
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(accepting(form)));
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
        let body = response.body.collect_into(self.packument_limit(), share).await.map_err(|error| failure(&host, &error))?;
        Ok(Fetched { date, freshness: Freshness::Changed { body, gzip, validators } })
    }
}

/// What npm sends when it wants a packument in `form`.
fn accepting(form: Form) -> &'static str {
    match form {
        Form::Full => "application/json",
        Form::Abbreviated => "application/vnd.npm.install-v1+json; q=1.0, application/json; q=0.8",
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

#[cfg(test)]
mod tests {
    use super::super::trial;
    use super::*;
    use crate::net::trial::{Act, Heard, Server, answer};

    fn name() -> PackageName {
        PackageName::parse("@acme/ui").unwrap()
    }

    async fn ask(script: impl Fn(&Heard, usize) -> Act + Send + Sync + 'static) -> Result<Fetched, UpstreamError> {
        let server = Server::plain(script).await;
        trial::registry(&server.url()).packument(&name(), Form::Full, &Authorization::Lent, None, &mut trial::share()).await
    }

    async fn refused(status: &'static str, headers: &'static [&'static str], body: &'static str) -> String {
        let refused = ask(move |_, _| Act::Say(answer(status, headers, body.as_bytes()))).await.unwrap_err();
        let host = match &refused {
            UpstreamError::Denied { host, .. } | UpstreamError::Status { host, .. } | UpstreamError::Broken { host, .. } => {
                host.to_string()
            }
            _ => "-".to_owned(),
        };
        refused.to_string().replace(&host, "HOST")
    }

    #[tokio::test]
    async fn a_bare_answer_is_enough() {
        let server = Server::plain(|_, _| Act::Say(answer("200 OK", &[], b"{}"))).await;
        let registry = trial::registry(&format!("{}api/npm", server.url()));
        let fetched = registry.packument(&name(), Form::Full, &Authorization::None, None, &mut trial::share()).await.unwrap();
        assert_eq!(fetched.date, None);
        let Freshness::Changed { body, gzip, validators } = fetched.freshness else { panic!("{fetched:?}") };
        assert_eq!((body.as_ref(), gzip, validators), (b"{}".as_slice(), false, Validators::default()));
        let heard = &server.heard()[0];
        assert_eq!(heard.line(), "GET /api/npm/@acme%2fui HTTP/1.1");
        assert_eq!((heard.header("accept"), heard.header("accept-encoding")), (Some("application/json"), Some("gzip")));
        assert_eq!((heard.header("user-agent"), heard.header("authorization")), (Some("coldframe/trial"), None));
        assert_eq!(heard.header("if-none-match"), None);
    }

    #[tokio::test]
    async fn validators_go_out_as_they_came_and_a_304_answers_them() {
        let server = Server::plain(|heard, _| match heard.header("if-none-match") {
            None => Act::Say(answer(
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
            Some(_) => Act::Say(b"HTTP/1.1 304 Not Modified\r\n\r\n".to_vec()),
        })
        .await;
        let registry = trial::registry(&server.url());
        let first = registry.packument(&name(), Form::Full, &Authorization::Lent, None, &mut trial::share()).await.unwrap();
        assert_eq!(first.date, Some("2024-01-01T00:01:00Z".parse().unwrap()));
        let Freshness::Changed { gzip, validators, .. } = first.freshness else { panic!("{first:?}") };
        assert!(gzip);
        let second =
            registry.packument(&name(), Form::Full, &Authorization::Lent, Some(&validators), &mut trial::share()).await.unwrap();
        assert!(matches!(second.freshness, Freshness::NotModified));
        let heard = &server.heard()[1];
        assert_eq!(
            (heard.header("if-none-match"), heard.header("if-modified-since")),
            (Some("W/\"1\""), Some("Mon, 01 Jan 2024 00:00:00 GMT"))
        );
    }

    #[tokio::test]
    async fn whose_credentials_go_out_is_the_callers_choice() {
        let server = Server::plain(|_, _| Act::Say(answer("200 OK", &[], b"{}"))).await;
        let registry = trial::registry(&server.url());
        for who in [Authorization::None, Authorization::Lent, Authorization::Own("Bearer own".into())] {
            registry.packument(&name(), Form::Full, &who, None, &mut trial::share()).await.unwrap();
        }
        let sent: Vec<_> = server.heard().iter().map(|heard| heard.header("authorization").map(str::to_owned)).collect();
        assert_eq!(sent, [None, Some("Bearer lent".to_owned()), Some("Bearer own".to_owned())]);
    }

    #[tokio::test]
    async fn every_status_has_its_meaning() {
        assert_eq!(refused("404 Not Found", &[], "{}").await, "not found upstream");
        assert_eq!(refused("410 Gone", &[], "{}").await, "not found upstream");
        assert_eq!(
            refused("401 Unauthorized", &[], "{\"error\":\"who\\n are \\u001b[31myou\u{e9}?\"}").await,
            "upstream `HOST` refused with 401: who are [31myou??"
        );
        assert_eq!(refused("403 Blocked by policy", &[], "<html>").await, "upstream `HOST` refused with 403: Blocked by policy");
        assert_eq!(refused("403 Forbidden", &[], "").await, "upstream `HOST` refused with 403: Forbidden");
        assert_eq!(refused("429 Slow down", &["retry-after: 7"], "").await, "upstream `HOST` answered 429");
        assert_eq!(refused("500 Oops", &[], "").await, "upstream `HOST` answered 500");
        assert_eq!(refused("503 Later", &[], "").await, "upstream `HOST` answered 503");
        assert_eq!(
            refused("304 Not Modified", &[], "").await,
            "upstream `HOST` sent a broken answer: status 304, which was not asked for"
        );
        let brotli = refused("200 OK", &["content-encoding: gzip", "content-encoding: br"], "x").await;
        assert_eq!(brotli, "upstream `HOST` sent a broken answer: an encoding that was not asked for: `gzip,br`");
    }

    #[tokio::test]
    async fn retry_after_is_kept() {
        let busy = ask(|_, _| Act::Say(answer("429 Slow down", &["retry-after: 7"], b""))).await.unwrap_err();
        assert!(matches!(busy, UpstreamError::Status { status: 429, retry_after: Some(after), .. } if &*after == "7"));
    }

    #[tokio::test]
    async fn a_packument_over_the_limit_is_not_taken() {
        let said = ask(|_, _| Act::Hang(b"HTTP/1.1 200 OK\r\ncontent-length: 1001\r\n\r\n{".to_vec())).await;
        assert!(matches!(said.unwrap_err(), UpstreamError::TooLarge { limit: 1_000, .. }));
        let endless = |_: &Heard, _: usize| Act::Hang([b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), &[b'x'; 1_001]].concat());
        assert!(matches!(ask(endless).await.unwrap_err(), UpstreamError::TooLarge { limit: 1_000, .. }));
    }

    #[tokio::test]
    async fn what_breaks_or_hangs_says_so_and_whom_to_blame() {
        let short = ask(|_, _| Act::Close(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{".to_vec())).await.unwrap_err();
        assert!(matches!(short, UpstreamError::Broken { .. }), "{short}");
        let server = Server::plain(|_, _| Act::Hang(Vec::new())).await;
        let silent = trial::hasty(&server.url())
            .packument(&name(), Form::Full, &Authorization::None, None, &mut trial::share())
            .await
            .unwrap_err();
        assert!(matches!(silent, UpstreamError::TimedOut { .. }), "{silent}");
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let absent = trial::registry(&format!("http://127.0.0.1:{port}/"))
            .packument(&name(), Form::Full, &Authorization::None, None, &mut trial::share())
            .await
            .unwrap_err();
        assert_eq!(
            absent.to_string(),
            format!("cannot reach upstream `127.0.0.1:{port}`: TCP: 127.0.0.1:{port}: connection refused")
        );
    }
}
