//! Passes audits, searches, pings and writes to upstream unchanged. Only listed headers pass, and responses are bounded.

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, DATE, ETAG, IF_MODIFIED_SINCE,
    IF_NONE_MATCH, LAST_MODIFIED, RETRY_AFTER, USER_AGENT, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::net::Reservation;
use crate::npm::PackageName;
use crate::upstream::authorization::Authorization;
use crate::upstream::error::UpstreamError;
use crate::upstream::fetch_target::FetchTarget;
use crate::upstream::registry::{Registry, UpstreamRequest};
use crate::upstream::response::{is_npm_header, remove_npm_headers, retry_after};

const MAX_ANSWER_BYTES: u64 = 64 << 20;

/// Headers sent upstream, in addition to npm's own `npm-…`. Credentials are sent as an [`Authorization`], never as one of these.
const REQUEST_HEADERS: [HeaderName; 8] =
    [ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, CONTENT_ENCODING, CONTENT_TYPE, IF_MODIFIED_SINCE, IF_NONE_MATCH, USER_AGENT];

/// Headers returned to the client, besides npm's own `npm-…`. No `Location`, which would bypass Coldframe, and no cookies.
const RESPONSE_HEADERS: [HeaderName; 8] =
    [CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, DATE, ETAG, LAST_MODIFIED, RETRY_AFTER, WWW_AUTHENTICATE];

/// The characters of a version to encode in a path.
const IN_VERSION: AsciiSet = NON_ALPHANUMERIC.remove(b'.').remove(b'-').remove(b'+').remove(b'_');

/// A request that is passed to upstream unchanged: audit, search, ping or write.
pub struct PassthroughRequest {
    pub method: Method,
    /// Encoded path and query below the registry's URL, without a leading slash.
    pub path: String,
    /// The end-to-end headers that may be sent (content type and encoding, accept, npm's own, `user-agent`).
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Whether it concerns the client's account or is a write. Only a registry for the client's credentials may receive it.
    pub for_account: bool,
}

/// The known parameters of a search. Any other could be a secret.
const SEARCH_PARAMETERS: [&str; 6] = ["text", "size", "from", "quality", "popularity", "maintenance"];

impl PassthroughRequest {
    /// Creates a GET of Coldframe for `path` below the registry's URL, sent with a client's credentials.
    pub(crate) fn get(path: String) -> Self {
        Self { method: Method::GET, path, headers: HeaderMap::new(), body: Bytes::new(), for_account: true }
    }

    pub(crate) fn is_read(&self) -> bool {
        self.method == Method::GET || self.method == Method::HEAD
    }

    /// Removes what may authenticate the client, for a registry that its credentials are not for.
    pub(crate) fn without_credentials(mut self) -> Self {
        remove_npm_headers(&mut self.headers);
        if let Some((path, query)) = self.path.split_once('?') {
            let is_known = |pair: &&str| SEARCH_PARAMETERS.contains(&pair.split('=').next().unwrap_or_default());
            let kept: Vec<_> = query.split('&').filter(is_known).collect();
            self.path = if kept.is_empty() { path.to_owned() } else { format!("{path}?{}", kept.join("&")) };
        }
        self
    }

    /// Creates a request for the attestations of a version, whose response is shared by all clients.
    pub(crate) fn for_attestations(name: &PackageName, version: &str) -> Self {
        let version = utf8_percent_encode(version, &IN_VERSION);
        let path = format!("-/npm/v1/attestations/{}@{version}", name.to_segment());
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))]);
        Self { headers, for_account: false, ..Self::get(path) }
    }

    /// Checks whether it is a GET without a query.
    pub(crate) fn is_plain_get(&self) -> bool {
        self.method == Method::GET && !self.path.contains('?')
    }
}

