//! Errors of upstream requests.

use std::sync::Arc;
use std::time::Duration;

use crate::net::{BudgetTimeout, ClientError, ConnectStage};

/// An error of an upstream request. Cheap to clone, because all waiters of a shared fetch receive it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum UpstreamError {
    /// No connection. `detail` names the layer (DNS, TCP or TLS) and its error.
    #[error("cannot reach upstream `{host}`: {detail}")]
    Unreachable { host: Arc<str>, detail: Arc<str> },
    #[error("upstream `{host}` did not answer within {} s", after.as_secs())]
    TimedOut { host: Arc<str>, after: Duration },
    /// The circuit is open after too many failures. Nothing was sent; the next attempt is after `wait`.
    #[error("upstream `{host}` is down ({why}); next attempt in {} s", wait.as_secs() + 1)]
    CircuitOpen { host: Arc<str>, why: Arc<str>, wait: Duration },
    /// The response is invalid, for example cut off or of another length than stated.
    #[error("upstream `{host}` sent an invalid response: {detail}")]
    Broken { host: Arc<str>, detail: Arc<str> },
    #[error("upstream `{host}` sent more than {limit} bytes")]
    TooLarge { host: Arc<str>, limit: u64 },
    /// The memory for documents was in use by others until the deadline. Not a fault of upstream.
    #[error("cannot reserve memory for a large packument within {} s; increase `packument-memory`", after.as_secs())]
    BudgetTimeout { after: Duration },
    /// The object does not exist (404, 410).
    #[error("not found upstream")]
    NotFound,
    /// 404 or 410 without JSON. Probably a page of a proxy, which does not prove that the package is missing.
    #[error("upstream `{host}` answered {status} without JSON, probably from a proxy")]
    MissingPage { host: Arc<str>, status: u16 },
    /// 401 or 403: upstream requires other credentials. Its message is one line of ASCII, bounded.
    #[error("upstream `{host}` refused with {status}: {message}")]
    Denied { host: Arc<str>, status: u16, message: Arc<str> },
    /// Any other error status: 429, 5xx, or an unexpected 4xx.
    #[error("upstream `{host}` answered {status}")]
    Status { host: Arc<str>, status: u16, retry_after: Option<Arc<str>> },
    /// `to` is the target host, or the text of `Location` if it is not a URL. `detail` names the setting that allows it.
    #[error("upstream `{host}` redirects to `{to}`, which is not allowed: {detail}")]
    Redirected { host: Arc<str>, to: Arc<str>, detail: Arc<str> },
    /// The registry's credentials could not be obtained. Nothing was sent: what it shows without them proves nothing.
    #[error("upstream `{host}` was not asked: {why}")]
    NoCredentials { host: Arc<str>, why: Arc<str> },
    #[error("tarball host is neither upstream nor allowed by `--tarball-host`: `{to}`")]
    TarballHost { to: Arc<str> },
}

impl UpstreamError {
    /// Converts an error of the HTTP client to one that names the host.
    pub(crate) fn from_client(host: &Arc<str>, error: &ClientError) -> Self {
        let host = Arc::clone(host);
        match error {
            ClientError::Unreachable { layer, .. } => {
                let hint = match layer {
                    ConnectStage::Trust => "; add it with `--upstream-ca FILE`",
                    ConnectStage::Reach => "; name the host without `*` to allow a private address",
                    ConnectStage::Dns | ConnectStage::Tcp | ConnectStage::Machine | ConnectStage::Proxy | ConnectStage::Tls => "",
                };
                Self::Unreachable { host, detail: format!("{error}{hint}").into() }
            }
            ClientError::TimedOut { after } => Self::TimedOut { host, after: *after },
            ClientError::Broken { detail, .. } => Self::Broken { host, detail: Arc::clone(detail) },
            ClientError::TooLarge { limit } => Self::TooLarge { host, limit: *limit },
            ClientError::NoRoom(BudgetTimeout { after }) => Self::BudgetTimeout { after: *after },
        }
    }
}
