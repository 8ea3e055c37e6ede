//! Builds HTTP responses. Status codes are chosen here and nowhere else.

use std::time::SystemTime;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use hyper::ext::ReasonPhrase;

use crate::firewall::error::MAX_LINE_BYTES;
use crate::firewall::{ContentCoding, FirewallError, PackumentResponse, RegistryResponse, RequestHint, TarballResponse};
use crate::net::headers::{ByteRange, date, none_match, requested_range};
use crate::net::{Body, BodyError, ClientError, ConnectStage, Upgrade};
use crate::npm::PackumentForm;
use crate::npm::endpoint::EndpointError;
use crate::npm::integrity::MAX_SRI_BYTES;
use crate::npm::{Algorithm, Digest};
use crate::server::client::BaseUrlSource;
use crate::server::error::RequestError;
use crate::server::passthrough::{KEPT_BACK, end_to_end_headers};
use crate::telemetry::OutcomeLabel;
use crate::text::{ascii_line, printable, single_line};
use crate::upstream::{PassthroughResponse, UpstreamError};

/// The number of headers of most responses.
const HEADERS: usize = 10;

const NPM_NOTICE: HeaderName = HeaderName::from_static("npm-notice");
const WARNING: HeaderName = HeaderName::from_static("warning");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const ABBREVIATED: HeaderValue = HeaderValue::from_static("application/vnd.npm.install-v1+json");
const TGZ: HeaderValue = HeaderValue::from_static("application/octet-stream");
/// Clients must revalidate, so that a denial or approval applies at once. The entity tag makes that cheap.
const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const VARY: HeaderValue = HeaderValue::from_static("accept, accept-encoding, user-agent, authorization");
const BY_CREDENTIALS: HeaderValue = HeaderValue::from_static("authorization");
const VARY_BY_HOST: HeaderValue = HeaderValue::from_static("accept, accept-encoding, user-agent, authorization, host");

/// The headers of a page: it loads only our own stylesheet, runs no scripts, sends forms only here, and cannot be framed. With
/// `no-referrer`, browsers would send the forms without the origin that they are checked by.
const PAGE_HEADERS: [(&str, &str); 6] = [
    (
        "content-security-policy",
        "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
    ("referrer-policy", "same-origin"),
    ("x-frame-options", "DENY"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), geolocation=(), microphone=()"),
];

/// The `Content-Encoding` names, most preferred first. For the abbreviated packuments of an application, zstd takes 61 ms and 7.3
/// MB against 321 ms and 8.0 MB for gzip. brotli is not offered: no npm client asks for it alone, and its segments cannot be
/// joined.
pub(crate) const CODINGS: [(&str, ContentCoding); 2] = [("zstd", ContentCoding::Zstd), ("gzip", ContentCoding::Gzip)];

pub struct Reply {
    pub response: Response<Body>,
    pub outcome: OutcomeLabel,
}

impl Reply {
    fn new(status: StatusCode, body: Body, outcome: OutcomeLabel) -> Self {
        let mut response = Response::new(body);
        *response.status_mut() = status;
        // Reserves all headers at once to avoid reallocation.
        response.headers_mut().reserve(HEADERS);
        Self { response, outcome }
    }

    fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.response.headers_mut().insert(name, value);
        self
    }

    fn with_text(self, name: HeaderName, value: &str) -> Self {
        match HeaderValue::from_str(value) {
            Ok(value) => self.with(name, value),
            Err(_) => self,
        }
    }
}

pub(crate) fn registry(answer: RegistryResponse, head: &Parts, base_url: BaseUrlSource) -> Reply {
    let vary = match base_url {
        BaseUrlSource::PublicUrl => VARY,
        BaseUrlSource::Host => VARY_BY_HOST,
    };
    match answer {
        RegistryResponse::Packument(answer) => packument(&answer, head, vary),
        RegistryResponse::Tarball(answer) => tarball(&answer, head),
        RegistryResponse::Manifest(bytes) => json(bytes, head, vary),
        // Dist-tags contain no URLs.
        RegistryResponse::DistTags(bytes) => json(bytes, head, VARY),
        RegistryResponse::Passthrough { response, notice } => passthrough(response, notice.as_deref()),
    }
}

