//! Serves one accepted connection: HTTP/1.1, HTTP/2, TLS, or the protocol it is upgraded to.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::net::body::Body;
use crate::net::client::outbound_proxy::TunnelStream;
use crate::net::listener::activity::{ConnectionActivity, RequestBody, milliseconds};
use crate::net::listener::connection_limit::{ConnectionLimits, ConnectionPermit, ConnectionSignal};
use crate::net::listener::io_timeouts::TimedStream;
use crate::net::listener::tunnel;

/// hyper's default limit on header lines, which it keeps on the stack. Any other limit costs an allocation per request.
const HYPERS_LINES: usize = 100;

/// Read and write buffer limit of an HTTP/1.1 connection, in bytes. A larger head limit raises it.
const BUFFERED: usize = 32 * 1024;

/// Concurrent requests per HTTP/2 connection.
const STREAMS: u32 = 100;

/// Bytes read at once while peeking. Larger than most TLS client hellos.
const PEEKED: usize = 4 << 10;

/// Bytes of request bodies that an HTTP/2 connection buffers at most, and each of its streams.
const CONNECTION_WINDOW: u32 = 256 << 10;
const STREAM_WINDOW: u32 = 128 << 10;

/// Send buffer per HTTP/2 stream, in bytes, without the frame being sent.
const STREAM_BUFFER: usize = 64 << 10;

/// Unsent bytes that the kernel buffers per connection. No reader waits for that many. By default the kernel buffers megabytes
/// for each of a thousand slow readers, and readers of small chunks wait for each other. With this limit, the 99th percentile of
/// 4.4 MB tarballs under `wrk` falls from about 1,000 ms to 120 ms (`just bench`).
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNSENT: u32 = 128 << 10;

type UpgradeHandler = Box<dyn FnOnce(UpgradedConnection) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// A response extension for CONNECT: after the response, the connection is passed to the handler.
#[derive(Clone)]
pub struct Upgrade(Arc<Mutex<Option<UpgradeHandler>>>);

impl Upgrade {
    pub fn to<F: Future<Output = ()> + Send + 'static>(next: impl FnOnce(UpgradedConnection) -> F + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Some(Box::new(move |connection| Box::pin(next(connection)))))))
    }
}

pub struct UpgradedConnection {
    /// The stream, from the first byte after the request.
    pub stream: PeekedStream<TcpStream>,
    pub context: Connection,
}

impl UpgradedConnection {
    /// Returns a connection from which no bytes were read yet.
    pub(crate) fn new(stream: TcpStream, context: Connection) -> Self {
        prepare(&stream);
        Self { stream: PeekedStream { inner: stream, early: Bytes::new(), allowance: None }, context }
    }

    /// Returns the original destination if a packet filter redirected the connection here.
    pub fn redirected_from(&self) -> Option<SocketAddr> {
        let original = original_destination(&self.stream.inner)?;
        (Some(original) != self.local()).then_some(original)
    }

    /// Returns the local port, or 0 if the system does not report it.
    pub fn local_port(&self) -> u16 {
        self.local().map_or(0, |address| address.port())
    }

    fn local(&self) -> Option<SocketAddr> {
        let address = self.stream.inner.local_addr().ok()?;
        Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
    }

    /// Copies bytes between the client and `other` until both ends close, one fails, or no bytes arrive for
    /// [`ConnectionLimits::idle_timeout`]. Returns the bytes sent to `other` and the bytes received from it.
    pub async fn relay(self, other: TunnelStream) -> (u64, u64) {
        let Self { stream, mut context } = self;
        tunnel::run_tunnel(stream.inner, stream.early, other, &context.limits, &mut context.permit).await
    }
}

/// A stream with some first bytes already read.
pub struct PeekedStream<S> {
    inner: S,
    early: Bytes,
    /// How many bytes may still be read before reads fail. `None` means no limit.
    pub(crate) allowance: Option<usize>,
}

impl<S: AsyncRead + Unpin> PeekedStream<S> {
    /// Returns the first byte without consuming it, or `None` if the stream ended.
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

    /// Reads more bytes without consuming them, up to `most` in total. If the length did not grow, there are no more.
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
}

