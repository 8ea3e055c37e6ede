//! Whose turn it is on a connection: the client's, to ask or to send a body, or ours. Refuses to know for how long.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

/// Says that nobody waits for a client to ask.
const BUSY: u64 = u64::MAX;

/// What the socket and the service of one connection tell each other. Both run in one task, so no order is needed.
#[derive(Debug)]
pub(super) struct Turn {
    /// A head was read since the socket last looked.
    asked: AtomicBool,
    /// A request's body is still to come.
    body: AtomicBool,
    /// Since when nothing is asked, in milliseconds since the room was opened.
    idle_from: AtomicU64,
}

impl Default for Turn {
    fn default() -> Self {
        Self { asked: AtomicBool::new(false), body: AtomicBool::new(false), idle_from: AtomicU64::new(BUSY) }
    }
}

impl Turn {
    /// Notes that a head was read, and whether a body follows.
    pub(super) fn ask(self: &Arc<Self>, body: Incoming) -> Arriving {
        self.asked.store(true, Ordering::Relaxed);
        self.idle_from.store(BUSY, Ordering::Relaxed);
        let turn = (!http_body::Body::is_end_stream(&body)).then(|| {
            self.body.store(true, Ordering::Relaxed);
            Arc::clone(self)
        });
        Arriving { body, turn }
    }

    /// Whether a head was read since this was last called.
    pub(super) fn was_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed) && self.asked.swap(false, Ordering::Relaxed)
    }

    /// Whether somebody waits for a body.
    pub(super) fn awaits_body(&self) -> bool {
        self.body.load(Ordering::Relaxed)
    }

    /// Notes since when nothing is asked; `None` when something is.
    pub(super) fn idle(&self, since: Option<u64>) {
        self.idle_from.store(since.unwrap_or(BUSY), Ordering::Relaxed);
    }

    /// Whether nothing was asked for `long` before `now`, all in milliseconds.
    pub(super) fn idles(&self, now: u64, long: u64) -> bool {
        let since = self.idle_from.load(Ordering::Relaxed);
        since != BUSY && now.saturating_sub(since) >= long
    }
}

/// The body of a request as it arrives. Given up before its end, what is left of it is not waited for.
#[derive(Debug)]
pub struct Arriving {
    body: Incoming,
    turn: Option<Arc<Turn>>,
}

impl http_body::Body for Arriving {
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

impl Drop for Arriving {
    fn drop(&mut self) {
        if let Some(turn) = &self.turn {
            turn.body.store(false, Ordering::Relaxed);
        }
    }
}
