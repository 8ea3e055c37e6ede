//! Client connections: direct or through an outbound proxy, plain or TLS, with one deadline for all steps.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Uri, header};
use http_body_util::Empty;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::upgrade::Upgraded;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use crate::net::address::AddressScope;
use crate::net::client::dial;
use crate::net::client::error::{ClientError, ConnectStage};
use crate::net::client::proxy_settings::{ProxyAddress, ProxySettings};
use crate::net::headers::via;

const TUNNEL_HEADERS: usize = 16 << 10;

#[derive(Debug, Clone)]
pub(crate) struct Connector {
    pub(crate) reach: AddressScope,
    pub(crate) settings: ClientConfig,
}

#[derive(Debug, Clone)]
pub struct ClientConfig {
    pub deadlines: Deadlines,
    pub proxies: ProxySettings,
    /// The TLS config, with ALPN `http/1.1` only.
    pub tls: Arc<rustls::ClientConfig>,
    /// Sent with every request that has no `User-Agent`.
    pub user_agent: HeaderValue,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// For name lookup, TCP, proxy tunnel and TLS together.
    pub connect: Duration,
    /// From sending the request on an open connection to the end of the response headers.
    pub headers: Duration,
    /// The longest silence within a body, and the window over which it must average [`Deadlines::SLOWEST`].
    pub idle: Duration,
    /// For a whole body at any rate.
    pub whole: Duration,
}

impl Deadlines {
    /// The minimum rate of a body in bytes per second, averaged over [`Deadlines::idle`].
    pub const SLOWEST: u64 = 512;

    /// Returns the minimum number of bytes per [`Deadlines::idle`].
    pub(crate) fn least(&self) -> u64 {
        u64::try_from(self.idle.as_millis()).unwrap_or(u64::MAX).saturating_mul(Self::SLOWEST) / 1_000
    }
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            headers: Duration::from_secs(30),
            idle: Duration::from_secs(30),
            whole: Duration::from_secs(15 * 60),
        }
    }
}

#[cfg(test)]
impl Deadlines {
    /// Returns short deadlines for tests of timeouts. Other tests use the defaults, so that a busy machine does not fail them.
    pub(crate) fn impatient() -> Self {
        let moment = Duration::from_millis(150);
        Self { connect: moment, headers: moment, idle: moment, whole: moment * 4 }
    }
}

pub(crate) struct ClientConnection {
    io: TokioIo<Box<dyn ByteStream>>,
    /// Whether requests are sent to a proxy in absolute form.
    proxied: bool,
}

pub(crate) trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> ByteStream for T {}

impl tower_service::Service<Uri> for Connector {
    type Response = ClientConnection;
    type Error = ClientError;
    type Future = Pin<Box<dyn Future<Output = Result<ClientConnection, ClientError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.connect(&target).await })
    }
}

impl Connector {
    async fn connect(&self, target: &Uri) -> Result<ClientConnection, ClientError> {
        let until = Instant::now() + self.settings.deadlines.connect;
        let UriTarget { host, port, secure } = UriTarget::of(target)?;
        let Some(proxy) = self.settings.proxies.of(target) else {
            let plain = self.within_deadline(until, ConnectStage::Tcp, dial::dial(host, port, self.reach)).await?;
            let stream: Box<dyn ByteStream> = if secure {
                self.within_deadline(until, ConnectStage::Tls, self.handshake(host, Box::new(plain))).await?
            } else {
                Box::new(plain)
            };
            return Ok(ClientConnection { io: TokioIo::new(stream), proxied: false });
        };
        self.within_deadline(until, ConnectStage::Dns, dial::check_proxied(host, port, self.reach)).await?;
        let stream = self.within_deadline(until, ConnectStage::Proxy, self.connect_proxy(&proxy)).await?;
        if !secure {
            return Ok(ClientConnection { io: TokioIo::new(stream), proxied: true });
        }
        let tunnel = open_tunnel(stream, target, &proxy, &self.settings.user_agent);
        // The next byte belongs to the TLS handshake.
        let tunnel = TokioIo::new(self.within_deadline(until, ConnectStage::Proxy, tunnel).await?);
        let stream = self.within_deadline(until, ConnectStage::Tls, self.handshake(host, Box::new(tunnel))).await?;
        Ok(ClientConnection { io: TokioIo::new(stream), proxied: false })
    }

