//! Why an exchange with another server failed, told by layer. Refuses to know which server it was: the caller does.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::CertificateError;

use crate::net::memory_budget::BudgetTimeout;

/// What the other server, or the way to it, did not do. Cheap to clone.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// There is no connection.
    #[error("{layer}: {detail}")]
    Unreachable {
        /// Where it ended.
        layer: ConnectStage,
        /// Why, in that layer's words.
        detail: Arc<str>,
        /// Whether another attempt could end differently.
        passing: bool,
    },
    /// The headers or the next bytes of the body did not come in time.
    #[error("no answer within {} s", after.as_secs_f32())]
    TimedOut {
        /// The deadline that passed.
        after: Duration,
    },
    /// What came is not HTTP, or ended before it was complete.
    #[error("{detail}")]
    Broken {
        /// What is wrong with it.
        detail: Arc<str>,
        /// Whether the connection was lost, rather than something wrong said over it.
        lost: bool,
    },
    /// The body is larger than the caller takes.
    #[error("more than {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// There is no memory to take the body into.
    #[error(transparent)]
    NoRoom(#[from] BudgetTimeout),
}

/// A layer between us and the other server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectStage {
    /// The name has no address.
    Dns,
    /// Its addresses may not be dialled.
    Reach,
    /// No connection.
    Tcp,
    /// This machine has no file, port or memory left for another connection.
    Machine,
    /// The outbound proxy refused, or could not be reached.
    Proxy,
    /// No handshake, or a certificate that is not valid.
    Tls,
    /// A certificate whose issuer is not trusted: one more root would help.
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
    /// The layer that failed, when there is no connection.
    #[must_use]
    pub fn layer(&self) -> Option<ConnectStage> {
        match self {
            Self::Unreachable { layer, .. } => Some(*layer),
            _ => None,
        }
    }

    /// Whether this is no answer at all: nothing listens, nothing comes, or the connection went. Not what was answered wrongly.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Unreachable { .. } => !self.is_ours(),
            Self::Broken { lost, .. } => *lost,
            Self::TimedOut { .. } => true,
            Self::TooLarge { .. } | Self::NoRoom(_) => false,
        }
    }

    /// Whether it says nothing of the other server, which was not asked.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::Unreachable { layer: ConnectStage::Reach | ConnectStage::Machine, .. } | Self::NoRoom(_))
    }

    /// Whether another attempt could end differently. Deadlines are not tried again: they were the patience there is.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { passing, .. } => *passing,
            Self::Broken { lost, .. } => *lost,
            Self::TimedOut { .. } | Self::TooLarge { .. } | Self::NoRoom(_) => false,
        }
    }

    pub(crate) fn unreachable(layer: ConnectStage, detail: impl Into<Arc<str>>) -> Self {
        Self::Unreachable {
            layer,
            detail: detail.into(),
            passing: matches!(layer, ConnectStage::Dns | ConnectStage::Tcp | ConnectStage::Machine),
        }
    }

    pub(crate) fn too_slow(layer: ConnectStage, after: Duration) -> Self {
        let detail = format!("no connection within {} s", after.as_secs_f32());
        Self::Unreachable { layer, detail: detail.into(), passing: false }
    }

    pub(crate) fn broken(detail: impl Into<Arc<str>>) -> Self {
        Self::Broken { detail: detail.into(), lost: false }
    }

    pub(crate) fn lost(detail: impl Into<Arc<str>>) -> Self {
        Self::Broken { detail: detail.into(), lost: true }
    }

    /// What a TLS handshake said: rustls hides its own error inside an I/O error.
    pub(crate) fn of_handshake(error: &io::Error) -> Self {
        let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
            return Self::unreachable(ConnectStage::Tls, format!("the connection ended during the handshake: {}", error.kind()));
        };
        let rustls::Error::InvalidCertificate(certificate) = tls else {
            return Self::unreachable(ConnectStage::Tls, tls.to_string());
        };
        match certificate {
            CertificateError::UnknownIssuer => Self::unreachable(
                ConnectStage::Trust,
                "the certificate was issued by an authority that this machine does not trust",
            ),
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                Self::unreachable(ConnectStage::Tls, "the certificate has expired")
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Self::unreachable(ConnectStage::Tls, "the certificate is not valid yet")
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Self::unreachable(ConnectStage::Tls, "the certificate is for another name")
            }
            other => Self::unreachable(ConnectStage::Tls, format!("the certificate is not valid: {other}")),
        }
    }

    /// What hyper said while it connected, sent or waited: our own connector's error, if that is at the bottom of it.
    pub(crate) fn of_exchange(error: &(dyn StdError + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(own) = error.downcast_ref::<Self>() {
                return own.clone();
            }
            if let Some(http) = error.downcast_ref::<hyper::Error>() {
                return Self::of_http(http);
            }
            next = error.source();
        }
        Self::broken(error.to_string())
    }

    /// What hyper said of the answer.
    pub(crate) fn of_http(error: &hyper::Error) -> Self {
        if error.is_parse_too_large() {
            return Self::broken("the headers are larger than is taken");
        }
        let io = error.source().and_then(|source| source.downcast_ref::<io::Error>());
        if error.is_incomplete_message() || io.is_some_and(|io| io.kind() == io::ErrorKind::UnexpectedEof) {
            return Self::lost("the connection ended before the answer was complete");
        }
        if error.is_canceled() || error.is_closed() {
            return Self::lost("the connection ended before the request was sent");
        }
        if let Some(io) = io {
            return Self::lost(format!("the connection was lost: {}", io.kind()));
        }
        if error.is_parse() {
            return Self::broken(format!("not HTTP: {error}"));
        }
        Self::broken(error.to_string())
    }
}