/// Returns a packument, or 304 if `If-None-Match` matches. `If-Modified-Since` is ignored: a date cannot distinguish views.
fn packument(answer: &PackumentResponse, head: &Parts, vary: HeaderValue) -> Reply {
    let mut reply = if none_match(&head.headers, &answer.etag) {
        not_modified()
    } else {
        let media_type = if answer.form == PackumentForm::Full { JSON } else { ABBREVIATED };
        let reply = served(Body::from_chunks(answer.chunks.clone()), media_type)
            .with(header::LAST_MODIFIED, date(SystemTime::from(answer.last_modified)));
        match CODINGS.iter().find(|(_, coding)| *coding == answer.coding) {
            Some((name, _)) => reply.with(header::CONTENT_ENCODING, HeaderValue::from_static(name)),
            None => reply,
        }
    };
    if let Some(age) = answer.stale {
        reply = reply.with(header::AGE, age.as_secs().into());
        reply = reply.with(WARNING, HeaderValue::from_static("110 - \"Response is Stale\""));
    }
    reply.with_text(header::ETAG, &answer.etag).with(header::CACHE_CONTROL, NO_CACHE).with(header::VARY, vary)
}

/// Returns a manifest or dist-tags: JSON with its hash as entity tag.
fn json(bytes: Bytes, head: &Parts, vary: HeaderValue) -> Reply {
    let hash = Digest::of(Algorithm::Sha256, &bytes).to_hex();
    let etag = format!("\"{}\"", &hash[..32]);
    let reply = if none_match(&head.headers, &etag) { not_modified() } else { served(Body::from(bytes), JSON) };
    reply.with_text(header::ETAG, &etag).with(header::CACHE_CONTROL, NO_CACHE).with(header::VARY, vary)
}

