//! Bytes between two sockets, as they come. Refuses to look at them. A pair of sockets that is silent holds no buffer.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::{Instant, sleep_until, timeout};

use super::listener::Limits;
use super::room::{Guest, Order};
use super::turn::Turn;

/// What is read at once, in bytes.
const PIECE: usize = 16 << 10;

/// How long a pair that is silent may go on once everybody is asked to leave.
const FAREWELL: Duration = Duration::from_secs(1);

/// What both directions note: when bytes last moved.
struct Moved<'a> {
    turn: &'a Turn,
    epoch: Instant,
    /// Milliseconds since the epoch.
    last: AtomicU64,
}

impl Moved<'_> {
    fn note(&self) {
        let now = u64::try_from(Instant::now().saturating_duration_since(self.epoch).as_millis()).unwrap_or(u64::MAX - 1);
        self.last.store(now, Ordering::Relaxed);
        self.turn.idle(Some(now));
    }

    fn last(&self) -> Instant {
        self.epoch + Duration::from_millis(self.last.load(Ordering::Relaxed))
    }

    /// Ends when nothing has moved for `patience`.
    async fn silence(&self, patience: Duration) {
        loop {
            let due = self.last() + patience;
            if Instant::now() >= due {
                return;
            }
            sleep_until(due).await;
        }
    }
}

/// Passes bytes both ways, `early` first, until both have ended, one breaks, both are silent for
/// [`Limits::idle_timeout`], or somebody needs their place; returns how many went to `other` and how many came back.
pub(super) async fn relay(
    mut client: TcpStream,
    early: Bytes,
    mut other: TcpStream,
    limits: &Limits,
    guest: &mut Guest,
) -> (u64, u64) {
    let turn = Turn::default();
    let moved = Moved { turn: &turn, epoch: guest.epoch(), last: AtomicU64::new(0) };
    moved.note();
    let (up, down) = (AtomicU64::new(0), AtomicU64::new(0));
    let (from_client, to_client) = client.split();
    let (from_other, mut to_other) = other.split();
    let upward = async {
        write(&mut to_other, &early, limits.send_timeout, &up).await?;
        drop(early);
        pump(from_client, to_other, limits.send_timeout, &moved, &up).await
    };
    let downward = pump(from_other, to_client, limits.send_timeout, &moved, &down);
    let orders = async {
        loop {
            match guest.next_order().await {
                Order::Close => return moved.silence(FAREWELL).await,
                Order::MakeWay if guest.makes_way(&turn) => return,
                Order::MakeWay | Order::Stay => {}
            }
        }
    };
    tokio::select! {
        // A direction that breaks ends both.
        _ = async { tokio::try_join!(upward, downward) } => {}
        () = moved.silence(limits.idle_timeout) => {}
        () = orders => {}
    }
    (up.load(Ordering::Relaxed), down.load(Ordering::Relaxed))
}

/// Passes bytes one way until they end, then says so.
async fn pump(
    from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    patience: Duration,
    moved: &Moved<'_>,
    count: &AtomicU64,
) -> io::Result<()> {
    loop {
        from.readable().await?;
        // Only while there is something to pass.
        let mut buffer = Vec::with_capacity(PIECE);
        loop {
            buffer.clear();
            match from.try_read_buf(&mut buffer) {
                Ok(0) => return to.shutdown().await,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
            moved.note();
            write(&mut to, &buffer, patience, count).await?;
            moved.note();
        }
    }
}

async fn write(to: &mut WriteHalf<'_>, bytes: &[u8], patience: Duration, count: &AtomicU64) -> io::Result<()> {
    timeout(patience, to.write_all(bytes)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    count.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    Ok(())
}
