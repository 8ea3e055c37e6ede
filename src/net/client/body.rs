//! Response bodies with limits on silence, size and duration. A body that ends early is an error.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::net::client::connector::Deadlines;
use crate::net::client::error::ClientError;
use crate::net::memory_budget::Reservation;

/// The largest buffer reserved from a declared length before any bytes arrive.
const MAX_RESERVED_BYTES: u64 = 1 << 20;

/// A response body that is being received. Dropping it early closes the connection.
#[derive(Debug)]
pub struct BodyStream {
    incoming: Incoming,
    /// The first bytes, received before the headers were returned.
    ready: Option<Bytes>,
    pub(crate) length: Option<u64>,
    deadlines: Deadlines,
    begun: Instant,
    /// Time waited and bytes received since the rate was last checked.
    waited: Duration,
    received: u64,
}

impl BodyStream {
    /// Wraps a body and waits for its first bytes. A connection lost before them can be retried.
    pub(crate) async fn start(incoming: Incoming, deadlines: Deadlines) -> Result<Self, ClientError> {
        let length = incoming.size_hint().exact();
        let mut stream =
            Self { incoming, ready: None, length, deadlines, begun: Instant::now(), waited: Duration::ZERO, received: 0 };
        stream.ready = stream.next().await?;
        Ok(stream)
    }

    /// Returns the next bytes, or `None` at a complete end.
    /// Returns an error if the connection is lost, silent, too slow or open too long, or if the body is shorter than declared.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        if let Some(ready) = self.ready.take() {
            return Ok(Some(ready));
        }
        loop {
            let started = Instant::now();
            let (idle, whole) = (started + self.deadlines.idle, self.begun + self.deadlines.whole);
            let frame = tokio::time::timeout_at(idle.min(whole), self.incoming.frame()).await;
            let Ok(frame) = frame else {
                let after = if idle < whole { self.deadlines.idle } else { self.deadlines.whole };
                return Err(ClientError::TimedOut { after });
            };
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|error| ClientError::of_http(&error))?;
            // Trailers are ignored.
            let Ok(data) = frame.into_data() else { continue };
            self.check_rate(started.elapsed(), data.len() as u64)?;
            if !data.is_empty() {
                return Ok(Some(data));
            }
        }
    }

    /// Reads the whole body, and counts it against `share` if given. If the reservation cannot grow, the rest waits in the socket.
    /// Returns [`ClientError::TooLarge`] once the body exceeds `limit` bytes, [`ClientError::NoRoom`] if it waited too long for
    /// memory, and the errors of [`BodyStream::next`].
    pub async fn collect(mut self, limit: u64, mut share: Option<&mut Reservation>) -> Result<Bytes, ClientError> {
        if self.length.is_some_and(|length| length > limit) {
            return Err(ClientError::TooLarge { limit });
        }
        let reserve = self.length.unwrap_or(0).min(MAX_RESERVED_BYTES);
        let mut whole = BytesMut::with_capacity(usize::try_from(reserve).unwrap_or(0));
        while let Some(bytes) = self.next().await? {
            let length = (whole.len() + bytes.len()) as u64;
            if length > limit {
                return Err(ClientError::TooLarge { limit });
            }
            if let Some(share) = share.as_deref_mut() {
                share.grow_to(length).await?;
            }
            // Beyond the first megabyte, reserves the declared length at once. Growing step by step would hold both copies.
            if whole.capacity() - whole.len() < bytes.len() {
                let declared = self.length.unwrap_or(0).saturating_sub(whole.len() as u64);
                whole.reserve(usize::try_from(declared).unwrap_or(0).max(bytes.len()));
            }
            whole.extend_from_slice(&bytes);
        }
        Ok(whole.freeze())
    }

    /// Counts only the time spent waiting, so that a slow local reader is not attributed to the other server.
    fn check_rate(&mut self, waited: Duration, received: u64) -> Result<(), ClientError> {
        self.waited += waited;
        self.received += received;
        if self.waited < self.deadlines.idle {
            return Ok(());
        }
        if self.received < self.deadlines.least() {
            return Err(ClientError::TimedOut { after: self.deadlines.idle });
        }
        self.waited = Duration::ZERO;
        self.received = 0;
        Ok(())
    }
}
