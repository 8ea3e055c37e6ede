//! One connection and its place: what is spoken on it, HTTP/1.1 or HTTP/2, or whatever it is handed over to. Refuses to accept
//! connections, and to know what is asked.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::net::body::Body;
use crate::net::client::outbound_proxy::TunnelStream;
use crate::net::listener::ConnectionLimits;
use crate::net::listener::activity::{ConnectionActivity, RequestBody};
use crate::net::listener::connection_limit::{ConnectionPermit, ConnectionSignal};
use crate::net::listener::io_timeouts::{IoTimeouts, TimedStream};
use crate::net::listener::tunnel;

/// The header lines that hyper allows by itself, and has room for on the stack; any other number costs each request an allocation.
const HYPERS_LINES: usize = 100;

/// Bytes that are read ahead, or copied to be sent together, on one HTTP/1.1 connection at most; a head may be larger.
const BUFFERED: usize = 32 * 1024;

/// Requests under way at once on one HTTP/2 connection.
const STREAMS: u32 = 100;

/// Bytes that are read at once where they are looked at before they are read: more than most first messages of TLS.
const PEEKED: usize = 4 << 10;

/// What is buffered of one HTTP/2 answer, in bytes, besides the piece that is being sent.
const STREAM_BUFFER: usize = 64 << 10;

/// Bytes of an answer that the system takes over before it can send them. A reader never waits for so many; by itself the system
/// would take megabytes for each of a thousand slow readers, and those who read in small pieces would wait for one another: with it,
/// the 99th percentile of 4.4 MB tarballs under `wrk` falls from about 1,000 ms to 120 (`just bench`).
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNSENT: u32 = 128 << 10;

/// What a connection is handed over to.
type UpgradeHandler = Box<dyn FnOnce(UpgradedConnection) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// Put into the extensions of a response to CONNECT: once that is sent, the connection is somebody else's.
#[derive(Clone)]
pub struct Upgrade(Arc<Mutex<Option<UpgradeHandler>>>);

impl Upgrade {
    /// Hands the connection over to `next`.
    #[must_use]
    pub fn to<F>(next: impl FnOnce(UpgradedConnection) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self(Arc::new(Mutex::new(Some(Box::new(move |taken| Box::pin(next(taken)))))))
    }

    fn take(&self) -> Option<UpgradeHandler> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl fmt::Debug for Upgrade {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("HandOver")
    }
}

/// A connection that was handed over, with its place.
pub struct UpgradedConnection {
    /// The connection, from the first byte behind the request.
    pub stream: PeekedStream<TcpStream>,
    /// Its place.
    pub seat: Connection,
}

impl UpgradedConnection {
    /// A connection on which nothing was said yet.
    pub(crate) fn fresh(stream: TcpStream, seat: Connection) -> Self {
        prepare(&stream);
        Self { stream: PeekedStream { inner: stream, early: Bytes::new(), allowance: None }, seat }
    }

    /// Where it was to go before the packet filter sent it here; `None` where it was to come here.
    #[must_use]
    pub fn redirected_from(&self) -> Option<SocketAddr> {
        let original = crate::net::listener::original_dst::destination(&self.stream.inner)?;
        (Some(original) != self.local()).then_some(original)
    }

    /// The port it came to; 0 where the system does not say.
    #[must_use]
    pub fn local_port(&self) -> u16 {
        self.local().map_or(0, |address| address.port())
    }

    fn local(&self) -> Option<SocketAddr> {
        let address = self.stream.inner.local_addr().ok()?;
        Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
    }

    /// Passes bytes between the client and `other` until both have ended, one breaks, or nothing comes for
    /// [`ConnectionLimits::idle_timeout`]; returns how many went to `other` and how many came back.
    pub async fn relay(self, other: TunnelStream) -> (u64, u64) {
        let Self { stream, mut seat } = self;
        tunnel::relay(stream.inner, stream.early, other, &seat.limits, &mut seat.guest).await
    }
}

impl fmt::Debug for UpgradedConnection {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Taken").field("peer", &self.seat.peer).finish_non_exhaustive()
    }
}

/// A stream some of whose first bytes were read already.
#[derive(Debug)]
pub struct PeekedStream<S> {
    inner: S,
    early: Bytes,
    /// How many bytes may still be read; `None` is any number.
    allowance: Option<usize>,
}

