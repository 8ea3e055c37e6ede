//! Statuses and headers of upstream responses, the errors they become, and npm's own headers.

use std::sync::Arc;
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName, StatusCode};

use crate::net::ClientResponse;
use crate::text::ascii_line;
use crate::upstream::error::UpstreamError;
use crate::upstream::fetch_target::FetchTarget;

/// The longest `Retry-After` to wait for.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(2);

/// Maximum bytes read from an error's body, and maximum length of the message passed on.
pub(crate) const ERROR_BODY: u64 = 64 << 10;
const ERROR_MESSAGE: usize = 200;

/// Checks whether a status says that the server, or one behind it, cannot answer now.
pub(crate) fn is_overloaded(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 502..=504)
}

pub(crate) fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Converts an unsuccessful response to an error. Reads a bounded part of the body for the message of a denial.
pub(crate) async fn refusal(target: &FetchTarget, response: ClientResponse) -> UpstreamError {
    let host = target.host();
    let status = response.status.as_u16();
    match status {
        404 | 410 => UpstreamError::NotFound,
        401 | 403 => UpstreamError::Denied { host, status, message: message(response).await },
        200..=399 => UpstreamError::Broken { host, detail: format!("unexpected status {status}").into() },
        _ => UpstreamError::Status { host, status, retry_after: retry_after(&response.headers).map(Arc::from) },
    }
}

/// Returns upstream's message: `error` or `message` of a JSON body, else the reason phrase.
async fn message(response: ClientResponse) -> Arc<str> {
    #[derive(serde::Deserialize)]
    struct ErrorBody {
        error: Option<String>,
        message: Option<String>,
    }
    let phrase = response.reason.clone().or_else(|| response.status.canonical_reason().map(str::to_owned)).unwrap_or_default();
    // If the body cannot be read, the reason phrase is used.
    let body = response.body.collect(ERROR_BODY, None).await.unwrap_or_default();
    let words = serde_json::from_slice::<ErrorBody>(&body).ok().and_then(|words| words.error.or(words.message));
    message_line(&words.filter(|words| !words.trim().is_empty()).unwrap_or(phrase)).into()
}

/// Converts upstream's message to one short line of ASCII. Runs of whitespace and control characters become one space.
fn message_line(text: &str) -> String {
    let plain: Vec<&str> =
        text.split(|letter: char| letter.is_whitespace() || letter.is_control()).filter(|word| !word.is_empty()).collect();
    ascii_line(&plain.join(" "), ERROR_MESSAGE)
}

/// Returns a valid `Retry-After`, normalized to a number of seconds or a date.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<String> {
    let text = header(headers, &RETRY_AFTER)?;
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse::<u32>().ok().map(|seconds| seconds.to_string());
    }
    httpdate::parse_http_date(text).ok().map(httpdate::fmt_http_date)
}

/// Returns a text header of at most 512 bytes.
pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim).filter(|text| !text.is_empty() && text.len() <= 512)
}

/// Returns the delay of a `Retry-After`, if it is short enough to wait for. A date is compared with the server's own `Date`.
pub(crate) fn retry_delay(retry_after: &str, date: Option<&str>) -> Option<Duration> {
    let until = || {
        let (then, now) = (httpdate::parse_http_date(retry_after).ok()?, httpdate::parse_http_date(date?).ok()?);
        Some(then.duration_since(now).unwrap_or_default())
    };
    retry_after.parse().ok().map(Duration::from_secs).or_else(until).filter(|wait| *wait <= MAX_RETRY_DELAY)
}

/// Checks whether a header is one of npm's own: a one-time password, a session or a scope.
pub(crate) fn is_npm_header(name: &HeaderName) -> bool {
    name.as_str().starts_with("npm-")
}

pub(crate) fn remove_npm_headers(headers: &mut HeaderMap) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| is_npm_header(name)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_parsed_as_seconds_or_as_a_date_of_the_server() {
        let date = Some("Wed, 21 Oct 2015 07:28:00 GMT");
        for (value, date, wait) in [
            ("1", None, Some(1)),
            ("2", date, Some(2)),
            ("3", date, None),
            ("Wed, 21 Oct 2015 07:28:02 GMT", date, Some(2)),
            ("Wed, 21 Oct 2015 07:27:00 GMT", date, Some(0)),
            ("Wed, 21 Oct 2015 07:29:00 GMT", date, None),
            ("Wed, 21 Oct 2015 07:28:02 GMT", None, None),
            ("soon", date, None),
        ] {
            assert_eq!(retry_delay(value, date), wait.map(Duration::from_secs), "{value}");
        }
    }

    #[test]
    fn error_message_is_one_line_of_ascii() {
        assert_eq!(message_line("  a\r\nb\u{1b}[0m\tc\u{2028}é "), "a b [0m c ?");
        assert_eq!(message_line(&"x".repeat(1_000)).len(), 200);
    }
}
