//! Bodies: what goes out, in shared pieces of known length or as another server sends it; what comes in, bounded in bytes and
//! time. Refuses to know what is in them.

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

/// The most bytes handed to the socket at once, so that what was sent is known and a mapped file is read as it goes.
const STRETCH: usize = 512 * 1024;

/// From this length on, a body that comes in gets the memory for all that it says it is, so that it is not copied again and again.
/// Before that, its word alone costs nothing.
const SELF_GROWN: u64 = 1 << 20;

/// A body to send.
pub struct Body {
    rest: Remaining,
    sent: u64,
    ending: Option<OnComplete>,
}

/// Called once with the bytes sent, when a body was sent or given up.
type OnComplete = Box<dyn FnOnce(u64) + Send>;

/// What is still to be sent.
enum Remaining {
    Ours(ChunkedBuf),
    Passing(ForwardedBody),
}

/// A body that comes from another server as it goes out; silence of it is bounded.
struct ForwardedBody {
    incoming: Incoming,
    patience: Duration,
    silence: Pin<Box<Sleep>>,
}

impl ForwardedBody {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        loop {
            match Pin::new(&mut self.incoming).poll_frame(context) {
                Poll::Pending => {
                    ready!(self.silence.as_mut().poll(context));
                    return Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())));
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(io::Error::other(error)))),
                Poll::Ready(Some(Ok(frame))) => {
                    self.silence.as_mut().reset(Instant::now() + self.patience);
                    // Trailers are not passed on.
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
            }
        }
    }
}

impl Body {
    /// No bytes.
    #[must_use]
    pub fn empty() -> Self {
        Self::from(Bytes::new())
    }

    /// Pieces that others hold too.
    #[must_use]
    pub fn shared(chunks: Arc<[Bytes]>) -> Self {
        Self::from(ChunkedBuf::of(chunks))
    }

    /// What comes from another server, which may be silent for `patience` at a time. Its length may be unknown.
    #[must_use]
    pub fn passing(incoming: Incoming, patience: Duration) -> Self {
        let silence = Box::pin(sleep(patience));
        Self { rest: Remaining::Passing(ForwardedBody { incoming, patience, silence }), sent: 0, ending: None }
    }

    /// Has `ending` called with the bytes sent, when the last one left or the client did.
    #[must_use]
    pub fn on_end(mut self, ending: impl FnOnce(u64) + Send + 'static) -> Self {
        self.ending = Some(Box::new(ending));
        self
    }

    /// Bytes still to be sent; zero where that is not known.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.size_hint().exact().unwrap_or(0)
    }

    /// Whether nothing is to be sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::from(ChunkedBuf::from(bytes))
    }
}

impl From<ChunkedBuf> for Body {
    fn from(stretch: ChunkedBuf) -> Self {
        Self { rest: Remaining::Ours(stretch), sent: 0, ending: None }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Body").field("left", &self.len()).field("sent", &self.sent).finish_non_exhaustive()
    }
}

