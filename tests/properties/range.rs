//! Untrusted `Range`, `If-Range` and `If-None-Match`: a tarball response has exactly the requested bytes.
//!
//! An input is a length, then one header per line: `if:` before an `If-Range`, `none:` before an `If-None-Match`, no prefix for a
//! `Range`.

use std::pin::pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};

use bytes::{BufMut as _, Bytes};
use coldframe::firewall::TarballResponse;
use coldframe::net::{ByteRange, requested_range};
use coldframe::npm::{Algorithm, Digest, Integrity};
use coldframe::server::response;
use http::HeaderValue;
use http::header::{CONTENT_RANGE, HeaderMap, IF_NONE_MATCH, IF_RANGE, RANGE};
use http_body::Body as _;

/// The longest tarball used here. For longer ones only the span is checked.
const MAX_LENGTH: u64 = 4096;

static DIGEST: LazyLock<Digest> = LazyLock::new(|| Digest::of(Algorithm::Sha512, b"a tarball"));

/// Panics if a response does not match the request.
pub fn holds(input: &[u8]) {
    let mut lines = input.split(|byte| *byte == b'\n');
    let length = lines.next().and_then(|line| std::str::from_utf8(line).ok()?.trim().parse().ok()).unwrap_or(100);
    let etag = format!("\"{}\"", DIGEST.to_sri());
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = match line {
            [b'i', b'f', b':', value @ ..] => (IF_RANGE, value),
            [b'n', b'o', b'n', b'e', b':', value @ ..] => (IF_NONE_MATCH, value),
            value => (RANGE, value),
        };
        // `$` stands for the entity tag, which a fuzzer cannot guess.
        let value = if value == b"$" { etag.as_bytes() } else { value };
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(name, value);
        }
    }
    let range = requested_range(&headers, length, &etag);
    span_matches_the_request(&headers, length, &etag, range);
    if length <= MAX_LENGTH {
        response_matches_the_span(headers, length, range);
    }
}

fn span_matches_the_request(headers: &HeaderMap, length: u64, etag: &str, parsed: ByteRange) {
    let once = (headers.get_all(RANGE).iter().count() == 1).then(|| headers[RANGE].to_str().ok()).flatten();
    let Some(range) = once else { return assert_eq!(parsed, ByteRange::Whole) };
    if headers.get(IF_RANGE).is_some_and(|condition| condition != etag) {
        return assert_eq!(parsed, ByteRange::Whole);
    }
    if let ByteRange::Part { first, last } = parsed {
        assert!(first <= last && last < length, "{range}: {parsed:?} of {length}");
    }
    // A second implementation of the RFC 9110 grammar for one range. Other spellings may get the whole tarball.
    let plain = |text: &str| text.len() <= 18 && text.bytes().all(|byte| byte.is_ascii_digit());
    let Some((first, last)) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else { return };
    if !plain(first) || !plain(last) || length > MAX_LENGTH {
        return;
    }
    let (from, to) = (first.parse::<u64>(), last.parse::<u64>());
    let wanted: Vec<u64> = match (&from, &to) {
        (Err(_), Err(_)) => return assert_eq!(parsed, ByteRange::Whole),
        (Ok(from), Ok(to)) if from > to => return assert_eq!(parsed, ByteRange::Whole),
        (Ok(from), _) => (0..length).filter(|at| at >= from && to.as_ref().is_ok_and(|to| at <= to) | to.is_err()).collect(),
        (Err(_), Ok(suffix)) => (0..length).filter(|at| length - at <= *suffix).collect(),
    };
    let spanned: Vec<u64> = match parsed {
        ByteRange::Whole => panic!("{range} of {length} got the whole tarball"),
        ByteRange::Unsatisfiable => Vec::new(),
        ByteRange::Part { first, last } => (first..=last).collect(),
    };
    assert_eq!(spanned, wanted, "{range} of {length}");
}

fn response_matches_the_span(headers: HeaderMap, length: u64, parsed: ByteRange) {
    let content: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
    let integrity = Integrity::single(DIGEST.clone());
    let tarball = TarballResponse { bytes: Bytes::from(content.clone()), integrity, kept: true };
    let (mut head, ()) = http::Request::new(()).into_parts();
    head.headers = headers;
    let reply = response::tarball(&tarball, &head).response;
    let content_range = reply.headers().get(CONTENT_RANGE).map(|content_range| content_range.to_str().expect("ASCII").to_owned());
    let (status, body) = (reply.status().as_u16(), bytes_of(reply.into_body()));
    match (status, parsed) {
        (304, _) => assert!(body.is_empty() && head.headers.contains_key(IF_NONE_MATCH)),
        (200, ByteRange::Whole) => assert_eq!(body, content),
        (206, ByteRange::Part { first, last }) => {
            assert_eq!(content_range, Some(format!("bytes {first}-{last}/{length}")));
            assert_eq!(body.len() as u64, last - first + 1);
            assert!(content[usize::try_from(first).expect("small")..].starts_with(&body));
        }
        (416, ByteRange::Unsatisfiable) => assert_eq!(content_range, Some(format!("bytes */{length}"))),
        _ => panic!("{status} for {parsed:?}"),
    }
}

/// Collects a body, which is always ready.
fn bytes_of(body: coldframe::net::Body) -> Vec<u8> {
    let (mut body, mut bytes) = (pin!(body), Vec::new());
    while let Poll::Ready(Some(Ok(frame))) = body.as_mut().poll_frame(&mut Context::from_waker(Waker::noop())) {
        bytes.put(frame.into_data().expect("no trailers"));
    }
    bytes
}
