//! Connections through the outbound proxy, which is the parent of this proxy. Access checks are done by the caller.

use bytes::Bytes;
use http::{HeaderValue, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::net::address::AddressScope;
use crate::net::client::connector::{ByteStream, ClientConfig, Connector, open_tunnel};
use crate::net::client::error::{ClientError, ConnectStage};
use crate::net::client::proxy_settings::ProxyAddress;

/// The outbound proxies of all connections, if there are any.
#[derive(Debug, Clone, Default)]
pub struct OutboundProxy(Option<Connector>);

pub struct ProxiedTarget<'a> {
    connector: &'a Connector,
    proxy: ProxyAddress,
    target: Uri,
}

/// The far end of a tunnel.
pub struct TunnelStream {
    pub(crate) stream: TunnelIo,
    /// Bytes received before the first request.
    pub(crate) early: Bytes,
}

pub(crate) enum TunnelIo {
    Plain(TcpStream),
    /// TLS to the proxy itself.
    Secured(Box<dyn ByteStream>),
}

/// A connection to a proxy for requests in absolute form.
pub struct ProxyConnection {
    pub(crate) stream: Box<dyn ByteStream>,
    pub authorization: Option<HeaderValue>,
}

impl From<TcpStream> for TunnelStream {
    fn from(stream: TcpStream) -> Self {
        Self { stream: TunnelIo::Plain(stream), early: Bytes::new() }
    }
}

impl ProxyConnection {
    /// Returns the connection for use with hyper.
    pub fn into_io(self) -> impl hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static {
        TokioIo::new(self.stream)
    }
}

impl OutboundProxy {
    pub fn new(settings: &ClientConfig) -> Self {
        let connector = || Connector { reach: AddressScope::Anywhere, settings: settings.clone() };
        Self((!settings.proxies.is_none()).then(connector))
    }

    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// Returns the proxy for `host`, a name or an address without brackets. Returns `None` for a direct connection.
    pub fn for_target(&self, host: &str, port: u16) -> Option<ProxiedTarget<'_>> {
        let connector = self.0.as_ref()?;
        let scheme = if port == 80 { "http" } else { "https" };
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let target: Uri = format!("{scheme}://{host}:{port}/").parse().ok()?;
        let proxy = connector.settings.proxies.of(&target)?;
        Some(ProxiedTarget { connector, proxy, target })
    }
}

impl ProxiedTarget<'_> {
    pub async fn tunnel(&self) -> Result<TunnelStream, ClientError> {
        let open = async {
            if self.proxy.uri.scheme_str() == Some("https") {
                let (stream, early) = self.ask(self.connector.connect_proxy(&self.proxy).await?).await?;
                return Ok(TunnelStream { stream: TunnelIo::Secured(stream), early });
            }
            let (stream, early) = self.ask(self.connector.reach_plain_proxy(&self.proxy).await?).await?;
            Ok(TunnelStream { stream: TunnelIo::Plain(stream), early })
        };
        self.in_time(open).await
    }

    /// Opens a connection for plain HTTP requests in absolute form.
    pub async fn connect_plain(self) -> Result<ProxyConnection, ClientError> {
        let stream = self.in_time(self.connector.connect_proxy(&self.proxy)).await?;
        Ok(ProxyConnection { stream, authorization: self.proxy.authorization })
    }

    /// Sends CONNECT. Returns the stream and the bytes read beyond the response.
    async fn ask<S: ByteStream + 'static>(&self, stream: S) -> Result<(S, Bytes), ClientError> {
        let upgraded = open_tunnel(stream, &self.target, &self.proxy, &self.connector.settings.user_agent).await?;
        // The type is that of the stream passed in.
        let parts = upgraded.downcast::<TokioIo<S>>().map_err(|_| ClientError::broken("unexpected connection type"))?;
        Ok((parts.io.into_inner(), parts.read_buf))
    }

    async fn in_time<T>(&self, step: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
        let patience = self.connector.settings.deadlines.connect;
        timeout(patience, step).await.unwrap_or_else(|_| Err(ClientError::too_slow(ConnectStage::Proxy, patience)))
    }
}
