//! Header parsing: content negotiation, conditional requests, ranges, and headers that may occur once.

use std::borrow::Cow;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::OnceLock;
use std::time::SystemTime;

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// Returns the name of this process in `Via`. It is random per process, so a request that already contains it is a loop.
pub fn via_pseudonym() -> &'static str {
    static PSEUDONYM: OnceLock<String> = OnceLock::new();
    PSEUDONYM.get_or_init(|| format!("coldframe-{:016x}", RandomState::new().build_hasher().finish()))
}

/// Returns a `Via` header for requests to another proxy, which may be this process.
pub fn via() -> HeaderValue {
    HeaderValue::from_str(&format!("1.1 {}", via_pseudonym())).unwrap_or(HeaderValue::from_static("1.1 coldframe"))
}

/// Joins all lines of a list header. Returns `None` if there is none, and skips lines that are not ASCII.
pub fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, str>> {
    let mut lines = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let first = Cow::Borrowed(lines.next()?);
    Some(lines.fold(first, |joined, line| joined + "," + line))
}

/// Returns the value of a header that may occur once. Fails if it occurs more than once, or is not visible ASCII.
pub fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, String> {
    let mut lines = headers.get_all(name).iter();
    let Some(line) = lines.next() else { return Ok(None) };
    if lines.next().is_some() {
        return Err(format!("duplicate `{name}` header"));
    }
    line.to_str().map(Some).map_err(|_| format!("`{name}` header is not ASCII"))
}

/// Returns the index of the `offered` media type that an `Accept` header prefers: highest quality, then most specific match, then
/// first offered. Returns 0 if the header is missing or accepts none, since a response in another form is better than none.
pub fn best_media_type(accept: Option<&str>, offered: &[&str]) -> usize {
    let Some(accept) = accept else { return 0 };
    let score = |media: &str| {
        let main = media.split('/').next().unwrap_or_default();
        let exactness = |range: &str| match range {
            "*/*" => Some(1),
            _ if range.eq_ignore_ascii_case(media) => Some(3),
            _ => range.strip_suffix("/*").filter(|wanted| wanted.eq_ignore_ascii_case(main)).map(|_| 2),
        };
        // The most specific range decides the quality, even if a wildcard has a higher one.
        let ranges = accept.split(',').map(parse_quality);
        let matching = ranges.filter_map(|(range, quality)| exactness(range).map(|exact| (exact, quality)));
        matching.max_by_key(|(exact, _)| *exact).map_or((0, 0), |(exact, quality)| (quality, exact))
    };
    let scores = offered.iter().map(|media| score(media)).enumerate().filter(|(_, (quality, _))| *quality > 0);
    // Of equals, `max_by_key` returns the last.
    scores.rev().max_by_key(|(_, score)| *score).map_or(0, |(at, _)| at)
}

/// Returns the index of the `offered` coding that an `Accept-Encoding` header prefers by quality, then order; `None` if it
/// accepts none or prefers `identity`. Only a named coding is chosen. `*` counts only for gzip, which every client can decode.
pub fn best_coding(accept_encoding: Option<&str>, offered: &[&str]) -> Option<usize> {
    let accept = accept_encoding?;
    let quality = |wanted: &str| {
        let mut codings = accept.split(',').map(parse_quality);
        codings.find(|(coding, _)| coding.eq_ignore_ascii_case(wanted)).map(|(_, quality)| quality)
    };
    let score = |coding: &str| match coding {
        "gzip" => quality("gzip").or_else(|| quality("x-gzip")).or_else(|| quality("*")),
        _ => quality(coding),
    };
    let least = quality("identity").unwrap_or_default().max(1);
    let scores = offered.iter().map(|coding| score(coding)).enumerate().filter(|(_, score)| *score >= Some(least));
    // Of equals, `max_by_key` returns the last.
    scores.rev().max_by_key(|(_, score)| *score).map(|(at, _)| at)
}

/// Splits a list element into its value and its quality in thousandths. An invalid quality counts as 0, so it is never preferred.
fn parse_quality(element: &str) -> (&str, u16) {
    let mut parts = element.split(';').map(str::trim);
    let name = parts.next().unwrap_or_default();
    let quality = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
    (name, quality.map_or(1000, thousandths))
}

fn thousandths(quality: &str) -> u16 {
    let (whole, fraction) = quality.trim().split_once('.').unwrap_or((quality.trim(), ""));
    let digits = fraction.bytes().chain(*b"000").take(3);
    let read = digits.map(|digit| digit.is_ascii_digit().then(|| u16::from(digit - b'0')));
    let thousandths = read.into_iter().try_fold(0, |sum, digit| Some(sum * 10 + digit?));
    match (whole, thousandths) {
        ("1", Some(_)) => 1000,
        ("0", Some(thousandths)) => thousandths,
        _ => 0,
    }
}