/// Upstream's response to a [`PassthroughRequest`], with any status.
#[derive(Debug, Clone)]
pub struct PassthroughResponse {
    pub status: StatusCode,
    /// The end-to-end headers that may be returned to the client.
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl PassthroughResponse {
    pub(crate) fn is_json(&self) -> bool {
        let content_type = self.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        self.status == StatusCode::OK && content_type.contains("json")
    }

    pub(crate) fn is_not_found(&self) -> bool {
        self.status == StatusCode::NOT_FOUND
    }

    /// Removes the `Date`, for clients that receive the response later.
    pub(crate) fn undated(mut self) -> Self {
        self.headers.remove(DATE);
        self
    }

    /// Creates a JSON response of Coldframe instead of upstream's.
    pub(crate) fn of_json(body: Bytes) -> Self {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        Self { status: StatusCode::OK, headers, body }
    }
}

impl Registry {
    /// Sends a request and returns the response with any status. The body counts against `share` and waits for memory. Only GET
    /// and HEAD are retried when a connection fails, and only a GET follows redirects, under the rules for packuments. Returns
    /// [`UpstreamError::NotFound`] if the path leads out of the registry.
    pub(crate) async fn pass(
        &self,
        request: PassthroughRequest,
        authorization: &Authorization,
        share: &mut Reservation,
    ) -> Result<PassthroughResponse, UpstreamError> {
        let url = self.below(&request.path).ok_or(UpstreamError::NotFound)?;
        let headers = only(&request.headers, &REQUEST_HEADERS);
        let target = FetchTarget::to_registry(url);
        let (target, response) = if request.method == Method::GET {
            self.get(target, headers, authorization).await?
        } else {
            let PassthroughRequest { method, body, .. } = request;
            let request = UpstreamRequest { method, target: &target, headers, body, package: None };
            let response = self.send(request, authorization).await?;
            (target, response)
        };
        let mut headers = only(&response.headers, &RESPONSE_HEADERS);
        headers.remove(RETRY_AFTER);
        let wait = retry_after(&response.headers).and_then(|wait| HeaderValue::try_from(wait).ok());
        headers.extend(wait.map(|wait| (RETRY_AFTER, wait)));
        let body = response.body.collect(MAX_ANSWER_BYTES, Some(share)).await;
        let body = body.map_err(|error| UpstreamError::from_client(&target.host(), &error))?;
        Ok(PassthroughResponse { status: response.status, headers, body })
    }
}

/// Returns the listed headers and npm's own.
fn only(headers: &HeaderMap, listed: &[HeaderName]) -> HeaderMap {
    let passes = |name: &HeaderName| listed.contains(name) || is_npm_header(name);
    let kept = headers.iter().filter(|(name, _)| passes(name));
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::net::testing::{ScriptedServer, ServerAction, answer};
    use crate::upstream::testing;

    fn request(method: Method, path: &str) -> PassthroughRequest {
        PassthroughRequest { method, path: path.to_owned(), headers: HeaderMap::new(), body: Bytes::new(), for_account: false }
    }

    #[tokio::test]
    async fn only_listed_headers_pass_in_either_direction() {
        let back = [
            "npm-notice: hello",
            "set-cookie: a=b",
            "location: /elsewhere",
            "x-secret: 1",
            "www-authenticate: OTP",
            "retry-after: 007",
            "content-type: application/json",
        ];
        let server =
            ScriptedServer::plain(move |_, _| ServerAction::Say(answer("401 Unauthorized", &back, b"{\"error\":\"otp\"}"))).await;
        let mut client_request = request(Method::POST, "-/npm/v1/security/advisories/bulk?a=b");
        client_request.body = Bytes::from_static(b"\x1f\x8b");
        for (name, value) in [
            ("content-encoding", "gzip"),
            ("npm-otp", "123456"),
            ("user-agent", "npm/11"),
            ("authorization", "Bearer stray"),
            ("cookie", "a=b"),
            ("host", "evil.example"),
            ("connection", "x-drop"),
            ("transfer-encoding", "chunked"),
            ("x-forwarded-for", "10.0.0.1"),
        ] {
            client_request.headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let passed = testing::registry(&format!("{}npm/", server.url()))
            .pass(client_request, &Authorization::Own("Bearer own".into()), &mut testing::share())
            .await
            .unwrap();
        let heard = &server.heard()[0];
        assert_eq!(
            (heard.line(), heard.body.as_slice()),
            ("POST /npm/-/npm/v1/security/advisories/bulk?a=b HTTP/1.1", b"\x1f\x8b".as_slice())
        );
        let up = |name: &str| heard.header(name).map(str::to_owned);
        assert_eq!(
            (up("content-encoding"), up("npm-otp"), up("user-agent")),
            (Some("gzip".into()), Some("123456".into()), Some("npm/11".into()))
        );
        assert_eq!((up("authorization"), up("host")), (Some("Bearer own".into()), Some(server.address.to_string())));
        assert_eq!((up("cookie"), up("connection"), up("transfer-encoding"), up("x-forwarded-for")), (None, None, None, None));
        assert_eq!((passed.status, passed.body.as_ref()), (StatusCode::UNAUTHORIZED, b"{\"error\":\"otp\"}".as_slice()));
        let mut names: Vec<_> = passed.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-type", "npm-notice", "retry-after", "www-authenticate"]);
        assert_eq!(passed.headers[RETRY_AFTER], "7");
    }

    #[tokio::test]
    async fn path_cannot_leave_the_registry() {
        let server = ScriptedServer::plain(|_, _| ServerAction::Say(answer("200 OK", &[], b""))).await;
        let registry = testing::registry(&format!("{}npm/repo/", server.url()));
        for path in ["../other", "a/../../other", "%2e%2e/other", "..\\other", "a/%2E%2e/%2e./x"] {
            let refused = registry.pass(request(Method::GET, path), &Authorization::Lent, &mut testing::share()).await;
            assert!(matches!(refused, Err(UpstreamError::NotFound)), "{path}");
        }
        assert!(server.heard().is_empty());
        registry.pass(request(Method::GET, "//x.example/y"), &Authorization::Lent, &mut testing::share()).await.unwrap();
        assert_eq!(server.heard()[0].line(), "GET /npm/repo///x.example/y HTTP/1.1");
    }

    #[tokio::test]
    async fn write_is_sent_once_and_its_redirect_is_not_followed() {
        let server = ScriptedServer::plain(|_, _| ServerAction::Reset).await;
        assert!(
            testing::registry(&server.url())
                .pass(request(Method::PUT, "ui"), &Authorization::Lent, &mut testing::share())
                .await
                .is_err()
        );
        assert_eq!(server.heard().len(), 1);
        let server =
            ScriptedServer::plain(|_, _| ServerAction::Say(answer("307 Temporary Redirect", &["location: /other"], b""))).await;
        let passed = testing::registry(&server.url())
            .pass(request(Method::PUT, "ui"), &Authorization::Lent, &mut testing::share())
            .await
            .unwrap();
        assert_eq!((passed.status.as_u16(), passed.headers.len(), server.heard().len()), (307, 0, 1));
    }
}
