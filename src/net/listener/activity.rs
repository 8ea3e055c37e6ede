//! Tracks which side of a connection has to act: the client (next request, request body) or the server. It measures no time.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

pub(super) fn milliseconds(epoch: Instant, now: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(epoch).as_millis()).unwrap_or(u64::MAX - 1)
}

/// State shared by the socket and the service of one connection. Both run in one task, so relaxed ordering suffices.
#[derive(Debug, Default)]
pub(crate) struct ConnectionActivity {
    /// A request head was read since the socket last checked.
    asked: AtomicBool,
    /// The rest of a request body is pending.
    body: AtomicBool,
    /// Start of the idle time, in milliseconds since the epoch of the
    /// [`ConnectionLimit`](super::connection_limit::ConnectionLimit), plus one. 0 while a request is in progress.
    idle_from: AtomicU64,
    /// Multiplexed, as in HTTP/2: several requests may run at once, and incoming bytes need not start a request.
    pub(super) framed: bool,
    /// The number of requests in progress, if multiplexed.
    asking: AtomicUsize,
    /// The number of those whose response waits for the client to read.
    sending: AtomicUsize,
    /// Incremented for each response body frame.
    progress: AtomicU64,
}

impl ConnectionActivity {
    pub(crate) fn multiplexed() -> Self {
        Self { framed: true, ..Self::default() }
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.asking.load(Ordering::Relaxed) > 0
    }

    /// Returns the progress counter if every request waits for the client to read; `None` if the server has to act or none runs.
    pub(crate) fn client_progress(&self) -> Option<u64> {
        let (asking, sending) = (self.asking.load(Ordering::Relaxed), self.sending.load(Ordering::Relaxed));
        (asking > 0 && asking == sending).then(|| self.progress.load(Ordering::Relaxed))
    }

    /// Counts a request of a multiplexed connection until the guard is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> StreamGuard {
        self.asking.fetch_add(1, Ordering::Relaxed);
        StreamGuard { activity: Arc::clone(self), sends: false }
    }

    /// Records that a request head was read, and whether a body follows.
    pub(crate) fn ask(self: &Arc<Self>, body: Incoming) -> RequestBody {
        self.asked.store(true, Ordering::Relaxed);
        self.idle_from.store(0, Ordering::Relaxed);
        let activity = (!http_body::Body::is_end_stream(&body)).then(|| {
            self.body.store(true, Ordering::Relaxed);
            Arc::clone(self)
        });
        RequestBody { body, activity }
    }

    /// Checks whether a head was read since the last call.
    pub(crate) fn was_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed) && self.asked.swap(false, Ordering::Relaxed)
    }

    pub(crate) fn awaits_body(&self) -> bool {
        self.body.load(Ordering::Relaxed)
    }

    /// Records the start of the idle time, or `None` while a request is in progress.
    pub(crate) fn idle(&self, since: Option<u64>) {
        self.idle_from.store(since.map_or(0, |since| since + 1), Ordering::Relaxed);
    }

    /// Checks whether the connection has been idle for `long` milliseconds at `now`.
    pub(crate) fn idles(&self, now: u64, long: u64) -> bool {
        let since = self.idle_from.load(Ordering::Relaxed).checked_sub(1);
        since.is_some_and(|since| now.saturating_sub(since) >= long)
    }
}

/// One of several requests in progress on a connection.
pub(crate) struct StreamGuard {
    activity: Arc<ConnectionActivity>,
    sends: bool,
}

impl StreamGuard {
    /// Wraps the response body. From here on the client has to read.
    pub(crate) fn send<B>(mut self, body: B) -> TrackedBody<B> {
        self.sends = true;
        self.activity.sending.fetch_add(1, Ordering::Relaxed);
        TrackedBody { body, underway: self }
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.activity.asking.fetch_sub(1, Ordering::Relaxed);
        if self.sends {
            self.activity.sending.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

pub(crate) struct TrackedBody<B> {
    body: B,
    underway: StreamGuard,
}

impl<B: http_body::Body + Unpin> http_body::Body for TrackedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.underway.activity.progress.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An incoming request body. If it is dropped early, the rest is not awaited.
pub struct RequestBody {
    body: Incoming,
    activity: Option<Arc<ConnectionActivity>>,
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
        if let Some(activity) = &self.activity {
            activity.body.store(false, Ordering::Relaxed);
        }
    }
}