impl<S: AsyncRead + Unpin> PeekedStream<S> {
    /// The first byte, which stays to be read; `None` when the stream ends before it.
    ///
    /// # Errors
    /// What the stream says.
    pub async fn first(&mut self) -> io::Result<Option<u8>> {
        if self.early.is_empty() {
            let mut byte = [0];
            if self.inner.read(&mut byte).await? == 0 {
                return Ok(None);
            }
            self.early = Bytes::copy_from_slice(&byte);
        }
        Ok(self.early.first().copied())
    }

    /// Reads on, until so many bytes are held at most; all of them stay to be read. No more than before are the end of the stream,
    /// or as many as may be held.
    ///
    /// # Errors
    /// What the stream says.
    pub async fn peek(&mut self, most: usize) -> io::Result<&[u8]> {
        let mut held = self.early.to_vec();
        let before = held.len();
        held.resize(most.min(before + PEEKED).max(before), 0);
        if held.len() > before {
            let read = self.inner.read(&mut held[before..]).await?;
            held.truncate(before + read);
            self.early = held.into();
        }
        Ok(&self.early)
    }

    /// Has reading fail behind so many more bytes; `None` lifts that.
    pub fn allow(&mut self, bytes: Option<usize>) {
        self.allowance = bytes;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PeekedStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.allowance == Some(0) {
            return Poll::Ready(Err(io::ErrorKind::FileTooLarge.into()));
        }
        let before = buffer.filled().len();
        if self.early.is_empty() {
            let room = self.allowance.unwrap_or(usize::MAX).min(buffer.remaining());
            if room == buffer.remaining() {
                std::task::ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
            } else {
                let mut bytes = vec![0; room];
                let mut part = ReadBuf::new(&mut bytes);
                std::task::ready!(Pin::new(&mut self.inner).poll_read(context, &mut part))?;
                buffer.put_slice(part.filled());
            }
        } else {
            let length = self.early.len().min(buffer.remaining());
            buffer.put_slice(&self.early[..length]);
            self.early.advance(length);
        }
        let read = buffer.filled().len() - before;
        if let Some(left) = &mut self.allowance {
            *left = left.saturating_sub(read);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PeekedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
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
        // A record of TLS comes alone, and is sent as such, which costs the system less.
        if let [piece] = pieces {
            return self.poll_write(context, piece);
        }
        Pin::new(&mut self.inner).poll_write_vectored(context, pieces)
    }
}

/// A connection's place among all, its peer, and what it may cost.
#[derive(Debug)]
pub struct Connection {
    peer: SocketAddr,
    limits: ConnectionLimits,
    guest: ConnectionPermit,
}

impl Connection {
    pub(crate) fn new(peer: SocketAddr, limits: ConnectionLimits, guest: ConnectionPermit) -> Self {
        Self { peer, limits, guest }
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// What the connection may cost.
    #[must_use]
    pub fn limits(&self) -> &ConnectionLimits {
        &self.limits
    }

    /// Serves HTTP/1.1 on `stream` to its end.
    pub async fn http1<S, H, F>(&mut self, stream: S, handler: H)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
        H: Fn(SocketAddr, Request<RequestBody>) -> F + Send + Sync,
        F: Future<Output = Response<Body>> + Send,
    {
        // There is nobody left to hand it over to.
        drop(self.speak_http1(stream, handler).await);
    }

    /// Serves HTTP/2 on `stream` to its end. Time is measured as for HTTP/1.1, but of the connection: it ends when the client
    /// takes nothing of any answer for [`ConnectionLimits::send_timeout`].
    pub async fn http2<S, H, F>(&mut self, stream: S, handler: H)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        H: Fn(SocketAddr, Request<RequestBody>) -> F + Send + Sync,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let turn = Arc::new(ConnectionActivity::framed());
        let socket = TimedStream::new(stream, self.pace(), Arc::clone(&turn), self.guest.epoch());
        let (peer, limits, noted) = (self.peer, &self.limits, &turn);
        let service = service_fn(move |request: Request<Incoming>| {
            let underway = noted.begin();
            let answer = handler(peer, request.map(|body| noted.ask(body)));
            async move { Ok::<_, Infallible>(answer.await.map(|body| underway.send(body))) }
        });
        let mut http = http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
            .max_send_buf_size(STREAM_BUFFER);
        let mut connection = pin!(http.serve_connection(TokioIo::new(socket), service));
        let mut stalled = pin!(stalled(&turn, limits.send_timeout));
        let ended = loop {
            tokio::select! {
                ended = connection.as_mut() => break ended,
                () = stalled.as_mut() => return,
                order = self.guest.next_order() => if order == ConnectionSignal::Close || self.guest.makes_way(&turn) {
                    connection.as_mut().graceful_shutdown();
                    tokio::select! {
                        ended = connection.as_mut() => break ended,
                        () = stalled.as_mut() => return,
                    }
                },
            }
        };
        if let Err(error) = ended {
            tracing::debug!(client.address = %peer.ip(), error = %error, "a connection broke");
        }
    }

