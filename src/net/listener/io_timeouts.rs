//! Timeouts of a server socket: idle between requests, slow heads, slow readers. The reader of a request body limits its time.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::net::client::connector::Deadlines;
use crate::net::listener::activity::{ConnectionActivity, milliseconds};
use crate::net::listener::connection_limit::ConnectionLimits;

/// Bytes written before a connection yields to other tasks.
const QUANTUM: usize = 1 << 20;

/// Wraps a socket. A timeout fails with [`io::ErrorKind::TimedOut`].
pub(crate) struct TimedStream<S> {
    pub(super) inner: S,
    limits: ConnectionLimits,
    activity: Arc<ConnectionActivity>,
    epoch: Instant,
    stage: RequestStage,
    reading: LazyTimer,
    writing: LazyTimer,
    /// Bytes written since a write had to wait.
    written: u64,
    /// Bytes written since the last yield.
    quantum: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RequestStage {
    /// No byte of it arrived.
    Between,
    Head,
}

impl<S> TimedStream<S> {
    /// Wraps `inner`. The service records its requests in `activity`.
    pub(crate) fn new(inner: S, limits: ConnectionLimits, activity: Arc<ConnectionActivity>, epoch: Instant) -> Self {
        let (reading, writing) = (LazyTimer::default(), LazyTimer::default());
        Self { inner, limits, activity, epoch, stage: RequestStage::Head, reading, writing, written: 0, quantum: 0 }
    }

    fn came(&mut self) {
        self.settle();
        if self.activity.framed {
            // Bytes need not start a request here, so only silence counts.
            self.reading.due = None;
            return;
        }
        if self.stage == RequestStage::Between && !self.activity.awaits_body() {
            self.stage = RequestStage::Head;
            self.reading.due = None;
            self.activity.idle(None);
        }
    }

    /// Handles a read without bytes. Fails at the timeout.
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.settle();
        // A client that sends a body or still reads the response is not idle.
        let between = self.stage == RequestStage::Between;
        if self.activity.is_busy() || self.activity.awaits_body() || (between && self.writing.due.is_some()) {
            self.reading.due = None;
            return Poll::Pending;
        }
        if self.reading.due.is_none() {
            let now = Instant::now();
            self.reading.due = Some(now + if between { self.limits.idle_timeout } else { self.limits.header_timeout });
            self.activity.idle(between.then(|| milliseconds(self.epoch, now)));
        }
        self.reading.poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Ends the head stage if a head was read.
    fn settle(&mut self) {
        if self.activity.was_asked() {
            self.stage = RequestStage::Between;
            self.reading.due = None;
        }
    }

    /// Checks whether to yield. A fast client can take megabytes at once while other tasks on the thread wait.
    fn yields(&mut self, context: &Context<'_>) -> bool {
        let yields = self.quantum >= QUANTUM;
        if yields {
            self.quantum = 0;
            context.waker().wake_by_ref();
        }
        yields
    }

