//! An answer's body as it comes: bounded silence, bounded size, and an end that is known to be the end. Refuses to know
//! what is in it.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::net::client::deadlines::Deadlines;
use crate::net::client::error::ClientError;
use crate::net::memory_budget::Reservation;

/// What is reserved for a body that says how long it is, before any of it came.
const LARGEST_RESERVE: u64 = 1 << 20;

/// A body on its way. Dropping it before its end closes the connection.
#[derive(Debug)]
pub struct BodyStream {
    incoming: Incoming,
    /// Bytes that were waited for before the headers were handed out.
    ready: Option<Bytes>,
    length: Option<u64>,
    deadlines: Deadlines,
    begun: Instant,
    /// How long we have waited, and for how many bytes, since the pace was last checked.
    waited: Duration,
    brought: u64,
}

impl BodyStream {
    /// Wraps a body and waits for its first bytes: a connection that is lost before them can be tried again.
    pub(crate) async fn begin(incoming: Incoming, deadlines: Deadlines) -> Result<Self, ClientError> {
        let length = incoming.size_hint().exact();
        let mut stream =
            Self { incoming, ready: None, length, deadlines, begun: Instant::now(), waited: Duration::ZERO, brought: 0 };
        stream.ready = stream.next().await?;
        Ok(stream)
    }

    /// How many bytes the body has, if the headers say so.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// The next bytes, `None` at a clean end.
    ///
    /// # Errors
    /// When the connection is lost, stays silent, drips or goes on for too long, or the body is shorter than its headers said.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        if let Some(ready) = self.ready.take() {
            return Ok(Some(ready));
        }
        loop {
            let asked = Instant::now();
            let (idle, whole) = (asked + self.deadlines.idle, self.begun + self.deadlines.whole);
            let frame = tokio::time::timeout_at(idle.min(whole), self.incoming.frame()).await;
            let Ok(frame) = frame else {
                let after = if idle < whole { self.deadlines.idle } else { self.deadlines.whole };
                return Err(ClientError::TimedOut { after });
            };
            let Some(frame) = frame else {
                return Ok(None);
            };
            let frame = frame.map_err(|error| ClientError::of_http(&error))?;
            // Trailers say nothing that is used here.
            let Ok(data) = frame.into_data() else {
                continue;
            };
            self.check_pace(asked.elapsed(), data.len() as u64)?;
            if !data.is_empty() {
                return Ok(Some(data));
            }
        }
    }

    /// The whole body.
    ///
    /// # Errors
    /// [`ClientError::TooLarge`] as soon as it is known to be over `limit` bytes, and whatever [`BodyStream::next`] says.
    pub async fn collect(self, limit: u64) -> Result<Bytes, ClientError> {
        self.gather(limit, None).await
    }

    /// The whole body, which counts against `share` as it comes: where that may not grow, the body waits in its socket.
    ///
    /// # Errors
    /// As [`BodyStream::collect`], and [`ClientError::NoRoom`] when it waited for too long.
    pub async fn collect_into(self, limit: u64, share: &mut Reservation) -> Result<Bytes, ClientError> {
        self.gather(limit, Some(share)).await
    }

    async fn gather(mut self, limit: u64, mut share: Option<&mut Reservation>) -> Result<Bytes, ClientError> {
        if self.length.is_some_and(|length| length > limit) {
            return Err(ClientError::TooLarge { limit });
        }
        let reserve = self.length.unwrap_or(0).min(LARGEST_RESERVE);
        let mut whole = BytesMut::with_capacity(usize::try_from(reserve).unwrap_or(0));
        while let Some(bytes) = self.next().await? {
            let come = (whole.len() + bytes.len()) as u64;
            if come > limit {
                return Err(ClientError::TooLarge { limit });
            }
            if let Some(share) = share.as_deref_mut() {
                share.grow_to(come).await?;
            }
            // One that keeps its word so far is given all its room at once: room that grows is held twice while it is copied.
            if whole.capacity() - whole.len() < bytes.len() {
                let told = self.length.unwrap_or(0).saturating_sub(whole.len() as u64);
                whole.reserve(usize::try_from(told).unwrap_or(0).max(bytes.len()));
            }
            whole.extend_from_slice(&bytes);
        }
        Ok(whole.freeze())
    }

    /// Counts only the time we waited, so that a slow reader of ours is not held against the other server.
    fn check_pace(&mut self, waited: Duration, brought: u64) -> Result<(), ClientError> {
        self.waited += waited;
        self.brought += brought;
        if self.waited < self.deadlines.idle {
            return Ok(());
        }
        if self.brought < self.deadlines.least() {
            return Err(ClientError::TimedOut { after: self.deadlines.idle });
        }
        self.waited = Duration::ZERO;
        self.brought = 0;
        Ok(())
    }
}
