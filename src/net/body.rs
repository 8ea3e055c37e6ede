//! HTTP bodies: outgoing ones, from shared chunks or from upstream, and incoming ones, bounded in size and time.

use std::fmt;
use std::future::Future as _;
use std::io::{self, Read as _};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep};

use crate::net::chunked_buf::ChunkedBuf;
use crate::net::memory_budget::{BudgetTimeout, Reservation};

/// The largest frame for the socket, in bytes. Keeps the count of sent bytes accurate and reads mapped files piece by piece.
const MAX_FRAME: usize = 512 * 1024;

/// Above this size, an incoming body reserves its declared length at once, without copies. Below it, a false one costs no memory.
const SELF_GROWN: u64 = 1 << 20;

pub struct Body {
    rest: Remaining,
    sent: u64,
    /// Called once with the number of bytes sent, when the body was sent completely or dropped.
    ending: Option<Box<dyn FnOnce(u64) + Send>>,
}

enum Remaining {
    Ours(ChunkedBuf),
    Passing(ForwardedBody),
}

/// A body forwarded from another server while it arrives. Each wait for the next bytes is limited to `idle_timeout`.
struct ForwardedBody {
    incoming: Incoming,
    idle_timeout: Duration,
    idle: Pin<Box<Sleep>>,
}

impl ForwardedBody {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        loop {
            match Pin::new(&mut self.incoming).poll_frame(context) {
                Poll::Pending => {
                    ready!(self.idle.as_mut().poll(context));
                    return Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())));
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(io::Error::other(error)))),
                Poll::Ready(Some(Ok(frame))) => {
                    self.idle.as_mut().reset(Instant::now() + self.idle_timeout);
                    // Trailers are not forwarded.
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
            }
        }
    }
}

impl Body {
    fn new(rest: Remaining) -> Self {
        Self { rest, sent: 0, ending: None }
    }

    pub(crate) fn empty() -> Self {
        Self::from(Bytes::new())
    }

    pub(crate) fn from_chunks(chunks: Arc<[Bytes]>) -> Self {
        Self::new(Remaining::Ours(ChunkedBuf::of(chunks)))
    }

    /// Returns a body forwarded from another server, which may pause for up to `idle_timeout`. Its length may be unknown.
    pub(crate) fn forwarded(incoming: Incoming, idle_timeout: Duration) -> Self {
        Self::new(Remaining::Passing(ForwardedBody { incoming, idle_timeout, idle: Box::pin(sleep(idle_timeout)) }))
    }

    /// Calls `ending` with the number of bytes sent, when the body was sent completely or the client disconnected.
    pub(crate) fn on_complete(mut self, ending: impl FnOnce(u64) + Send + 'static) -> Self {
        self.ending = Some(Box::new(ending));
        self
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::new(Remaining::Ours(bytes.into()))
    }
}

