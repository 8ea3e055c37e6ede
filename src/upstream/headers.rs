//! Headers of upstream responses, and npm's own headers.

use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName};

/// The longest `Retry-After` to wait for.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(2);

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

/// Returns the delay of a `Retry-After`, if it is short enough to wait for while a client waits. A date is compared with the
/// server's own clock, taken from `Date`.
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
}