/// Returns a tarball, a range of it, or 304. Never `immutable`: a version that is denied later must not stay in caches. Never
/// with a content encoding, which clients would decode before the integrity check.
pub fn tarball(tarball: &TarballResponse, head: &Parts) -> Reply {
    let mut etag = String::with_capacity(MAX_SRI_BYTES + 2);
    etag.push('"');
    tarball.integrity.strongest().write_sri(&mut etag);
    etag.push('"');
    let length = tarball.bytes.len() as u64;
    let wanted = if head.method == Method::GET { requested_range(&head.headers, length, &etag) } else { ByteRange::Whole };
    let reply = match wanted {
        _ if none_match(&head.headers, &etag) => not_modified(),
        ByteRange::Whole => served(Body::from(tarball.bytes.clone()), TGZ),
        ByteRange::Part { first, last } => part(&tarball.bytes, first, last).with(header::CONTENT_TYPE, TGZ),
        ByteRange::Unsatisfiable => {
            let text = format!("range beyond the tarball of {length} bytes");
            let reply = failure(StatusCode::RANGE_NOT_SATISFIABLE, &text, OutcomeLabel::ClientError);
            return reply.with_text(header::CONTENT_RANGE, &format!("bytes */{length}"));
        }
    };
    reply
        .with_text(header::ETAG, &etag)
        .with(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"))
        .with(header::CACHE_CONTROL, NO_CACHE)
        .with(header::VARY, BY_CREDENTIALS)
}

fn part(bytes: &Bytes, first: u64, last: u64) -> Reply {
    let at = |place: u64| usize::try_from(place).unwrap_or(usize::MAX).min(bytes.len());
    let range = format!("bytes {first}-{last}/{}", bytes.len());
    let body = Body::from(bytes.slice(at(first)..at(last.saturating_add(1))));
    Reply::new(StatusCode::PARTIAL_CONTENT, body, OutcomeLabel::Served).with_text(header::CONTENT_RANGE, &range)
}

/// Returns a forwarded upstream response. npm prints `notice`.
fn passthrough(passed: PassthroughResponse, notice: Option<&str>) -> Reply {
    let outcome = match passed.status {
        StatusCode::NOT_MODIFIED => OutcomeLabel::NotModified,
        status => outcome_of(status, OutcomeLabel::UpstreamError),
    };
    // An error body that npm cannot read is replaced with our own format.
    let mute = !passed.status.is_success() && passed.status != StatusCode::NOT_MODIFIED && !is_json(&passed.body);
    let mut reply = if mute {
        let mut reply = failure(passed.status, &format!("upstream returned {}", passed.status), outcome);
        let kept = end_to_end_headers(passed.headers, &KEPT_BACK).remove(header::WWW_AUTHENTICATE);
        // npm audits after each install. A notice about a missing upstream endpoint would be noise, and the body has it.
        reply.response.headers_mut().remove(&NPM_NOTICE);
        reply.response.headers_mut().extend(kept.map(|value| (header::WWW_AUTHENTICATE, value)));
        reply
    } else {
        let mut reply = Reply::new(passed.status, Body::from(passed.body), outcome);
        *reply.response.headers_mut() = end_to_end_headers(passed.headers, &KEPT_BACK);
        // npm prints it, so it is reduced to one ASCII line.
        if let Some(notice) = reply.response.headers().get(&NPM_NOTICE) {
            let notice = ascii_line(&String::from_utf8_lossy(notice.as_bytes()), MAX_LINE_BYTES);
            reply = reply.with_text(NPM_NOTICE, &notice);
        }
        reply
    };
    if let Some(notice) = notice {
        reply = with_notice(reply, notice);
    }
    reply.response.headers_mut().append(header::VARY, BY_CREDENTIALS);
    reply.with(header::CACHE_CONTROL, NO_CACHE)
}

pub(crate) fn private(reply: Reply) -> Reply {
    reply.with(header::CACHE_CONTROL, NO_STORE)
}

/// Checks whether a body is a JSON object, by its first byte. A compressed body counts as one.
fn is_json(body: &[u8]) -> bool {
    body.trim_ascii_start().first().is_some_and(|first| *first == b'{' || !first.is_ascii())
}

/// Appends to the notice that npm prints, after that of upstream.
fn with_notice(reply: Reply, notice: &str) -> Reply {
    let before = reply.response.headers().get(&NPM_NOTICE).and_then(|value| value.to_str().ok());
    let notice = ascii_line(notice, MAX_LINE_BYTES);
    let room = MAX_LINE_BYTES.saturating_sub(notice.len() + "; ".len());
    let before = before.map(|text| ascii_line(text, room)).filter(|text| text.len() > "...".len());
    let notice = before.map_or_else(|| notice.clone(), |before| format!("{before}; {notice}"));
    reply.with_text(NPM_NOTICE, &notice)
}

/// Returns an issued access token. It must not be stored on the way.
pub(crate) fn issued(token: &serde_json::Value) -> Reply {
    admin(json_response(StatusCode::OK, token))
}

/// Returns the answer to `npm whoami` for a client that Coldframe authenticated.
pub(crate) fn whoami(subject: &str, head: &Parts) -> Reply {
    private(json(serde_json::json!({ "username": subject }).to_string().into(), head, VARY))
}

pub(crate) fn root(head: &Parts) -> Reply {
    json(Bytes::from_static(concat!(r#"{"coldframe":""#, env!("CARGO_PKG_VERSION"), r#""}"#).as_bytes()), head, VARY)
}

pub(crate) fn admin(page: Response<Bytes>) -> Reply {
    let outcome = outcome_of(page.status(), OutcomeLabel::InternalError);
    Reply { response: page.map(Body::from), outcome }
}

pub(crate) fn json_response(status: StatusCode, json: &serde_json::Value) -> Response<Bytes> {
    text_response(status, "application/json", printable(&json.to_string()).into_owned())
}

pub(crate) fn text_response(status: StatusCode, media_type: &'static str, text: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response.headers_mut().insert(header::CACHE_CONTROL, NO_STORE);
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Returns an HTML page. Control characters and those that hide or reorder text are made visible, wherever they come from.
pub(crate) fn html_response(status: StatusCode, html: &str) -> Response<Bytes> {
    let mut response = text_response(status, "text/html; charset=utf-8", printable(html).into_owned());
    for (name, value) in PAGE_HEADERS {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

/// Returns the stylesheet of the pages.
pub(crate) fn stylesheet(text: &'static str) -> Response<Bytes> {
    let mut response = text_response(StatusCode::OK, "text/css; charset=utf-8", text.to_owned());
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=300"));
    response.headers_mut().insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    response
}

/// Returns a redirect to a page, by a path relative to the requested one.
pub(crate) fn see_other(location: &str) -> Response<Bytes> {
    let mut response = html_response(StatusCode::SEE_OTHER, "");
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// Adds a cookie to a response.
pub(crate) fn with_cookie(mut response: Response<Bytes>, cookie: &str) -> Response<Bytes> {
    if let Ok(cookie) = HeaderValue::from_str(cookie) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

pub(crate) fn refused(status: StatusCode, why: &str) -> Response<Bytes> {
    json_response(status, &serde_json::json!({ "error": why }))
}

/// Returns the response that starts a tunnel. The connection is then passed to `next`.
pub(crate) fn connected(next: Upgrade) -> Reply {
    let mut reply = Reply::new(StatusCode::OK, Body::empty(), OutcomeLabel::Served);
    reply.response.extensions_mut().insert(ReasonPhrase::from_static(b"Connection established"));
    reply.response.extensions_mut().insert(next);
    reply
}

/// Returns the streamed response of another server.
pub(crate) fn forwarded(response: Response<Body>) -> Reply {
    let outcome = outcome_of(response.status(), OutcomeLabel::UpstreamError);
    Reply { response, outcome }
}

/// Returns the outcome of a status; `server_error` for the statuses from 500.
fn outcome_of(status: StatusCode, server_error: OutcomeLabel) -> OutcomeLabel {
    match status.as_u16() {
        ..400 => OutcomeLabel::Served,
        404 | 410 => OutcomeLabel::NotFound,
        400..500 => OutcomeLabel::ClientError,
        _ => server_error,
    }
}

pub(crate) fn and_close(reply: Reply) -> Reply {
    reply.with(header::CONNECTION, HeaderValue::from_static("close"))
}

/// Returns the status of an error, for a page that explains it.
pub(crate) fn error_status(error: &RequestError) -> StatusCode {
    status_of(error).0
}

fn status_of(error: &RequestError) -> (StatusCode, OutcomeLabel) {
    match error {
        RequestError::Rejected(error) => firewall_status(error),
        RequestError::Endpoint(EndpointError::Method { .. }) => (StatusCode::METHOD_NOT_ALLOWED, OutcomeLabel::ClientError),
        RequestError::Body(BodyError::TooLarge { .. }) => (StatusCode::PAYLOAD_TOO_LARGE, OutcomeLabel::ClientError),
        RequestError::Body(BodyError::TooSlow { .. }) => (StatusCode::REQUEST_TIMEOUT, OutcomeLabel::ClientError),
        RequestError::Body(BodyError::NoRoom(_)) => (StatusCode::SERVICE_UNAVAILABLE, OutcomeLabel::InternalError),
        RequestError::Body(BodyError::Broken(_))
        | RequestError::Endpoint(EndpointError::BadRequest(_))
        | RequestError::Headers(_)
        | RequestError::TokenInRequest(_)
        | RequestError::Coding
        | RequestError::Transfer => (StatusCode::BAD_REQUEST, OutcomeLabel::ClientError),
        RequestError::WritesDisabled
        | RequestError::EgressDenied(..)
        | RequestError::CrossSite(_)
        | RequestError::Unreachable { cause: ClientError::Unreachable { layer: ConnectStage::Reach, .. }, .. } => {
            (StatusCode::FORBIDDEN, OutcomeLabel::Refused)
        }
        RequestError::HostMismatch(_) => (StatusCode::MISDIRECTED_REQUEST, OutcomeLabel::ClientError),
        RequestError::Endpoint(EndpointError::NotFound(_)) | RequestError::NotARegistryPath => {
            (StatusCode::NOT_FOUND, OutcomeLabel::NotFound)
        }
        RequestError::Unreachable { cause: ClientError::TimedOut { .. }, .. } => {
            (StatusCode::GATEWAY_TIMEOUT, OutcomeLabel::UpstreamError)
        }
        RequestError::Unreachable { .. } => (StatusCode::BAD_GATEWAY, OutcomeLabel::UpstreamError),
        RequestError::ProxyAuthRequired | RequestError::ProxyTokenRefused(_) => {
            (StatusCode::PROXY_AUTHENTICATION_REQUIRED, OutcomeLabel::ClientError)
        }
        RequestError::AdminDisabled
        | RequestError::ClaimsRefused
        | RequestError::SignInFailed(_)
        | RequestError::TokenForRegistry
        | RequestError::IdentityRequired
        | RequestError::RoleTooLow { .. } => (StatusCode::FORBIDDEN, OutcomeLabel::ClientError),
        RequestError::KeysUnavailable | RequestError::ProviderUnavailable => {
            (StatusCode::SERVICE_UNAVAILABLE, OutcomeLabel::UpstreamError)
        }
        RequestError::AdminTokenRequired
        | RequestError::NeedsCredentials
        | RequestError::TokenRequired(_)
        | RequestError::ExchangeRefused(_)
        | RequestError::AlreadyExchanged
        | RequestError::NotExchanged(_)
        | RequestError::TokenRefused(_) => (StatusCode::UNAUTHORIZED, OutcomeLabel::ClientError),
        RequestError::TooManyGuesses | RequestError::TooManyTokens => (StatusCode::TOO_MANY_REQUESTS, OutcomeLabel::ClientError),
        RequestError::TaskFailed | RequestError::LedgerUnreadable => {
            (StatusCode::INTERNAL_SERVER_ERROR, OutcomeLabel::InternalError)
        }
    }
}

pub(crate) fn error(error: &RequestError) -> Reply {
    let text = error.to_string();
    let (status, outcome) = status_of(error);
    let line = match error {
        RequestError::Rejected(FirewallError::Refused(refusal)) => refusal.truncated(MAX_LINE_BYTES),
        _ => ascii_line(&text, MAX_LINE_BYTES),
    };
    let request = match error {
        RequestError::Rejected(FirewallError::Refused(refusal)) => refusal.request.as_ref(),
        _ => None,
    };
    let reply = error_body(status, (&text, request), line, outcome);
    match error {
        RequestError::Endpoint(EndpointError::Method { allow, .. }) => reply.with(header::ALLOW, HeaderValue::from_static(allow)),
        // `Retry-After` is useful only for a status that clients retry.
        RequestError::Rejected(FirewallError::Upstream(UpstreamError::Status {
            status: 429 | 503,
            retry_after: Some(wait),
            ..
        })) => reply.with_text(header::RETRY_AFTER, wait),
        RequestError::TooManyGuesses | RequestError::TooManyTokens | RequestError::KeysUnavailable => {
            reply.with(header::RETRY_AFTER, HeaderValue::from_static("60"))
        }
        RequestError::ProxyAuthRequired | RequestError::ProxyTokenRefused(_) => {
            reply.with(header::PROXY_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"coldframe\", charset=\"UTF-8\""))
        }
        RequestError::AdminTokenRequired
        | RequestError::TokenRequired(_)
        | RequestError::ExchangeRefused(_)
        | RequestError::AlreadyExchanged
        | RequestError::NotExchanged(_)
        | RequestError::TokenRefused(_) => {
            reply.with(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"coldframe\""))
        }
        _ => reply,
    }
}

/// Maps errors of the firewall. Transient ones of upstream get a status that clients retry, permanent ones do not.
pub(crate) fn firewall_status(error: &FirewallError) -> (StatusCode, OutcomeLabel) {
    match error {
        // 403 only: it is the one status that no client retries.
        FirewallError::Refused(_) | FirewallError::NotEntitled(_) => (StatusCode::FORBIDDEN, OutcomeLabel::Refused),
        FirewallError::NotFound(_) => (StatusCode::NOT_FOUND, OutcomeLabel::NotFound),
        FirewallError::Unreadable { .. } => (StatusCode::BAD_GATEWAY, OutcomeLabel::UpstreamError),
        FirewallError::TooMuch(_) => (StatusCode::PAYLOAD_TOO_LARGE, OutcomeLabel::ClientError),
        FirewallError::TooMany(_) => (StatusCode::TOO_MANY_REQUESTS, OutcomeLabel::ClientError),
        FirewallError::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, OutcomeLabel::InternalError),
        FirewallError::Upstream(error) => match error {
            UpstreamError::NotFound | UpstreamError::MissingPage { .. } => (StatusCode::NOT_FOUND, OutcomeLabel::NotFound),
            UpstreamError::Denied { status: 401, .. } => (StatusCode::UNAUTHORIZED, OutcomeLabel::ClientError),
            UpstreamError::Denied { .. } => (StatusCode::FORBIDDEN, OutcomeLabel::ClientError),
            UpstreamError::Redirected { .. } | UpstreamError::TarballHost { .. } => {
                (StatusCode::FORBIDDEN, OutcomeLabel::UpstreamError)
            }
            UpstreamError::TimedOut { .. } => (StatusCode::GATEWAY_TIMEOUT, OutcomeLabel::UpstreamError),
            UpstreamError::Status { status: 429, .. } => (StatusCode::TOO_MANY_REQUESTS, OutcomeLabel::UpstreamError),
            UpstreamError::Status { status: 503, .. } => (StatusCode::SERVICE_UNAVAILABLE, OutcomeLabel::UpstreamError),
            UpstreamError::BudgetTimeout { .. } => (StatusCode::SERVICE_UNAVAILABLE, OutcomeLabel::InternalError),
            // An outage has the same status with an open or closed circuit.
            UpstreamError::CircuitOpen { .. }
            | UpstreamError::Unreachable { .. }
            | UpstreamError::NoCredentials { .. }
            | UpstreamError::Broken { .. }
            | UpstreamError::TooLarge { .. }
            | UpstreamError::Status { .. } => (StatusCode::BAD_GATEWAY, OutcomeLabel::UpstreamError),
        },
    }
}

fn served(body: Body, media_type: HeaderValue) -> Reply {
    Reply::new(StatusCode::OK, body, OutcomeLabel::Served).with(header::CONTENT_TYPE, media_type)
}

fn not_modified() -> Reply {
    Reply::new(StatusCode::NOT_MODIFIED, Body::empty(), OutcomeLabel::NotModified)
}

/// Returns an error in every form that some client prints: reason phrase, body and notice.
fn failure(status: StatusCode, text: &str, outcome: OutcomeLabel) -> Reply {
    error_body(status, (text, None), ascii_line(text, MAX_LINE_BYTES), outcome)
}

/// Returns an error with `text` and how to ask in the body, and `line` in the headers and reason phrase.
fn error_body(status: StatusCode, (text, request): (&str, Option<&RequestHint>), line: String, outcome: OutcomeLabel) -> Reply {
    // Clients print it, so it must be one line.
    let mut body = serde_json::json!({ "error": single_line(text) });
    if let Some(request) = request {
        body["request"] = single_line(request.text()).into();
    }
    let body = body.to_string();
    let mut reply = Reply::new(status, Body::from(Bytes::from(body)), outcome)
        .with(header::CONTENT_TYPE, JSON)
        .with(header::CACHE_CONTROL, NO_STORE)
        .with_text(NPM_NOTICE, &line);
    if let Ok(phrase) = ReasonPhrase::try_from(line.into_bytes()) {
        reply.response.extensions_mut().insert(phrase);
    }
    reply
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use http::HeaderMap;
    use http_body_util::BodyExt as _;
    use jiff::Timestamp;

    use super::*;
    use crate::firewall::Refusal;
    use crate::npm::{Integrity, PackageName};
    use crate::policy::RuleId;

    fn head(method: &str, headers: &[(&str, &str)]) -> Parts {
        let request = http::Request::builder().method(method).uri("/axios");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        request.body(()).unwrap().into_parts().0
    }

    fn answer() -> PackumentResponse {
        PackumentResponse {
            chunks: Arc::new([Bytes::from_static(b"{\"a\":"), Bytes::from_static(b"1}")]),
            length: 7,
            form: PackumentForm::Abbreviated,
            coding: ContentCoding::Gzip,
            etag: "\"e\"".into(),
            last_modified: Timestamp::from_second(784_111_777).unwrap(),
            stale: None,
        }
    }

    fn header<'a>(reply: &'a Reply, name: &str) -> Option<&'a str> {
        reply.response.headers().get(name).map(|value| value.to_str().unwrap())
    }

    fn status(reply: &Reply) -> u16 {
        reply.response.status().as_u16()
    }

    fn phrase(reply: &Reply) -> &str {
        std::str::from_utf8(reply.response.extensions().get::<ReasonPhrase>().unwrap().as_bytes()).unwrap()
    }

    async fn body(reply: Reply) -> String {
        String::from_utf8(reply.response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn packument_has_validators_and_vary() {
        let reply = packument(&answer(), &head("GET", &[]), VARY_BY_HOST);
        assert_eq!((status(&reply), header(&reply, "etag")), (200, Some("\"e\"")));
        assert_eq!(header(&reply, "content-type"), Some("application/vnd.npm.install-v1+json"));
        assert_eq!(header(&reply, "content-encoding"), Some("gzip"));
        assert_eq!(header(&reply, "last-modified"), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
        assert_eq!(header(&reply, "cache-control"), Some("no-cache"));
        assert_eq!(header(&reply, "vary"), Some("accept, accept-encoding, user-agent, authorization, host"));
        assert_eq!((header(&reply, "age"), header(&reply, "warning")), (None, None));
        assert_eq!(body(reply).await, "{\"a\":1}");
        let plain = PackumentResponse { coding: ContentCoding::Identity, form: PackumentForm::Full, ..answer() };
        let reply = packument(&plain, &head("GET", &[]), VARY);
        assert_eq!((header(&reply, "content-encoding"), header(&reply, "content-type")), (None, Some("application/json")));
    }

    #[test]
    fn not_modified_requires_an_etag() {
        let conditional = |headers: &[(&str, &str)]| packument(&answer(), &head("GET", headers), VARY);
        let reply = conditional(&[("if-none-match", "W/\"e\""), ("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT")]);
        assert_eq!((status(&reply), reply.outcome, header(&reply, "etag")), (304, OutcomeLabel::NotModified, Some("\"e\"")));
        assert_eq!(http_body::Body::size_hint(reply.response.body()).exact(), Some(0));
        assert_eq!(status(&conditional(&[("if-modified-since", "Sun, 06 Nov 2094 08:49:37 GMT")])), 200);
        assert_eq!(status(&conditional(&[("if-none-match", "\"other\"")])), 200);
    }

    #[test]
    fn stale_packument_has_age_and_warning() {
        let reply = packument(&PackumentResponse { stale: Some(Duration::from_secs(3601)), ..answer() }, &head("GET", &[]), VARY);
        assert_eq!((header(&reply, "age"), header(&reply, "warning")), (Some("3601"), Some("110 - \"Response is Stale\"")));
    }

    fn a_tarball() -> TarballResponse {
        let bytes = Bytes::from_static(b"0123456789");
        TarballResponse { integrity: Integrity::single(Digest::of(Algorithm::Sha512, &bytes)), bytes, kept: true }
    }

    #[tokio::test]
    async fn tarball_is_served_whole_or_in_part() {
        let reply = tarball(&a_tarball(), &head("GET", &[("accept-encoding", "gzip")]));
        assert_eq!((status(&reply), header(&reply, "content-type")), (200, Some("application/octet-stream")));
        assert_eq!((header(&reply, "accept-ranges"), header(&reply, "cache-control")), (Some("bytes"), Some("no-cache")));
        assert_eq!(header(&reply, "content-encoding"), None);
        let etag = header(&reply, "etag").unwrap().to_owned();
        assert!(etag.starts_with("\"sha512-"));
        assert_eq!(body(reply).await, "0123456789");
        let reply = tarball(&a_tarball(), &head("GET", &[("range", "bytes=2-4"), ("if-range", &etag)]));
        assert_eq!((status(&reply), header(&reply, "content-range")), (206, Some("bytes 2-4/10")));
        assert_eq!(body(reply).await, "234");
        let reply = tarball(&a_tarball(), &head("GET", &[("range", "bytes=10-")]));
        assert_eq!((status(&reply), header(&reply, "content-range")), (416, Some("bytes */10")));
        assert_eq!(status(&tarball(&a_tarball(), &head("HEAD", &[("range", "bytes=2-4")]))), 200);
        assert_eq!(status(&tarball(&a_tarball(), &head("GET", &[("if-none-match", &etag), ("range", "bytes=2-4")]))), 304);
    }

    #[tokio::test]
    async fn refusal_is_in_phrase_notice_and_body() {
        let text = "axios@1.14.1 was published 2026-03-31 00:21 UTC, minimum-age: opens 2026-04-03 00:21 UTC";
        let refusal = Refusal {
            name: PackageName::parse("axios").unwrap(),
            version: Some("1.14.1".into()),
            rule: RuleId::File("minimum-age".into()),
            opens: None,
            text: text.into(),
            link: None,
            request: None,
        };
        let reply = error(&FirewallError::Refused(Arc::new(refusal)).into());
        assert_eq!((status(&reply), reply.outcome), (403, OutcomeLabel::Refused));
        assert_eq!((phrase(&reply), header(&reply, "npm-notice")), (text, Some(text)));
        assert_eq!(header(&reply, "cache-control"), Some("no-store"));
        assert_eq!(body(reply).await, format!("{{\"error\":\"{text}\"}}"));
    }

    #[tokio::test]
    async fn upstream_text_is_kept_on_one_line() {
        let text = format!("bad\r\nx-evil: 1 {}", "\u{1f4a5}".repeat(500));
        let reply = error(&FirewallError::NotFound(text.as_str().into()).into());
        assert!(phrase(&reply).starts_with("bad  x-evil: 1 ?") && phrase(&reply).len() <= 200);
        assert_eq!(Some(phrase(&reply)), header(&reply, "npm-notice"));
        let parsed: serde_json::Value = serde_json::from_str(&body(reply).await).unwrap();
        assert_eq!(parsed["error"], text.replace("\r\n", "\\r\\n"), "must be one line for npm");
    }

    #[test]
    fn upstream_errors_map_to_statuses() {
        let host: Arc<str> = "registry.example:443".into();
        let detail: Arc<str> = "tcp: connection refused".into();
        let answered = |status| UpstreamError::Status { host: host.clone(), status, retry_after: Some("7".into()) };
        let denied = |status| UpstreamError::Denied { host: host.clone(), status, message: "no".into() };
        for (error, expected) in [
            (UpstreamError::NotFound, 404),
            (denied(401), 401),
            (denied(403), 403),
            (UpstreamError::Unreachable { host: host.clone(), detail: detail.clone() }, 502),
            (UpstreamError::CircuitOpen { host: host.clone(), why: detail.clone(), wait: Duration::from_secs(6) }, 502),
            (UpstreamError::TimedOut { host: host.clone(), after: Duration::from_secs(30) }, 504),
            (UpstreamError::Broken { host: host.clone(), detail: detail.clone() }, 502),
            (UpstreamError::TooLarge { host: host.clone(), limit: 1 }, 502),
            (UpstreamError::BudgetTimeout { after: Duration::from_secs(300) }, 503),
            (UpstreamError::Redirected { host: host.clone(), to: host.clone(), detail }, 403),
            (UpstreamError::TarballHost { to: host.clone() }, 403),
            (answered(429), 429),
            (answered(500), 502),
            (answered(503), 503),
            (answered(418), 502),
        ] {
            let text = error.to_string();
            let reply = super::error(&FirewallError::Upstream(error).into());
            assert_eq!((status(&reply), phrase(&reply)), (expected, text.as_str()));
            // Only an upstream response has a `Retry-After`.
            let retry_after = (matches!(expected, 429 | 503) && text.starts_with("upstream")).then_some("7");
            assert_eq!(header(&reply, "retry-after"), retry_after, "{text}");
        }
    }

    #[test]
    fn notice_is_appended_to_that_of_upstream() {
        let mut headers = HeaderMap::new();
        headers.insert(NPM_NOTICE, HeaderValue::from_static("be kind"));
        let from = PassthroughResponse { status: StatusCode::OK, headers, body: Bytes::new() };
        let reply = private(passthrough(from, Some("held back\naxios")));
        assert_eq!(header(&reply, "npm-notice"), Some("be kind; held back axios"));
        assert_eq!(header(&reply, "cache-control"), Some("no-store"));
        let mut headers = HeaderMap::new();
        headers.insert(NPM_NOTICE, HeaderValue::try_from("x".repeat(500)).unwrap());
        let reply =
            passthrough(PassthroughResponse { status: StatusCode::OK, headers, body: Bytes::new() }, Some("held back axios"));
        let notice = header(&reply, "npm-notice").unwrap();
        assert!(notice.len() <= 200 && notice.ends_with("...; held back axios"), "{notice}");
    }
}