impl<S: AsyncRead + Unpin> AsyncRead for PeekedStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.allowance == Some(0) {
            return Poll::Ready(Err(io::ErrorKind::FileTooLarge.into()));
        }
        let before = buffer.filled().len();
        if self.early.is_empty() {
            let capacity = self.allowance.unwrap_or(usize::MAX).min(buffer.remaining());
            if capacity == buffer.remaining() {
                ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
            } else {
                let mut bytes = vec![0; capacity];
                let mut part = ReadBuf::new(&mut bytes);
                ready!(Pin::new(&mut self.inner).poll_read(context, &mut part))?;
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
        // A single TLS record avoids the more expensive vectored system call.
        if let [piece] = pieces {
            return self.poll_write(context, piece);
        }
        Pin::new(&mut self.inner).poll_write_vectored(context, pieces)
    }
}

pub struct Connection {
    pub(crate) peer: SocketAddr,
    pub(crate) limits: ConnectionLimits,
    pub(super) permit: ConnectionPermit,
}

impl Connection {
    /// Serves HTTP/2 on `stream` until it closes. The timeouts of HTTP/1.1 apply to the connection. It ends when the client reads
    /// nothing of any response for [`ConnectionLimits::send_timeout`].
    pub async fn serve_http2<S, H, F>(&mut self, stream: S, handler: H)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        H: Fn(SocketAddr, Request<RequestBody>) -> F + Send + Sync,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let activity = Arc::new(ConnectionActivity::multiplexed());
        let (peer, limits, noted) = (self.peer, self.limits, &activity);
        let socket = TimedStream::new(stream, limits, Arc::clone(&activity), self.permit.epoch);
        let service = service_fn(move |request: Request<Incoming>| {
            let underway = noted.begin();
            let answer = handler(peer, request.map(|body| noted.ask(body)));
            async move { Ok::<_, Infallible>(answer.await.map(|body| underway.send(body))) }
        });
        let mut http = http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .initial_stream_window_size(STREAM_WINDOW)
            .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
            .max_send_buf_size(STREAM_BUFFER);
        let connection = pin!(http.serve_connection(TokioIo::new(socket), service));
        tokio::select! {
            _ = self.drive(connection, http2::Connection::graceful_shutdown, &activity) => {}
            () = stalled(&activity, limits.send_timeout) => {}
        }
    }

    /// Performs the TLS handshake on `stream` within [`ConnectionLimits::header_timeout`]. A handshake that takes long ends when the
    /// connection is closed for another one, as an idle connection would be.
    pub async fn accept_tls<S>(&mut self, stream: S, config: Arc<ServerConfig>) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        // Idle from the start, since the client has to act.
        let activity = ConnectionActivity::default();
        activity.idle(Some(milliseconds(self.permit.epoch, Instant::now())));
        let mut handshake = pin!(timeout(self.limits.header_timeout, TlsAcceptor::from(config).accept(stream)));
        loop {
            tokio::select! {
                ended = handshake.as_mut() => return ended.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
                order = self.permit.next_order() => if order == ConnectionSignal::Close || self.permit.should_close(&activity) {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                },
            }
        }
    }

    /// Serves HTTP/1.1 on `stream`. Returns the upgrade handler if there is one, with the stream and the bytes read too far. A wrapped
    /// stream does not support upgrades.
    pub async fn serve_http1<S, H, F>(&mut self, stream: S, handler: H) -> Option<(UpgradeHandler, S, Bytes)>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
        H: Fn(SocketAddr, Request<RequestBody>) -> F + Send + Sync,
        F: Future<Output = Response<Body>> + Send,
    {
        let activity = Arc::new(ConnectionActivity::default());
        let (peer, limits) = (self.peer, self.limits);
        let socket = TimedStream::new(stream, limits, Arc::clone(&activity), self.permit.epoch);
        let upgrade = Arc::new(Mutex::new(None));
        let service = service_fn(|request: Request<Incoming>| {
            let (answer, upgrade) = (handler(peer, request.map(|body| activity.ask(body))), Arc::clone(&upgrade));
            async move {
                let mut response = answer.await;
                if let Some(over) = response.extensions_mut().remove::<Upgrade>() {
                    *upgrade.lock().unwrap_or_else(PoisonError::into_inner) =
                        over.0.lock().unwrap_or_else(PoisonError::into_inner).take();
                }
                Ok::<_, Infallible>(response)
            }
        });
        // `TimedStream` enforces the timeouts.
        let mut builder = http1::Builder::new();
        builder.header_read_timeout(None).max_header_size(limits.head_bytes).half_close(true);
        builder.max_buf_size(limits.head_bytes.max(BUFFERED));
        if limits.max_headers != HYPERS_LINES {
            builder.max_headers(limits.max_headers);
        }
        let mut connection = builder.serve_connection(TokioIo::new(socket), service);
        self.drive(Pin::new(&mut connection), http1::Connection::graceful_shutdown, &activity).await?;
        let next = upgrade.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let parts = connection.into_parts();
        Some((next, parts.io.into_inner().inner, parts.read_buf))
    }

    /// Runs `connection` until it ends. If it must close, `shut_down` lets it complete its requests. Returns `None` if it fails.
    async fn drive<C: Future<Output = hyper::Result<()>>>(
        &mut self,
        mut connection: Pin<&mut C>,
        shut_down: impl FnOnce(Pin<&mut C>),
        activity: &ConnectionActivity,
    ) -> Option<()> {
        let ended = loop {
            tokio::select! {
                ended = connection.as_mut() => break ended,
                order = self.permit.next_order() => if order == ConnectionSignal::Close || self.permit.should_close(activity) {
                    shut_down(connection.as_mut());
                    break connection.await;
                },
            }
        };
        let peer = self.peer.ip();
        ended.inspect_err(|error| tracing::debug!(client.address = %peer, error = %error, "connection failed")).ok()
    }
}

