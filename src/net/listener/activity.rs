//! Whose turn it is on a connection: the client's, to ask or to send a body, or ours. Refuses to know for how long.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

/// Says that nobody waits for a client to ask.
const BUSY: u64 = u64::MAX;

/// What the socket and the service of one connection tell each other. Both run in one task, so no order is needed.
#[derive(Debug)]
pub(crate) struct ConnectionActivity {
    /// A head was read since the socket last looked.
    asked: AtomicBool,
    /// A request's body is still to come.
    body: AtomicBool,
    /// Since when nothing is asked, in milliseconds since the room was opened.
    idle_from: AtomicU64,
    /// Several requests may be under way at once, and what comes need not begin one.
    framed: bool,
    /// How many requests are under way, where that is counted.
    asking: AtomicUsize,
    /// How many of them wait for the client to take their answer.
    sending: AtomicUsize,
    /// Moves with each piece of a body, either way.
    progress: AtomicU64,
}

impl Default for ConnectionActivity {
    fn default() -> Self {
        Self {
            asked: AtomicBool::new(false),
            body: AtomicBool::new(false),
            idle_from: AtomicU64::new(BUSY),
            framed: false,
            asking: AtomicUsize::new(0),
            sending: AtomicUsize::new(0),
            progress: AtomicU64::new(0),
        }
    }
}

impl ConnectionActivity {
    /// Of a connection that carries several requests at once, as HTTP/2 does.
    pub(crate) fn framed() -> Self {
        Self { framed: true, ..Self::default() }
    }

    /// Whether it carries several requests at once.
    pub(crate) fn is_framed(&self) -> bool {
        self.framed
    }

    /// Whether requests are under way that are counted.
    pub(crate) fn is_busy(&self) -> bool {
        self.asking.load(Ordering::Relaxed) > 0
    }

    /// How far bodies have come, if clients have to move for anything to go on; `None` while we are to move, or nothing is
    /// under way.
    pub(crate) fn awaited(&self) -> Option<u64> {
        let (asking, sending) = (self.asking.load(Ordering::Relaxed), self.sending.load(Ordering::Relaxed));
        (asking > 0 && asking == sending).then(|| self.progress.load(Ordering::Relaxed))
    }

    /// Notes that one of several requests is under way, until what is returned is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> StreamGuard {
        self.asking.fetch_add(1, Ordering::Relaxed);
        StreamGuard { turn: Arc::clone(self), sends: false }
    }

    /// Notes that a head was read, and whether a body follows.
    pub(crate) fn ask(self: &Arc<Self>, body: Incoming) -> RequestBody {
        self.asked.store(true, Ordering::Relaxed);
        self.idle_from.store(BUSY, Ordering::Relaxed);
        let turn = (!http_body::Body::is_end_stream(&body)).then(|| {
            self.body.store(true, Ordering::Relaxed);
            Arc::clone(self)
        });
        RequestBody { body, turn }
    }

    /// Whether a head was read since this was last called.
    pub(crate) fn was_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed) && self.asked.swap(false, Ordering::Relaxed)
    }

    /// Whether somebody waits for a body.
    pub(crate) fn awaits_body(&self) -> bool {
        self.body.load(Ordering::Relaxed)
    }

    /// Notes since when nothing is asked; `None` when something is.
    pub(crate) fn idle(&self, since: Option<u64>) {
        self.idle_from.store(since.unwrap_or(BUSY), Ordering::Relaxed);
    }

    /// Whether nothing was asked for `long` before `now`, all in milliseconds.
    pub(crate) fn idles(&self, now: u64, long: u64) -> bool {
        let since = self.idle_from.load(Ordering::Relaxed);
        since != BUSY && now.saturating_sub(since) >= long
    }
}

/// One of several requests that are under way on a connection.
#[derive(Debug)]
pub(crate) struct StreamGuard {
    turn: Arc<ConnectionActivity>,
    sends: bool,
}

impl StreamGuard {
    /// From here on the client has to take its answer.
    pub(crate) fn send<B>(mut self, body: B) -> TrackedBody<B> {
        self.sends = true;
        self.turn.sending.fetch_add(1, Ordering::Relaxed);
        TrackedBody { body, underway: self }
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.turn.asking.fetch_sub(1, Ordering::Relaxed);
        if self.sends {
            self.turn.sending.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A body of which it is noted how far it has come.
#[derive(Debug)]
pub(crate) struct TrackedBody<B> {
    body: B,
    underway: StreamGuard,
}

impl<B: http_body::Body + Unpin> http_body::Body for TrackedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.underway.turn.progress.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of a request as it arrives. Given up before its end, what is left of it is not waited for.
#[derive(Debug)]
pub struct RequestBody {
    body: Incoming,
    turn: Option<Arc<ConnectionActivity>>,
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Some(turn) = &self.turn {
            turn.body.store(false, Ordering::Relaxed);
        }
    }
}