impl http_body::Body for Body {
    type Data = ChunkedBuf;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<ChunkedBuf>>>> {
        let buffer = match &mut self.rest {
            Remaining::Passing(passing) => ready!(passing.poll(context)).transpose()?.map(ChunkedBuf::from),
            Remaining::Ours(rest) => rest.has_remaining().then(|| rest.split_to(MAX_FRAME)),
        };
        let Some(buffer) = buffer else { return Poll::Ready(None) };
        self.sent += buffer.remaining() as u64;
        Poll::Ready(Some(Ok(Frame::data(buffer))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.rest {
            Remaining::Passing(passing) => passing.incoming.is_end_stream(),
            Remaining::Ours(rest) => !rest.has_remaining(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.rest {
            Remaining::Passing(passing) => passing.incoming.size_hint(),
            Remaining::Ours(rest) => SizeHint::with_exact(rest.remaining() as u64),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Some(ending) = self.ending.take() {
            ending(self.sent);
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("body larger than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("body not received within {} s", after.as_secs())]
    TooSlow { after: Duration },
    /// The body ended early, or its framing or encoding is invalid.
    #[error("cannot read body: {0}")]
    Broken(String),
    #[error("no memory available for the body within {} s; try again later", .0.after.as_secs())]
    NoRoom(#[from] BudgetTimeout),
}

/// Reads a whole body of at most `limit` bytes within `deadline`, and counts the bytes against `share`. If the reservation cannot
/// grow, the rest of the body waits in the socket, until [`BodyError::NoRoom`].
pub async fn collect_into<B>(body: B, limit: u64, deadline: Duration, share: &mut Reservation) -> Result<Bytes, BodyError>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: fmt::Display,
{
    let reading = tokio::time::timeout(deadline, read_all(body, limit, share));
    reading.await.map_err(|_| BodyError::TooSlow { after: deadline })?
}

async fn read_all<B>(body: B, limit: u64, share: &mut Reservation) -> Result<Bytes, BodyError>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: fmt::Display,
{
    let mut body = pin!(body);
    if body.size_hint().lower() > limit {
        return Err(BodyError::TooLarge { limit });
    }
    let stated = body.size_hint().exact();
    // The first chunk is often the whole body. Later chunks are copied: keeping a chunk of one byte would cost over thirty bytes.
    let (mut first, mut whole) = (None::<Bytes>, BytesMut::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| BodyError::Broken(error.to_string()))?;
        let Ok(piece) = frame.into_data() else { continue };
        let length = first.as_ref().map_or(whole.len(), Bytes::len) as u64 + piece.len() as u64;
        if length > limit {
            return Err(BodyError::TooLarge { limit });
        }
        let reserved = stated.filter(|_| length > SELF_GROWN);
        // A growing buffer is copied, so it needs twice the memory.
        share.grow_to(if reserved.is_some() { length } else { 2 * length }).await?;
        if whole.is_empty() && first.is_none() {
            first = Some(piece);
            continue;
        }
        if let Some(first) = first.take() {
            whole.extend_from_slice(&first);
        }
        if let Some(stated) = reserved.filter(|_| whole.capacity() - whole.len() < piece.len()) {
            whole.reserve(usize::try_from(stated).unwrap_or(0).saturating_sub(whole.len()).max(piece.len()));
        }
        whole.extend_from_slice(&piece);
    }
    Ok(first.unwrap_or_else(|| whole.freeze()))
}

/// Decompresses all gzip members, to at most `limit` bytes, beyond which it fails. CPU-bound: do not call it on an async thread.
pub fn gunzip(bytes: &[u8], limit: u64) -> Result<Bytes, BodyError> {
    let mut inflated = Vec::new();
    gunzip_into(bytes, limit, &mut inflated)?;
    Ok(inflated.into())
}

/// Like [`gunzip`], but reuses the buffer `inflated` and replaces its content.
pub fn gunzip_into(bytes: &[u8], limit: u64, inflated: &mut Vec<u8>) -> Result<(), BodyError> {
    inflated.clear();
    inflated.reserve(gzip_length_hint(bytes).min(usize::try_from(limit).unwrap_or(usize::MAX)));
    let mut bounded = flate2::bufread::MultiGzDecoder::new(bytes).take(limit.saturating_add(1));
    bounded.read_to_end(inflated).map_err(|error| BodyError::Broken(error.to_string()))?;
    if inflated.len() as u64 > limit { Err(BodyError::TooLarge { limit }) } else { Ok(()) }
}

/// Returns the decompressed length of gzip data of at most `limit` bytes without keeping the result. Blocks.
pub fn gunzipped_length(bytes: &[u8], limit: u64) -> Result<u64, BodyError> {
    let mut bounded = flate2::bufread::MultiGzDecoder::new(bytes).take(limit.saturating_add(1));
    let length = io::copy(&mut bounded, &mut io::sink()).map_err(|error| BodyError::Broken(error.to_string()))?;
    if length > limit { Err(BodyError::TooLarge { limit }) } else { Ok(length) }
}

/// Returns the decompressed length declared in the gzip trailer, capped at a plausible ratio, plus one byte to detect the end.
pub fn gzip_length_hint(bytes: &[u8]) -> usize {
    /// Packuments compress at most 30:1. Data that claims a higher ratio grows its buffer as it is read.
    const BELIEVED: usize = 32;
    let declared = bytes.last_chunk::<4>().map_or(0, |declared| u32::from_le_bytes(*declared) as usize);
    declared.min(bytes.len().saturating_mul(BELIEVED)) + 1
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::atomic::{AtomicU64, Ordering};

    use http_body::Body as _;
    use http_body_util::Full;

    use std::convert::Infallible;

    use super::*;
    use crate::net::memory_budget::MemoryBudget;

    async fn collect<B>(body: B, limit: u64, deadline: Duration) -> Result<Bytes, BodyError>
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: fmt::Display,
    {
        collect_into(body, limit, deadline, &mut MemoryBudget::of(1 << 20, deadline).share()).await
    }

    #[tokio::test]
    async fn shared_chunks_are_sent_completely_with_known_length() {
        let large = Bytes::from(vec![7; MAX_FRAME + 1]);
        let chunks: Arc<[Bytes]> = Arc::new([Bytes::from_static(b"ab"), Bytes::new(), large.clone()]);
        let sent = Arc::new(AtomicU64::new(0));
        let seen = sent.clone();
        let body = Body::from_chunks(chunks).on_complete(move |bytes| seen.store(bytes, Ordering::SeqCst));
        assert_eq!(body.size_hint().exact(), Some(MAX_FRAME as u64 + 3));
        let whole = body.collect().await.unwrap().to_bytes();
        assert_eq!(whole, [&b"ab"[..], &large].concat());
        assert_eq!(sent.load(Ordering::SeqCst), MAX_FRAME as u64 + 3);
    }

    #[tokio::test]
    async fn dropped_body_reports_bytes_sent() {
        let sent = Arc::new(AtomicU64::new(99));
        let seen = sent.clone();
        let mut body =
            Body::from(Bytes::from(vec![0; 2 * MAX_FRAME])).on_complete(move |bytes| seen.store(bytes, Ordering::SeqCst));
        body.frame().await.unwrap().unwrap();
        assert_eq!(body.size_hint().exact(), Some(MAX_FRAME as u64));
        drop(body);
        assert_eq!(sent.load(Ordering::SeqCst), MAX_FRAME as u64);
    }

    #[tokio::test(start_paused = true)]
    async fn incoming_body_is_limited_in_size_and_time() {
        let deadline = Duration::from_secs(5);
        let take = |bytes: &'static [u8], limit| collect(Full::new(Bytes::from_static(bytes)), limit, deadline);
        assert_eq!(take(b"abc", 3).await.unwrap(), "abc");
        assert_eq!(take(b"abcd", 3).await, Err(BodyError::TooLarge { limit: 3 }));
        let unsized_body = || Pieces(vec![Bytes::from_static(b"cd"), Bytes::from_static(b"ab")]);
        assert_eq!(collect(unsized_body(), 4, deadline).await.unwrap(), "abcd");
        assert_eq!(collect(unsized_body(), 3, deadline).await, Err(BodyError::TooLarge { limit: 3 }));
        assert_eq!(collect(Never, 3, deadline).await, Err(BodyError::TooSlow { after: deadline }));
    }

    /// A body of unknown length.
    struct Pieces(Vec<Bytes>);

    impl http_body::Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop().map(|piece| Ok(Frame::data(piece))))
        }
    }

    struct Never;

    impl http_body::Body for Never {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Pending
        }
    }

    #[test]
    fn gzip_bomb_is_stopped_at_the_limit() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&vec![0; 1 << 20]).unwrap();
        let bomb = encoder.finish().unwrap();
        assert_eq!(gunzip(&bomb, 1 << 20).unwrap().len(), 1 << 20);
        assert_eq!(gunzip(&bomb, 1000), Err(BodyError::TooLarge { limit: 1000 }));
        assert!(matches!(gunzip(b"no gzip", 1000), Err(BodyError::Broken(_))));
        assert!(matches!(gunzip(&bomb[..bomb.len() - 4], 1 << 21), Err(BodyError::Broken(_))));
    }
}