/// Serves an accepted connection until it closes, including any upgrade.
pub(crate) async fn serve_connection<H, F>(stream: TcpStream, mut context: Connection, handler: H)
where
    H: Fn(SocketAddr, Request<RequestBody>) -> F + Send + Sync,
    F: Future<Output = Response<Body>> + Send,
{
    prepare(&stream);
    // Boxed, so that an upgraded connection does not keep the memory of this future.
    let upgraded = Box::pin(context.serve_http1(stream, handler)).await;
    if let Some((next, inner, early)) = upgraded {
        next(UpgradedConnection { stream: PeekedStream { inner, early, allowance: None }, context }).await;
    }
}

/// Sets socket options. Failures are ignored, since they only cost speed.
fn prepare(stream: &TcpStream) {
    // The last packet of a response must not wait for an acknowledgement.
    let _ = stream.set_nodelay(true);
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = socket2::SockRef::from(stream).set_tcp_notsent_lowat(UNSENT);
}

/// Returns the destination before a packet filter redirected the connection, else the local address; `None` if unknown.
#[cfg(target_os = "linux")]
fn original_destination(stream: &TcpStream) -> Option<SocketAddr> {
    use rustix::net::sockopt::{ip_original_dst, ipv6_original_dst};
    // A dual-stack socket may hold an IPv4 connection.
    let is_v4 = stream.local_addr().ok()?.ip().to_canonical().is_ipv4();
    if is_v4 { ip_original_dst(stream).ok().map(SocketAddr::V4) } else { ipv6_original_dst(stream).ok().map(SocketAddr::V6) }
}

/// Returns `None`: other systems report it differently, or not at all.
#[cfg(not(target_os = "linux"))]
fn original_destination(_stream: &TcpStream) -> Option<SocketAddr> {
    None
}

/// Completes when the client had to read and made no progress for `patience`.
async fn stalled(activity: &ConnectionActivity, patience: Duration) {
    let mut before = None;
    loop {
        // Never ready: only the timeout ends it.
        let _ = timeout(patience, std::future::pending::<()>()).await;
        let now = activity.client_progress();
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
    async fn kernel_send_buffer_is_limited() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        prepare(&stream);
        assert_eq!(socket2::SockRef::from(&stream).tcp_notsent_lowat().unwrap(), UNSENT);
    }
}