    /// Limits `step` to the deadline shared by all steps. The error names the stage.
    async fn within_deadline<T>(
        &self,
        until: Instant,
        layer: ConnectStage,
        step: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        let too_slow = |_| Err(ClientError::too_slow(layer, self.settings.deadlines.connect));
        tokio::time::timeout_at(until, step).await.unwrap_or_else(too_slow)
    }

    async fn handshake(&self, host: &str, plain: Box<dyn ByteStream>) -> Result<Box<dyn ByteStream>, ClientError> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| ClientError::unreachable(ConnectStage::Tls, "host is not a valid certificate name"))?;
        let stream = TlsConnector::from(Arc::clone(&self.settings.tls)).connect(name, plain).await;
        Ok(Box::new(stream.map_err(|error| ClientError::of_handshake(&error))?))
    }

    pub(crate) async fn connect_proxy(&self, proxy: &ProxyAddress) -> Result<Box<dyn ByteStream>, ClientError> {
        let plain = self.reach_plain_proxy(proxy).await?;
        let UriTarget { host, secure, .. } = UriTarget::of(&proxy.uri)?;
        if !secure {
            return Ok(Box::new(plain));
        }
        self.handshake(host, Box::new(plain)).await.map_err(|error| at_proxy(&error))
    }

    /// Opens a connection to a proxy without sending bytes.
    pub(crate) async fn reach_plain_proxy(&self, proxy: &ProxyAddress) -> Result<TcpStream, ClientError> {
        let UriTarget { host, port, .. } = UriTarget::of(&proxy.uri)?;
        // The operator chose the proxy, so it may have a private address.
        dial::dial(host, port, AddressScope::Anywhere).await.map_err(|error| at_proxy(&error))
    }
}

/// Opens a tunnel to `target` through the proxy at the other end of `stream`.
pub(crate) async fn open_tunnel<S: ByteStream + 'static>(
    stream: S,
    target: &Uri,
    proxy: &ProxyAddress,
    user_agent: &HeaderValue,
) -> Result<Upgraded, ClientError> {
    let authority = format!("{}:{}", target.host().unwrap_or_default(), UriTarget::of(target)?.port);
    let mut request = Request::builder().method(Method::CONNECT).uri(&authority).header(header::HOST, &authority);
    // If the proxy is this process, it detects the loop by `Via`.
    request = request.header(header::USER_AGENT, user_agent).header(header::VIA, via());
    if let Some(authorization) = &proxy.authorization {
        request = request.header(header::PROXY_AUTHORIZATION, authorization);
    }
    let request =
        request.body(Empty::<Bytes>::new()).map_err(|error| ClientError::unreachable(ConnectStage::Proxy, error.to_string()))?;
    let lost = |error: hyper::Error| at_proxy(&ClientError::of_http(&error));
    let mut http = hyper::client::conn::http1::Builder::new();
    let (mut sender, connection) = http.max_buf_size(TUNNEL_HEADERS).handshake(TokioIo::new(stream)).await.map_err(lost)?;
    tokio::spawn(connection.with_upgrades());
    let answer = sender.send_request(request).await.map_err(lost)?;
    let status = answer.status();
    if status == http::StatusCode::PROXY_AUTHENTICATION_REQUIRED {
        return Err(ClientError::unreachable(ConnectStage::Proxy, "credentials not accepted (407)"));
    }
    if !status.is_success() {
        return Err(ClientError::unreachable(ConnectStage::Proxy, format!("CONNECT refused: {status}")));
    }
    hyper::upgrade::on(answer).await.map_err(lost)
}

struct UriTarget<'a> {
    /// Without IPv6 brackets.
    host: &'a str,
    port: u16,
    secure: bool,
}

impl<'a> UriTarget<'a> {
    fn of(uri: &'a Uri) -> Result<Self, ClientError> {
        let secure = uri.scheme_str() == Some("https");
        let host = uri.host().ok_or_else(|| ClientError::broken("URL has no host"))?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        Ok(Self { host, port: uri.port_u16().unwrap_or(if secure { 443 } else { 80 }), secure })
    }
}

fn at_proxy(error: &ClientError) -> ClientError {
    ClientError::Unreachable { layer: ConnectStage::Proxy, detail: error.to_string().into(), is_transient: error.is_retryable() }
}

impl Connection for ClientConnection {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.proxied)
    }
}

impl Read for ClientConnection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl Write for ClientConnection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, bytes)
    }
}
