//! The doorstep of `/-/coldframe/`: who may ask what there. Refuses to know the pages themselves; `admin` has them.

use std::fmt::Display;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Response};

use super::asker::Askers;
use super::{Config, ProxyError};
use crate::firewall::Asker;
use crate::net::body;

/// A request below `/-/coldframe/`.
pub struct OwnRequest {
    /// The method.
    pub method: Method,
    /// The decoded path below it.
    pub page: String,
    /// Everything behind the `?`.
    pub query: Option<String>,
    /// Who asks, if their questions about packages are answered.
    pub visitor: Option<Asker>,
    /// What they sent; empty where they may not ask.
    pub body: Bytes,
}

/// Answers `/-/coldframe/…`.
pub type Own = Arc<dyn Fn(OwnRequest) -> Pin<Box<dyn Future<Output = Response<Bytes>> + Send>> + Send + Sync>;

/// Takes a request for `page`. Whatever it calls us, a probe is let through; a body is read only from those who may ask.
pub(super) async fn take<B>(
    askers: &Askers,
    config: &Config,
    peer: IpAddr,
    head: Parts,
    page: String,
    body: B,
) -> Result<OwnRequest, ProxyError>
where
    B: http_body::Body<Data = Bytes> + Send,
    B::Error: Display,
{
    let visitor = askers.visitor(peer, &head, config.explains_to_all);
    let body = if head.method == Method::POST && visitor.is_some() {
        body::collect(body, config.body_limit, config.body_timeout).await?
    } else {
        Bytes::new()
    };
    let query = head.uri.query().map(str::to_owned);
    Ok(OwnRequest { method: head.method, page, query, visitor, body })
}
