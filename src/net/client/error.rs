//! Errors of requests to other servers, by stage. The caller adds the name of the server.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::CertificateError;

use crate::net::memory_budget::BudgetTimeout;

/// Why a request to another server failed. Cheap to clone.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// `detail` is in the words of the stage. `is_transient` is set if a retry could succeed.
    #[error("{layer}: {detail}")]
    Unreachable { layer: ConnectStage, detail: Arc<str>, is_transient: bool },
    #[error("no response within {} s", after.as_secs_f32())]
    TimedOut { after: Duration },
    /// The response is not HTTP, or ended early. `lost` is set if the connection was lost, instead of carrying invalid data.
    #[error("{detail}")]
    Broken { detail: Arc<str>, lost: bool },
    #[error("body larger than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error(transparent)]
    NoRoom(#[from] BudgetTimeout),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectStage {
    Dns,
    /// Its addresses may not be dialed.
    Reach,
    Tcp,
    /// This machine has no file descriptor, port or memory left for another connection.
    Machine,
    /// The outbound proxy refused or is unreachable.
    Proxy,
    Tls,
    /// The issuer of the certificate is not trusted. Another root certificate would help.
    Trust,
}

impl fmt::Display for ConnectStage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Dns => "DNS",
            Self::Reach => "address",
            Self::Tcp => "TCP",
            Self::Machine => "this machine",
            Self::Proxy => "outbound proxy",
            Self::Tls | Self::Trust => "TLS",
        })
    }
}

impl ClientError {
    /// Returns the stage that failed, if no connection was made.
    pub fn layer(&self) -> Option<ConnectStage> {
        if let Self::Unreachable { layer, .. } = self { Some(*layer) } else { None }
    }

    /// Checks whether the server is down: unreachable, silent or disconnected. An invalid response does not count.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Unreachable { .. } => !self.is_local(),
            Self::Broken { lost, .. } => *lost,
            Self::TimedOut { .. } => true,
            Self::TooLarge { .. } | Self::NoRoom(_) => false,
        }
    }

    /// Checks whether the cause is local, so that it says nothing about the other server.
    pub fn is_local(&self) -> bool {
        matches!(self, Self::Unreachable { layer: ConnectStage::Reach | ConnectStage::Machine, .. } | Self::NoRoom(_))
    }

    /// Checks whether a retry could succeed. Timeouts are not retried, since they used up the time limit.
    pub(crate) fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { is_transient, .. } => *is_transient,
            Self::Broken { lost, .. } => *lost,
            Self::TimedOut { .. } | Self::TooLarge { .. } | Self::NoRoom(_) => false,
        }
    }

    pub(crate) fn unreachable(layer: ConnectStage, detail: impl Into<Arc<str>>) -> Self {
        let is_transient = matches!(layer, ConnectStage::Dns | ConnectStage::Tcp | ConnectStage::Machine);
        Self::Unreachable { layer, detail: detail.into(), is_transient }
    }

    pub(crate) fn too_slow(layer: ConnectStage, after: Duration) -> Self {
        let detail = format!("no connection within {} s", after.as_secs_f32());
        Self::Unreachable { layer, detail: detail.into(), is_transient: false }
    }

    pub(crate) fn broken(detail: impl Into<Arc<str>>) -> Self {
        Self::Broken { detail: detail.into(), lost: false }
    }

    pub(crate) fn lost(detail: impl Into<Arc<str>>) -> Self {
        Self::Broken { detail: detail.into(), lost: true }
    }

    /// Converts a TLS handshake error. rustls wraps its own error in an I/O error.
    pub(crate) fn of_handshake(error: &io::Error) -> Self {
        let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
            return Self::unreachable(ConnectStage::Tls, format!("connection closed during the handshake: {}", error.kind()));
        };
        let rustls::Error::InvalidCertificate(certificate) = tls else {
            return Self::unreachable(ConnectStage::Tls, tls.to_string());
        };
        let detail = match certificate {
            CertificateError::UnknownIssuer => {
                return Self::unreachable(ConnectStage::Trust, "certificate issued by an untrusted authority");
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "certificate has expired",
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "certificate is not valid yet",
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "certificate is for another name"
            }
            other => return Self::unreachable(ConnectStage::Tls, format!("invalid certificate: {other}")),
        };
        Self::unreachable(ConnectStage::Tls, detail)
    }

    /// Converts an error of the HTTP client. Returns the connector's own error if it is the cause.
    pub(crate) fn from_exchange(error: &(dyn StdError + 'static)) -> Self {
        let convert = |error: &(dyn StdError + 'static)| {
            let own = error.downcast_ref::<Self>().cloned();
            own.or_else(|| error.downcast_ref().map(Self::of_http))
        };
        let known = std::iter::successors(Some(error), |error| (**error).source()).find_map(convert);
        known.unwrap_or_else(|| Self::broken(error.to_string()))
    }

    pub(crate) fn of_http(error: &hyper::Error) -> Self {
        if error.is_parse_too_large() {
            return Self::broken("response headers are too large");
        }
        let io = error.source().and_then(|source| source.downcast_ref::<io::Error>());
        if error.is_incomplete_message() || io.is_some_and(|io| io.kind() == io::ErrorKind::UnexpectedEof) {
            return Self::lost("connection closed before the response was complete");
        }
        if error.is_canceled() || error.is_closed() {
            return Self::lost("connection closed before the request was sent");
        }
        if let Some(io) = io {
            return Self::lost(format!("connection lost: {}", io.kind()));
        }
        if error.is_parse() {
            return Self::broken(format!("not HTTP: {error}"));
        }
        Self::broken(error.to_string())
    }
}