impl http_body::Body for Body {
    type Data = ChunkedBuf;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<ChunkedBuf>>>> {
        let stretch = match &mut self.rest {
            Remaining::Passing(passing) => ready!(passing.poll(context)).transpose()?.map(ChunkedBuf::from),
            Remaining::Ours(rest) => rest.has_remaining().then(|| rest.split_to(STRETCH)),
        };
        let Some(stretch) = stretch else { return Poll::Ready(None) };
        self.sent += stretch.remaining() as u64;
        Poll::Ready(Some(Ok(Frame::data(stretch))))
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

/// Why a body that came in was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// More bytes than are taken.
    #[error("the body is larger than {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// It did not arrive in time.
    #[error("the body did not arrive within {} s", after.as_secs())]
    TooSlow {
        /// The deadline that passed.
        after: Duration,
    },
    /// It broke off, or its framing or coding is wrong.
    #[error("the body is broken: {0}")]
    Broken(String),
    /// Other bodies took the memory there is for them.
    #[error("no memory came free for the body within {} s: try again", .0.after.as_secs())]
    NoRoom(#[from] BudgetTimeout),
}

/// Reads a whole body of at most `limit` bytes within `deadline`.
///
/// # Errors
/// When it is larger, slower, or breaks off.
pub async fn collect<B>(body: B, limit: u64, deadline: Duration) -> Result<Bytes, BodyError>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: fmt::Display,
{
    let reading = tokio::time::timeout(deadline, read_all(body, limit, None));
    reading.await.map_err(|_| BodyError::TooSlow { after: deadline })?
}

/// Like [`collect`]; what comes counts against `share`, and waits in its socket where that may not grow.
///
/// # Errors
/// As [`collect`], and [`BodyError::NoRoom`] when it waited for too long.
pub async fn collect_into<B>(body: B, limit: u64, deadline: Duration, share: &mut Reservation) -> Result<Bytes, BodyError>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: fmt::Display,
{
    let reading = tokio::time::timeout(deadline, read_all(body, limit, Some(share)));
    reading.await.map_err(|_| BodyError::TooSlow { after: deadline })?
}

async fn read_all<B>(body: B, limit: u64, mut share: Option<&mut Reservation>) -> Result<Bytes, BodyError>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: fmt::Display,
{
    let mut body = pin!(body);
    if body.size_hint().lower() > limit {
        return Err(BodyError::TooLarge { limit });
    }
    let stated = body.size_hint().exact();
    // The first piece is often all. Others are copied: a piece of one byte would hold more than thirty.
    let (mut first, mut whole) = (None::<Bytes>, BytesMut::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| BodyError::Broken(error.to_string()))?;
        let Ok(piece) = frame.into_data() else { continue };
        let length = first.as_ref().map_or(whole.len(), Bytes::len) as u64 + piece.len() as u64;
        if length > limit {
            return Err(BodyError::TooLarge { limit });
        }
        let reserved = stated.filter(|_| length > SELF_GROWN);
        if let Some(share) = share.as_deref_mut() {
            // Twice, for what grows is copied.
            share.grow_to(if reserved.is_some() { length } else { 2 * length }).await?;
        }
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

/// Inflates gzip, all its members, to at most `limit` bytes. Takes processor time: not for an async thread.
///
/// # Errors
/// When it is larger inflated, or no gzip.
pub fn gunzip(bytes: &[u8], limit: u64) -> Result<Bytes, BodyError> {
    let mut inflated = Vec::new();
    gunzip_into(bytes, limit, &mut inflated)?;
    Ok(inflated.into())
}

/// Like [`gunzip`], into room that can be used again, in place of what was there.
///
/// # Errors
/// As [`gunzip`].
pub fn gunzip_into(bytes: &[u8], limit: u64, inflated: &mut Vec<u8>) -> Result<(), BodyError> {
    inflated.clear();
    inflated.reserve(told_length(bytes).min(usize::try_from(limit).unwrap_or(usize::MAX)));
    let mut bounded = flate2::bufread::MultiGzDecoder::new(bytes).take(limit.saturating_add(1));
    bounded.read_to_end(inflated).map_err(|error| BodyError::Broken(error.to_string()))?;
    if inflated.len() as u64 > limit {
        return Err(BodyError::TooLarge { limit });
    }
    Ok(())
}

/// Returns the length of gzip when it is inflated, without keeping what it inflates to. Blocks.
///
/// # Errors
/// If it is not gzip, or longer than `limit` bytes.
pub fn gunzipped_length(bytes: &[u8], limit: u64) -> Result<u64, BodyError> {
    let mut bounded = flate2::bufread::MultiGzDecoder::new(bytes).take(limit.saturating_add(1));
    let length = std::io::copy(&mut bounded, &mut std::io::sink()).map_err(|error| BodyError::Broken(error.to_string()))?;
    if length > limit { Err(BodyError::TooLarge { limit }) } else { Ok(length) }
}

/// How long gzip says that it is inflated, and a byte more to find its end in; as far as that can be believed.
#[must_use]
pub fn told_length(bytes: &[u8]) -> usize {
    /// Packuments shrink to a thirtieth at most; what claims more may grow as it comes.
    const BELIEVED: usize = 32;
    let told = bytes.last_chunk::<4>().map_or(0, |told| u32::from_le_bytes(*told) as usize);
    told.min(bytes.len().saturating_mul(BELIEVED)) + 1
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::atomic::{AtomicU64, Ordering};

    use http_body::Body as _;
    use http_body_util::Full;

    use std::convert::Infallible;

    use super::*;

    #[tokio::test]
    async fn shared_pieces_go_out_whole_and_their_length_is_known() {
        let large = Bytes::from(vec![7; STRETCH + 1]);
        let chunks: Arc<[Bytes]> = Arc::new([Bytes::from_static(b"ab"), Bytes::new(), large.clone()]);
        let sent = Arc::new(AtomicU64::new(0));
        let seen = sent.clone();
        let body = Body::shared(chunks).on_end(move |bytes| seen.store(bytes, Ordering::SeqCst));
        assert_eq!(body.size_hint().exact(), Some(STRETCH as u64 + 3));
        let whole = body.collect().await.unwrap().to_bytes();
        assert_eq!(whole, [&b"ab"[..], &large].concat());
        assert_eq!(sent.load(Ordering::SeqCst), STRETCH as u64 + 3);
    }

    #[tokio::test]
    async fn a_body_given_up_tells_what_was_sent() {
        let sent = Arc::new(AtomicU64::new(99));
        let seen = sent.clone();
        let mut body = Body::from(Bytes::from(vec![0; 2 * STRETCH])).on_end(move |bytes| seen.store(bytes, Ordering::SeqCst));
        body.frame().await.unwrap().unwrap();
        assert_eq!(body.len(), STRETCH as u64);
        drop(body);
        assert_eq!(sent.load(Ordering::SeqCst), STRETCH as u64);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_comes_in_has_a_limit_and_a_deadline() {
        let deadline = Duration::from_secs(5);
        let take = |bytes: &'static [u8], limit| collect(Full::new(Bytes::from_static(bytes)), limit, deadline);
        assert_eq!(take(b"abc", 3).await.unwrap(), "abc");
        assert_eq!(take(b"abcd", 3).await, Err(BodyError::TooLarge { limit: 3 }));
        let unsized_body = || Pieces(vec![Bytes::from_static(b"cd"), Bytes::from_static(b"ab")]);
        assert_eq!(collect(unsized_body(), 4, deadline).await.unwrap(), "abcd");
        assert_eq!(collect(unsized_body(), 3, deadline).await, Err(BodyError::TooLarge { limit: 3 }));
        assert_eq!(collect(Never, 3, deadline).await, Err(BodyError::TooSlow { after: deadline }));
    }

    /// A body that does not know its length.
    struct Pieces(Vec<Bytes>);

    impl http_body::Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop().map(|piece| Ok(Frame::data(piece))))
        }
    }

    /// A body that never comes.
    struct Never;

    impl http_body::Body for Never {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Pending
        }
    }

    #[test]
    fn a_bomb_is_stopped_at_the_limit() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&vec![0; 1 << 20]).unwrap();
        let bomb = encoder.finish().unwrap();
        assert_eq!(gunzip(&bomb, 1 << 20).unwrap().len(), 1 << 20);
        assert_eq!(gunzip(&bomb, 1000), Err(BodyError::TooLarge { limit: 1000 }));
        assert!(matches!(gunzip(b"no gzip", 1000), Err(BodyError::Broken(_))));
        assert!(matches!(gunzip(&bomb[..bomb.len() - 4], 1 << 21), Err(BodyError::Broken(_))));
    }
}
