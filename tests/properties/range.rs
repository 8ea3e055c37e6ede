//! `Range`, `If-Range` and `If-None-Match` of a stranger: a tarball's answer holds just the bytes that were asked for.
//!
//! An input is a length, and a header a line: `if:` before that of an `If-Range`, `none:` of an `If-None-Match`, nothing
//! before that of a `Range`.

use std::pin::pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};

use bytes::{BufMut as _, Bytes};
use coldframe::firewall::TarballResponse;
use coldframe::net::headers::{ByteRange, span};
use coldframe::npm::{Algorithm, Digest, Integrity};
use coldframe::server::response;
use http::HeaderValue;
use http::header::{CONTENT_RANGE, HeaderMap, IF_NONE_MATCH, IF_RANGE, RANGE};
use http_body::Body as _;

/// The longest tarball here; beyond that only the span is looked at.
const LONGEST: u64 = 4096;

static DIGEST: LazyLock<Digest> = LazyLock::new(|| Digest::of(Algorithm::Sha512, b"a tarball"));

/// Panics when an answer is not what was asked for.
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
        // `$` stands for the tag, which nobody guesses.
        let value = if value == b"$" { etag.as_bytes() } else { value };
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(name, value);
        }
    }
    let told = span(&headers, length, &etag);
    spans_what_was_asked(&headers, length, &etag, told);
    if length <= LONGEST {
        answers_it(headers, length, told);
    }
}

fn spans_what_was_asked(headers: &HeaderMap, length: u64, etag: &str, told: ByteRange) {
    let once = (headers.get_all(RANGE).iter().count() == 1).then(|| headers[RANGE].to_str().ok()).flatten();
    let Some(range) = once else { return assert_eq!(told, ByteRange::Whole) };
    if headers.get(IF_RANGE).is_some_and(|condition| condition != etag) {
        return assert_eq!(told, ByteRange::Whole);
    }
    if let ByteRange::Part { first, last } = told {
        assert!(first <= last && last < length, "{range}: {told:?} of {length}");
    }
    // The grammar of RFC 9110 for one range, in a second hand; what is written in another way may be answered whole.
    let plain = |text: &str| text.len() <= 18 && text.bytes().all(|byte| byte.is_ascii_digit());
    let Some((first, last)) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else { return };
    if !plain(first) || !plain(last) || length > LONGEST {
        return;
    }
    let (from, to) = (first.parse::<u64>(), last.parse::<u64>());
    let wanted: Vec<u64> = match (&from, &to) {
        (Err(_), Err(_)) => return assert_eq!(told, ByteRange::Whole),
        (Ok(from), Ok(to)) if from > to => return assert_eq!(told, ByteRange::Whole),
        (Ok(from), _) => (0..length).filter(|at| at >= from && to.as_ref().is_ok_and(|to| at <= to) | to.is_err()).collect(),
        (Err(_), Ok(suffix)) => (0..length).filter(|at| length - at <= *suffix).collect(),
    };
    let spanned: Vec<u64> = match told {
        ByteRange::Whole => panic!("{range} of {length} is answered whole"),
        ByteRange::Unsatisfiable => Vec::new(),
        ByteRange::Part { first, last } => (first..=last).collect(),
    };
    assert_eq!(spanned, wanted, "{range} of {length}");
}

fn answers_it(headers: HeaderMap, length: u64, told: ByteRange) {
    let content: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
    let integrity = Integrity::single(DIGEST.clone());
    let tarball = TarballResponse { bytes: Bytes::from(content.clone()), integrity, kept: true };
    let (mut head, ()) = http::Request::new(()).into_parts();
    head.headers = headers;
    let reply = response::tarball(&tarball, &head).response;
    let said = reply.headers().get(CONTENT_RANGE).map(|said| said.to_str().expect("ASCII").to_owned());
    let (status, body) = (reply.status().as_u16(), bytes_of(reply.into_body()));
    match (status, told) {
        (304, _) => assert!(body.is_empty() && head.headers.contains_key(IF_NONE_MATCH)),
        (200, ByteRange::Whole) => assert_eq!(body, content),
        (206, ByteRange::Part { first, last }) => {
            assert_eq!(said, Some(format!("bytes {first}-{last}/{length}")));
            assert_eq!(body.len() as u64, last - first + 1);
            assert!(content[usize::try_from(first).expect("small")..].starts_with(&body));
        }
        (416, ByteRange::Unsatisfiable) => assert_eq!(said, Some(format!("bytes */{length}"))),
        _ => panic!("{status} for {told:?}"),
    }
}

/// A body of ours never waits.
fn bytes_of(body: coldframe::net::Body) -> Vec<u8> {
    let (mut body, mut bytes) = (pin!(body), Vec::new());
    while let Poll::Ready(Some(Ok(frame))) = body.as_mut().poll_frame(&mut Context::from_waker(Waker::noop())) {
        bytes.put(frame.into_data().expect("no trailers"));
    }
    bytes
}