/// Checks whether `If-None-Match` contains `etag` (with quotes). Uses weak comparison, since caches on the way weaken tags.
pub fn none_match(headers: &HeaderMap, etag: &str) -> bool {
    let Some(condition) = list(headers, &http::header::IF_NONE_MATCH) else { return false };
    let opaque = etag.strip_prefix("W/").unwrap_or(etag);
    let mut rest = condition.trim();
    if rest == "*" {
        return true;
    }
    // A tag may contain commas, so the list is scanned from quote to quote.
    while let Some(start) = rest.find('"') {
        let Some(length) = rest[start + 1..].find('"') else { return false };
        let (tag, after) = rest[start..].split_at(length + 2);
        if tag == opaque {
            return true;
        }
        rest = after;
    }
    false
}

/// The requested part of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteRange {
    Whole,
    /// From `first` to `last`, inclusive.
    Part {
        first: u64,
        last: u64,
    },
    /// The range is beyond the end.
    Unsatisfiable,
}

/// Parses `Range` and `If-Range` for a body of `length` bytes with the strong tag `etag`. Returns `Whole` for several ranges,
/// other units and invalid values, as RFC 9110 allows.
pub fn requested_range(headers: &HeaderMap, length: u64, etag: &str) -> ByteRange {
    let Ok(Some(range)) = single(headers, &http::header::RANGE) else { return ByteRange::Whole };
    let condition = headers.get(http::header::IF_RANGE);
    if condition.is_some_and(|condition| condition.as_bytes() != etag.as_bytes()) {
        return ByteRange::Whole;
    }
    let Some((first, last)) = range.trim().strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return ByteRange::Whole;
    };
    let end = length.saturating_sub(1);
    let (first, last) = match (digits(first), digits(last)) {
        (Some(first), None) if last.trim().is_empty() => (first, end),
        (Some(first), Some(last)) if first <= last => (first, last.min(end)),
        (None, Some(0)) if first.trim().is_empty() => return ByteRange::Unsatisfiable,
        (None, Some(suffix)) if first.trim().is_empty() => (length.saturating_sub(suffix), end),
        _ => return ByteRange::Whole,
    };
    if first >= length { ByteRange::Unsatisfiable } else { ByteRange::Part { first, last } }
}

fn digits(text: &str) -> Option<u64> {
    let text = text.trim();
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().unwrap_or(u64::MAX))
}

pub fn date(instant: SystemTime) -> HeaderValue {
    HeaderValue::try_from(httpdate::fmt_http_date(instant)).unwrap_or(HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"))
}

/// Checks whether `text` is a host with an optional port, as in a `Host` header: `files.example`, `127.0.0.1:4873`, `[::1]:80`.
pub fn is_host(text: &str) -> bool {
    let (name, port) = split_host(text);
    let well_formed = match name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')),
    };
    let fits =
        port.is_none_or(|port| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0));
    !name.is_empty() && text.len() <= 255 && well_formed && fits
}