    /// Serves HTTP/1.1 on `stream`; returns what it was handed over to, if it was, with what was read too far.
    async fn speak_http1<S, H, F>(&mut self, stream: S, handler: H) -> Option<(UpgradeHandler, S, Bytes)>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
        H: Fn(SocketAddr, Request<RequestBody>) -> F + Send + Sync,
        F: Future<Output = Response<Body>> + Send,
    {
        let turn = Arc::new(ConnectionActivity::default());
        let socket = TimedStream::new(stream, self.pace(), Arc::clone(&turn), self.guest.epoch());
        let handed = Arc::new(Mutex::new(None));
        let (peer, limits) = (self.peer, &self.limits);
        let service = service_fn(|request: Request<Incoming>| {
            let (answer, handed) = (handler(peer, request.map(|body| turn.ask(body))), Arc::clone(&handed));
            async move {
                let mut response = answer.await;
                if let Some(over) = response.extensions_mut().remove::<Upgrade>() {
                    *handed.lock().unwrap_or_else(PoisonError::into_inner) = over.take();
                }
                Ok::<_, Infallible>(response)
            }
        });
        // The socket measures time.
        let mut builder = http1::Builder::new();
        builder.header_read_timeout(None).max_header_size(limits.head_bytes).half_close(true);
        builder.max_buf_size(limits.head_bytes.max(BUFFERED));
        if limits.head_lines != HYPERS_LINES {
            builder.max_headers(limits.head_lines);
        }
        let mut connection = builder.serve_connection(TokioIo::new(socket), service);
        let ended = loop {
            tokio::select! {
                ended = &mut connection => break ended,
                order = self.guest.next_order() => if order == ConnectionSignal::Close || self.guest.makes_way(&turn) {
                    Pin::new(&mut connection).graceful_shutdown();
                    break (&mut connection).await;
                },
            }
        };
        if let Err(error) = ended {
            tracing::debug!(client.address = %peer.ip(), error = %error, "a connection broke");
            return None;
        }
        let next = handed.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let parts = connection.into_parts();
        Some((next, parts.io.into_inner().into_inner(), parts.read_buf))
    }

    fn pace(&self) -> IoTimeouts {
        let ConnectionLimits { idle_timeout: idle, head_timeout: head, send_timeout: write, .. } = self.limits;
        IoTimeouts { idle, head, write }
    }
}

/// Serves one accepted connection to its end, and whatever it is handed over to.
pub(crate) async fn converse<H, F>(stream: TcpStream, mut seat: Connection, handler: H)
where
    H: Fn(SocketAddr, Request<RequestBody>) -> F + Send + Sync,
    F: Future<Output = Response<Body>> + Send,
{
    prepare(&stream);
    // Boxed, so that a connection that was handed over does not go on holding the room this took.
    let spoken = Box::pin(seat.speak_http1(stream, handler)).await;
    if let Some((next, inner, early)) = spoken {
        next(UpgradedConnection { stream: PeekedStream { inner, early, allowance: None }, seat }).await;
    }
}

/// Sets what an accepted socket is to do. Where one of it cannot be had, it is only slower.
fn prepare(stream: &TcpStream) {
    // An answer's last packet must not wait for an acknowledgement.
    let _ = stream.set_nodelay(true);
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = socket2::SockRef::from(stream).set_tcp_notsent_lowat(UNSENT);
}

/// Ends when, from one look to the next, clients had to move and did not.
async fn stalled(turn: &ConnectionActivity, patience: Duration) {
    let mut before = None;
    loop {
        // Never resolves: only the time passes.
        let _ = timeout(patience, std::future::pending::<()>()).await;
        let now = turn.awaited();
        if now.is_some() && now == before {
            return;
        }
        before = now;
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[tokio::test]
    async fn the_system_takes_over_little_of_an_answer_before_it_can_be_sent() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        prepare(&stream);
        assert_eq!(socket2::SockRef::from(&stream).tcp_notsent_lowat().unwrap(), UNSENT);
    }
}
