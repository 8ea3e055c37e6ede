//! Selects the headers of forwarded requests and their responses. Hop-by-hop headers are dropped.

use bytes::Bytes;
use http::Method;
use http::header::{self, HeaderMap, HeaderName};
use http::request::Parts;

use crate::policy::access::secret;
use crate::upstream::PassthroughRequest;

/// Request headers that upstream needs. Credentials are added separately.
const PASSED_ON: [HeaderName; 4] = [header::ACCEPT, header::CONTENT_TYPE, header::CONTENT_ENCODING, header::USER_AGENT];

/// Response headers that describe the connection or encoding, not the content.
pub(crate) const KEPT_BACK: [HeaderName; 14] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
    header::DATE,
    header::SERVER,
    header::ALT_SVC,
    header::STRICT_TRANSPORT_SECURITY,
    header::SET_COOKIE,
];

/// Builds the forwarded request, without headers that contain an access token. `path` is encoded. HEAD is sent as GET: the headers need a complete filtered response.
pub(crate) fn passthrough_request(head: &Parts, path: &str, body: Bytes) -> PassthroughRequest {
    let below = path.trim_start_matches('/');
    let path = head.uri.query().map_or_else(|| below.to_owned(), |query| format!("{below}?{query}"));
    let mut headers = HeaderMap::new();
    for (name, value) in &head.headers {
        let is_passed = PASSED_ON.contains(name) || name.as_str().starts_with("npm-");
        if is_passed && !secret::is_in(value.as_bytes()) {
            headers.append(name.clone(), value.clone());
        }
    }
    let method = if head.method == Method::HEAD { Method::GET } else { head.method.clone() };
    PassthroughRequest { method, path, headers, body, for_account: false }
}

/// Removes `kept_back` and the headers named in `Connection`.
pub(crate) fn end_to_end_headers(mut headers: HeaderMap, kept_back: &[HeaderName]) -> HeaderMap {
    let lines = headers.get_all(header::CONNECTION).iter().filter_map(|line| line.to_str().ok());
    let named: Vec<HeaderName> = lines.flat_map(|line| line.split(',')).filter_map(|name| name.trim().parse().ok()).collect();
    for name in kept_back.iter().chain(&named) {
        headers.remove(name);
    }
    headers
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn credentials_and_hop_by_hop_headers_are_dropped() {
        let request = http::Request::post("/-/npm/v1/security/audits?x=1")
            .header("authorization", "Bearer secret")
            .header("cookie", "a=b")
            .header("connection", "close")
            .header("accept-encoding", "br")
            .header("x-forwarded-for", "10.0.0.1")
            .header("content-encoding", "gzip")
            .header("npm-command", "ci");
        let passage = passthrough_request(
            &request.body(()).unwrap().into_parts().0,
            "/-/npm/v1/security/audits",
            Bytes::from_static(b"{}"),
        );
        assert_eq!(passage.path, "-/npm/v1/security/audits?x=1");
        let names: Vec<&str> = passage.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["content-encoding", "npm-command"]);
    }

    #[test]
    fn response_loses_connection_headers() {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("connection", "close, x-hop"), ("x-hop", "1"), ("content-length", "7"), ("set-cookie", "a"), ("etag", "\"e\"")]
        {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let names: Vec<String> = end_to_end_headers(headers, &KEPT_BACK).keys().map(ToString::to_string).collect();
        assert_eq!(names, ["etag"]);
    }
}
