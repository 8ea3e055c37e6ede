//! Connections to others through an outbound proxy of our own: its parent, for a proxy. Refuses to know who asks for them, and
//! whether they may.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::net::client::ClientConfig;
use crate::net::client::connector::{ByteStream, Connector, open_tunnel};
use crate::net::client::dial::AddressScope;
use crate::net::client::error::{ClientError, ConnectStage};
use crate::net::client::proxy_settings::ProxyAddress;

/// Who connects for us, to whom.
#[derive(Clone)]
pub struct OutboundProxy(Option<Connector>);

/// A proxy before one place.
pub struct ProxiedTarget<'a> {
    connector: &'a Connector,
    proxy: ProxyAddress,
    target: Uri,
    port: u16,
}

/// The far end of a tunnel.
pub struct TunnelStream {
    pub(crate) stream: TunnelIo,
    /// What it said before it was asked.
    pub(crate) early: Bytes,
}

/// What leads there.
pub(crate) enum TunnelIo {
    Plain(TcpStream),
    /// The proxy itself is spoken to in TLS.
    Secured(Box<dyn ByteStream>),
}

/// A connection to a proxy that passes requests in absolute form on.
pub struct ProxyConnection {
    pub(crate) stream: Box<dyn ByteStream>,
    /// What it knows us by.
    pub authorization: Option<HeaderValue>,
}

impl From<TcpStream> for TunnelStream {
    fn from(stream: TcpStream) -> Self {
        Self { stream: TunnelIo::Plain(stream), early: Bytes::new() }
    }
}

impl ProxyConnection {
    /// The connection, as HTTP is spoken over it.
    #[must_use]
    pub fn into_io(self) -> impl hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static {
        TokioIo::new(self.stream)
    }
}

impl OutboundProxy {
    /// Nobody: everything is connected to directly.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// As `settings` name proxies, whom they trust, and how long they wait.
    #[must_use]
    pub fn new(settings: &ClientConfig) -> Self {
        let connector = || Connector {
            reach: AddressScope::Anywhere,
            proxies: settings.proxies.clone(),
            tls: Arc::clone(&settings.tls),
            user_agent: settings.user_agent.clone(),
            deadline: settings.deadlines.connect,
        };
        Self((!settings.proxies.is_none()).then(connector))
    }

    /// Whether everything is connected to directly.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// Who stands before `host`, a name or an address without brackets; `None` where it is connected to directly.
    #[must_use]
    pub fn before(&self, host: &str, port: u16) -> Option<ProxiedTarget<'_>> {
        let connector = self.0.as_ref()?;
        let scheme = if port == 80 { "http" } else { "https" };
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let target: Uri = format!("{scheme}://{host}:{port}/").parse().ok()?;
        let proxy = connector.proxies.of(&target)?;
        Some(ProxiedTarget { connector, proxy, target, port })
    }
}

impl ProxiedTarget<'_> {
    /// A tunnel to the place.
    ///
    /// # Errors
    /// When the proxy cannot be reached or refuses.
    pub async fn tunnel(&self) -> Result<TunnelStream, ClientError> {
        self.in_time(self.open()).await
    }

    /// A connection for requests in plain HTTP, in absolute form.
    ///
    /// # Errors
    /// When the proxy cannot be reached.
    pub async fn relayed(self) -> Result<ProxyConnection, ClientError> {
        let stream = self.in_time(self.connector.reach_proxy(&self.proxy)).await?;
        Ok(ProxyConnection { stream, authorization: self.proxy.authorization })
    }

    async fn open(&self) -> Result<TunnelStream, ClientError> {
        if self.proxy.uri.scheme_str() == Some("https") {
            let (stream, early) = self.ask(self.connector.reach_proxy(&self.proxy).await?).await?;
            return Ok(TunnelStream { stream: TunnelIo::Secured(stream), early });
        }
        let (stream, early) = self.ask(self.connector.reach_plain_proxy(&self.proxy).await?).await?;
        Ok(TunnelStream { stream: TunnelIo::Plain(stream), early })
    }

    /// Has the proxy connect us; what it read too far comes along.
    async fn ask<S: ByteStream + 'static>(&self, stream: S) -> Result<(S, Bytes), ClientError> {
        let upgraded = open_tunnel(stream, &self.target, self.port, &self.proxy, &self.connector.user_agent).await?;
        // It is what was handed over a moment ago.
        let parts = upgraded.downcast::<TokioIo<S>>().map_err(|_| ClientError::broken("another connection than was opened"))?;
        Ok((parts.io.into_inner(), parts.read_buf))
    }

    async fn in_time<T>(&self, step: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
        let patience = self.connector.deadline;
        timeout(patience, step).await.unwrap_or_else(|_| Err(ClientError::too_slow(ConnectStage::Proxy, patience)))
    }
}

impl std::fmt::Debug for OutboundProxy {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Parent").field("is_none", &self.is_none()).finish_non_exhaustive()
    }
}
