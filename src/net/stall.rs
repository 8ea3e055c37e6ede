//! A socket whose reader must go on reading: a write that makes no progress for too long fails. Refuses to limit reading.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::time::{Instant, Sleep, sleep};

/// Wraps a socket; writes that are stuck for longer than a limit fail with [`io::ErrorKind::TimedOut`].
pub(super) struct Stalling<S> {
    inner: S,
    limit: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    stuck: bool,
}

impl<S> Stalling<S> {
    /// Wraps `inner`.
    pub(super) fn new(inner: S, limit: Duration) -> Self {
        Self { inner, limit, timer: None, stuck: false }
    }

    /// Passes progress on; while there is none, lets the clock run.
    fn watch<T>(&mut self, progress: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            self.stuck = false;
            return progress;
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(self.limit)));
        if !self.stuck {
            timer.as_mut().reset(Instant::now() + self.limit);
            self.stuck = true;
        }
        timer.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: Read + Unpin> Read for Stalling<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<S: Write + Unpin> Write for Stalling<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.watch(progress, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let progress = Pin::new(&mut self.inner).poll_flush(context);
        self.watch(progress, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let progress = Pin::new(&mut self.inner).poll_shutdown(context);
        self.watch(progress, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.inner).poll_write_vectored(context, pieces);
        self.watch(progress, context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use hyper_util::rt::TokioIo;
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_stops_reading_is_left() {
        let (near, mut far) = tokio::io::duplex(8);
        let mut socket = Stalling::new(TokioIo::new(near), Duration::from_secs(30));
        let mut write = async |bytes: &[u8]| poll_fn(|context| Pin::new(&mut socket).poll_write(context, bytes)).await;
        assert_eq!(write(b"12345678").await.unwrap(), 8);
        let started = Instant::now();
        assert_eq!(write(b"9").await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed().as_secs(), 30);
        far.read_exact(&mut [0; 8]).await.unwrap();
        assert_eq!(write(b"9").await.unwrap(), 1);
    }
}