pub fn split_host(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = "application/json";
    const SHORT: &str = "application/vnd.short-v1+json";

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn preferred_media_type_is_chosen() {
        let best = |accept| [FULL, SHORT][best_media_type(accept, &[FULL, SHORT])];
        assert_eq!(best(Some("application/vnd.short-v1+json; q=1.0, application/json; q=0.8, */*")), SHORT);
        assert_eq!(best(Some("application/json; q=1.0, */*")), FULL);
        assert_eq!(best(Some("application/json, */*")), FULL);
        assert_eq!(best(Some("*/*")), FULL);
        assert_eq!(best(None), FULL);
        assert_eq!(best(Some("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")), FULL);
        assert_eq!(best(Some("application/json;q=0.1, application/*;q=0.5")), SHORT);
        assert_eq!(best(Some("application/json;q=0, */*")), SHORT);
        assert_eq!(best(Some("APPLICATION/VND.SHORT-V1+JSON")), SHORT);
        assert_eq!(best(Some("text/html")), FULL);
        assert_eq!(best(Some("application/json;q=high, application/vnd.short-v1+json;q=0.001")), SHORT);
        assert_eq!(best(Some(",;,q=1;;")), FULL);
    }

    fn coding(accept_encoding: Option<&str>) -> &'static str {
        let offered = ["zstd", "gzip", "br"];
        best_coding(accept_encoding, &offered).map_or("", |at| offered[at])
    }

    #[test]
    fn gzip_is_chosen_only_if_accepted() {
        for yes in [
            "gzip",
            "gzip,deflate,br",
            "zstd;q=0.9, gzip",
            "*",
            "br;q=0, *;q=0.1",
            "x-gzip",
            "gzip;q=0.5, identity;q=0.5",
            "GZIP",
            "identity;q=0, gzip",
        ] {
            assert_eq!(coding(Some(yes)), "gzip", "{yes}");
        }
        for no in ["identity", "deflate", "gzip;q=0", "*;q=0", "gzip;q=0, *", "identity, gzip;q=0.5", "", "gzip;q=0.0000"] {
            assert_eq!(coding(Some(no)), "", "{no}");
        }
        assert_eq!(coding(None), "");
    }

    #[test]
    fn preferred_named_coding_is_chosen() {
        for (accept, best) in [
            // npm and yarn 1; pnpm 9 and 10, yarn 4; bun; pnpm 12; deno's first request.
            ("gzip", "gzip"),
            ("gzip,deflate,br", "gzip"),
            ("gzip, deflate, br", "gzip"),
            ("gzip, deflate, br, zstd", "zstd"),
            ("zstd,gzip,deflate", "zstd"),
            ("gzip,br", "gzip"),
            ("br", "br"),
            ("br, gzip;q=0.9", "br"),
            ("br;q=0.5, gzip;q=0.4, zstd;q=0.3", "br"),
            ("zstd;q=0, br;q=0.1", "br"),
            ("ZSTD", "zstd"),
            ("br, *;q=0.1", "br"),
            ("zstd, identity;q=0.5", "zstd"),
            ("zstd;q=0.4, identity;q=0.5", ""),
        ] {
            assert_eq!(coding(Some(accept)), best, "{accept}");
        }
    }

    #[test]
    fn etags_are_compared_weakly_within_lists() {
        let holds = |value| none_match(&headers(&[(http::header::IF_NONE_MATCH, value)]), "\"a,b\"");
        assert!(holds("\"a,b\"") && holds("W/\"a,b\"") && holds("\"x\", \"a,b\"") && holds("*") && holds("\"x\",W/\"a,b\" "));
        assert!(!holds("\"a\"") && !holds("a,b") && !holds("\"a,b") && !holds("") && !holds("\"x\", *"));
        assert!(!none_match(&HeaderMap::new(), "\"a\""));
    }

    #[test]
    fn single_range_is_served_and_other_ranges_get_the_whole_body() {
        let parse = |range| requested_range(&headers(&[(http::header::RANGE, range)]), 10, "\"t\"");
        let part = |first, last| ByteRange::Part { first, last };
        assert_eq!(parse("bytes=0-3"), part(0, 3));
        assert_eq!(parse("bytes=4-"), part(4, 9));
        assert_eq!(parse("bytes=-3"), part(7, 9));
        assert_eq!(parse("bytes=-30"), part(0, 9));
        assert_eq!(parse("bytes=5-100"), part(5, 9));
        assert_eq!(parse("bytes=9-99999999999999999999999"), part(9, 9));
        assert_eq!(
            (parse("bytes=10-"), parse("bytes=10-12"), parse("bytes=-0")),
            (ByteRange::Unsatisfiable, ByteRange::Unsatisfiable, ByteRange::Unsatisfiable)
        );
        for whole in
            ["bytes=0-1,3-4", "bytes=3-2", "lines=1-2", "bytes=", "bytes=-", "bytes=a-b", "bytes=+1-2", "bytes=--3", "0-1"]
        {
            assert_eq!(parse(whole), ByteRange::Whole, "{whole}");
        }
        let empty = headers(&[(http::header::RANGE, "bytes=0-")]);
        assert_eq!(requested_range(&empty, 0, "\"t\""), ByteRange::Unsatisfiable);
    }

    #[test]
    fn range_with_stale_if_range_gets_the_whole_body() {
        let parse =
            |tag| requested_range(&headers(&[(http::header::RANGE, "bytes=0-3"), (http::header::IF_RANGE, tag)]), 10, "\"t\"");
        assert_eq!(parse("\"t\""), ByteRange::Part { first: 0, last: 3 });
        assert_eq!(
            (parse("\"u\""), parse("W/\"t\""), parse("Thu, 01 Jan 1970 00:00:00 GMT")),
            (ByteRange::Whole, ByteRange::Whole, ByteRange::Whole)
        );
    }

    #[test]
    fn host_is_a_name_or_address_with_an_optional_port() {
        for valid in ["files.example", "localhost:4873", "127.0.0.1:1", "[::1]", "[::1]:4873", "under_score"] {
            assert!(is_host(valid), "{valid}");
        }
        for invalid in ["", ":80", "a:0", "a:70000", "a:x", "a:", "a/b", "a b", "user@a", "[::1", "[::x]", "::1", "a\"b", "a:+1"]
        {
            assert!(!is_host(invalid), "{invalid}");
        }
    }
}