    /// Counts written bytes. While a write waits, enforces the minimum rate.
    fn watch(&mut self, progress: Poll<io::Result<usize>>, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match &progress {
            Poll::Ready(Ok(written)) => {
                self.written = self.written.saturating_add(*written as u64);
                self.quantum = self.quantum.saturating_add(*written);
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                self.quantum = 0;
                if self.writing.due.is_none() {
                    self.begin_watch();
                }
                ready!(self.writing.poll(context));
                if self.written < self.limits.send_timeout.as_secs().saturating_mul(Deadlines::SLOWEST).max(1) {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                self.begin_watch();
                // Registers the waker with the new deadline, which cannot have passed.
                let _ = self.writing.poll(context);
            }
        }
        progress
    }

    fn begin_watch(&mut self) {
        self.written = 0;
        self.writing.due = Some(Instant::now() + self.limits.send_timeout);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TimedStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.inner).poll_read(context, buffer) {
            Poll::Pending => self.wait(context),
            ready @ Poll::Ready(_) => {
                self.came();
                ready
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TimedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.yields(context) {
            return Poll::Pending;
        }
        let progress = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.watch(progress, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A flush means that the whole response was written.
        self.writing.due = None;
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // A single buffer avoids the more expensive vectored system call.
        if let [piece] = pieces {
            return self.poll_write(context, piece);
        }
        if self.yields(context) {
            return Poll::Pending;
        }
        let progress = Pin::new(&mut self.inner).poll_write_vectored(context, pieces);
        self.watch(progress, context)
    }
}

/// A timer that is often moved and rarely fires. Moving it later costs nothing until the old deadline passes.
#[derive(Default)]
struct LazyTimer {
    due: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl LazyTimer {
    /// Returns ready and clears the timer once the deadline passed.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(due) = self.due else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if timer.deadline() > due {
            timer.as_mut().reset(due);
        }
        while timer.deadline() < due {
            ready!(timer.as_mut().poll(context));
            timer.as_mut().reset(due);
        }
        ready!(timer.as_mut().poll(context));
        self.due = None;
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    use super::*;

    fn pair(capacity: usize) -> (TimedStream<DuplexStream>, DuplexStream, Arc<ConnectionActivity>) {
        let (near, far) = tokio::io::duplex(capacity);
        let activity = Arc::new(ConnectionActivity::default());
        let limits = ConnectionLimits { send_timeout: Duration::from_secs(30), ..ConnectionLimits::default() };
        (TimedStream::new(near, limits, Arc::clone(&activity), Instant::now()), far, activity)
    }

    #[tokio::test(start_paused = true)]
    async fn stalled_reader_times_out() {
        let (mut socket, mut far, _) = pair(8);
        socket.write_all(b"12345678").await.unwrap();
        let started = Instant::now();
        assert_eq!(socket.write_all(b"9").await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed().as_secs(), 30);
        far.read_exact(&mut [0; 8]).await.unwrap();
        socket.write_all(b"9").await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn fast_reader_yields_to_other_tasks() {
        let (mut socket, _far, _) = pair(8 * QUANTUM);
        let turns = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counting = Arc::clone(&turns);
        let other = tokio::spawn(async move {
            loop {
                counting.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        });
        tokio::task::yield_now().await;
        let before = turns.load(std::sync::atomic::Ordering::Relaxed);
        for _ in 0..6 {
            socket.write_all(&vec![7; QUANTUM]).await.unwrap();
        }
        assert_eq!(turns.load(std::sync::atomic::Ordering::Relaxed) - before, 5);
        other.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn reader_below_minimum_rate_times_out_and_slow_reader_does_not() {
        for (bytes_a_second, stays) in [(Deadlines::SLOWEST / 4, false), (Deadlines::SLOWEST * 4, true)] {
            let (mut socket, mut far, _) = pair(64);
            let reader = tokio::spawn(async move {
                let mut piece = vec![0; usize::try_from(bytes_a_second).unwrap()];
                while far.read_exact(&mut piece).await.is_ok() {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            });
            let sent = socket.write_all(&vec![7; 200_000]).await;
            assert_eq!(sent.is_ok(), stays, "{bytes_a_second} bytes a second: {sent:?}");
            drop(socket);
            reader.await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn client_reading_a_response_is_not_idle() {
        let (mut socket, mut far, _) = pair(64);
        (socket.stage, socket.limits.send_timeout) = (RequestStage::Between, Duration::from_hours(1));
        let read = |socket: &mut TimedStream<DuplexStream>| {
            let mut bytes = [0; 8];
            let mut context = Context::from_waker(std::task::Waker::noop());
            Pin::new(socket).poll_read(&mut context, &mut ReadBuf::new(&mut bytes)).map(|read| read.map_err(|error| error.kind()))
        };
        assert_eq!(read(&mut socket), Poll::Pending);
        let written = tokio::time::timeout(Duration::from_secs(1), socket.write_all(&[7; 100])).await;
        assert!(written.is_err(), "the duplex holds 64 bytes");
        tokio::time::advance(ConnectionLimits::default().idle_timeout * 2).await;
        assert_eq!(read(&mut socket), Poll::Pending);
        far.read_exact(&mut [0; 64]).await.unwrap();
        socket.flush().await.unwrap();
        assert_eq!(read(&mut socket), Poll::Pending);
        tokio::time::advance(ConnectionLimits::default().idle_timeout.mul_f32(0.9)).await;
        assert_eq!(read(&mut socket), Poll::Pending);
        tokio::time::advance(ConnectionLimits::default().idle_timeout.mul_f32(0.2)).await;
        assert_eq!(read(&mut socket), Poll::Ready(Err(io::ErrorKind::TimedOut)));
    }

    #[tokio::test(start_paused = true)]
    async fn head_timeout_runs_from_first_byte() {
        let (mut socket, mut far, _) = pair(64);
        let started = Instant::now();
        let dripping = tokio::spawn(async move {
            while far.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(3)).await;
            }
        });
        let ended = socket.read_to_end(&mut Vec::new()).await.unwrap_err();
        assert_eq!((ended.kind(), started.elapsed().as_secs()), (io::ErrorKind::TimedOut, 20));
        drop(socket);
        dripping.await.unwrap();
    }
}
