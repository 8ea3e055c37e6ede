//! Copies bytes between two sockets in both directions. An idle tunnel holds no buffer, except behind TLS.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;
use tokio::time::{Instant, sleep_until, timeout};

use crate::net::client::outbound_proxy::{TunnelIo, TunnelStream};
use crate::net::listener::activity::{ConnectionActivity, milliseconds};
use crate::net::listener::connection_limit::{ConnectionLimits, ConnectionPermit, ConnectionSignal};

const PIECE: usize = 16 << 10;

/// How long a silent tunnel may stay open during shutdown.
const FAREWELL: Duration = Duration::from_secs(1);

/// The time of the last copied bytes, shared by both directions.
struct TunnelActivity<'a> {
    activity: &'a ConnectionActivity,
    epoch: Instant,
    /// Milliseconds since the epoch.
    last: AtomicU64,
}

impl TunnelActivity<'_> {
    fn note(&self) {
        let now = milliseconds(self.epoch, Instant::now());
        self.last.store(now, Ordering::Relaxed);
        self.activity.idle(Some(now));
    }

    /// Completes when no bytes were copied for `idle_timeout`.
    async fn idle(&self, idle_timeout: Duration) {
        loop {
            let due = self.epoch + Duration::from_millis(self.last.load(Ordering::Relaxed)) + idle_timeout;
            if Instant::now() >= due {
                return;
            }
            sleep_until(due).await;
        }
    }
}

/// Copies bytes both ways, `early` first. Ends when both sides close, one fails, both are silent for
/// [`ConnectionLimits::idle_timeout`], or another connection needs the permit. Returns the bytes sent to `other` and the bytes
/// received from it.
pub(crate) async fn run_tunnel(
    mut client: TcpStream,
    early: Bytes,
    other: TunnelStream,
    limits: &ConnectionLimits,
    permit: &mut ConnectionPermit,
) -> (u64, u64) {
    let activity = ConnectionActivity::default();
    let moved = TunnelActivity { activity: &activity, epoch: permit.epoch, last: AtomicU64::new(0) };
    moved.note();
    let (up, down) = (AtomicU64::new(0), AtomicU64::new(0));
    let direction = |early, count| TunnelDirection { early, moved: &moved, idle_timeout: limits.send_timeout, count };
    let (mut upward, mut downward) = (direction(early, &up), direction(other.early, &down));
    let pass = async {
        let (from_client, to_client) = client.split();
        match other.stream {
            TunnelIo::Plain(mut stream) => {
                let (from_other, to_other) = stream.split();
                tokio::try_join!(upward.pass(from_client, to_other), downward.pass(from_other, to_client)).map(drop)
            }
            TunnelIo::Secured(stream) => {
                let (from_other, to_other) = tokio::io::split(stream);
                tokio::try_join!(upward.pass(from_client, to_other), downward.pass(from_other, to_client)).map(drop)
            }
        }
    };
    let orders = async {
        loop {
            match permit.next_order().await {
                ConnectionSignal::Close => return moved.idle(FAREWELL).await,
                ConnectionSignal::MakeWay if permit.should_close(&activity) => return,
                ConnectionSignal::MakeWay | ConnectionSignal::Stay => {}
            }
        }
    };
    tokio::select! {
        // A failed direction ends both.
        _ = pass => {}
        () = moved.idle(limits.idle_timeout) => {}
        () = orders => {}
    }
    (up.load(Ordering::Relaxed), down.load(Ordering::Relaxed))
}

struct TunnelDirection<'a> {
    early: Bytes,
    moved: &'a TunnelActivity<'a>,
    idle_timeout: Duration,
    count: &'a AtomicU64,
}

impl TunnelDirection<'_> {
    /// Copies bytes until the source ends, then shuts down the destination.
    async fn pass(&mut self, mut from: impl TunnelSource, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
        let early = std::mem::take(&mut self.early);
        self.write(&mut to, &early).await?;
        drop(early);
        let mut buffer = Vec::new();
        loop {
            if from.fill(&mut buffer).await? == 0 {
                return to.shutdown().await;
            }
            self.moved.note();
            self.write(&mut to, &buffer).await?;
            self.moved.note();
        }
    }

    async fn write(&self, to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
        let sent = async {
            to.write_all(bytes).await?;
            // TLS may have buffered some bytes.
            to.flush().await
        };
        timeout(self.idle_timeout, sent).await.map_err(|_| io::ErrorKind::TimedOut)??;
        self.count.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

trait TunnelSource {
    /// Waits for bytes and replaces the content of the buffer. Returns 0 at the end.
    fn fill(&mut self, buffer: &mut Vec<u8>) -> impl Future<Output = io::Result<usize>> + Send;
}

impl TunnelSource for ReadHalf<'_> {
    async fn fill(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        loop {
            buffer.clear();
            // Allocated only while there are bytes to copy.
            buffer.reserve(PIECE);
            match self.try_read_buf(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => *buffer = Vec::new(),
                ended => return ended,
            }
            self.readable().await?;
        }
    }
}

/// Keeps its buffer, since the TLS stream keeps buffers too.
impl<S: AsyncRead + Send> TunnelSource for tokio::io::ReadHalf<S> {
    async fn fill(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        buffer.clear();
        buffer.reserve(PIECE);
        self.read_buf(buffer).await
    }
}
