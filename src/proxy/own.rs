//! The doorstep of `/-/coldframe/`: who may ask what there. Refuses to know the pages themselves; `admin` has them.

use std::borrow::Cow;
use std::fmt::Display;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::header::{ACCEPT, USER_AGENT};
use http::request::Parts;
use http::{Method, Response};

use super::asker::Askers;
use super::token::Tokens;
use super::{Config, ProxyError};
use crate::firewall::Asker;
use crate::net::body;
use crate::net::headers::list;
use crate::upstream::Authorization;

/// The pages that probes ask for, who bring nothing that would tell them apart.
const FOR_ALL: [&str; 2] = ["healthz", "readyz"];

/// The pages that `explain-to` may open to everybody.
const EXPLAINING: [&str; 3] = ["check", "explain", "client-config"];

/// A request below `/-/coldframe/`.
#[derive(Default)]
pub struct OwnRequest {
    /// The method.
    pub method: Method,
    /// The decoded path below it.
    pub page: String,
    /// Everything behind the `?`.
    pub query: Option<String>,
    /// The media types that the client takes.
    pub accept: Option<String>,
    /// What the client calls itself.
    pub agent: String,
    /// Who asks; `None` where everybody may.
    pub visitor: Option<Asker>,
    /// What they sent; empty where everybody may ask.
    pub body: Bytes,
}

/// Answers `/-/coldframe/…`.
pub type Own = Arc<dyn Fn(OwnRequest) -> Pin<Box<dyn Future<Output = Response<Bytes>> + Send>> + Send + Sync>;

/// Who may ask what.
#[derive(Debug)]
pub(super) struct Doorstep {
    tokens: ArcSwapOption<Tokens>,
}

/// A request for one of our own pages, before anybody was looked at.
pub(super) struct Knock<B> {
    pub(super) peer: IpAddr,
    pub(super) head: Parts,
    pub(super) page: String,
    pub(super) body: B,
    /// It came to an address that is reached from this machine alone.
    pub(super) at_home: bool,
}

impl Doorstep {
    /// A doorstep where operators are known by `tokens`.
    pub(super) fn new(tokens: Option<Tokens>) -> Self {
        Self { tokens: ArcSwapOption::new(tokens.map(Arc::new)) }
    }

    /// Knows operators by other tokens from now on.
    pub(super) fn renew(&self, tokens: Option<Tokens>) {
        self.tokens.store(tokens.map(Arc::new));
    }

    /// Takes a request. Whatever it calls us, a probe is let through; a body is read only from those who may ask.
    ///
    /// # Errors
    /// [`ProxyError::NotAnOperator`] and [`ProxyError::NoOperators`]; when the body is not taken.
    pub(super) async fn take<B>(&self, askers: &Askers, config: &Config, knock: Knock<B>) -> Result<OwnRequest, ProxyError>
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: Display,
    {
        let Knock { peer, head, page, body, at_home } = knock;
        let query = head.uri.query().map(str::to_owned);
        if FOR_ALL.contains(&page.as_str()) {
            return Ok(OwnRequest { method: head.method, page, query, ..OwnRequest::default() });
        }
        let everybody = config.explains_to_all && page.split('/').next().is_some_and(|first| EXPLAINING.contains(&first));
        let visitor = match self.operator(askers, peer, &head).await {
            Ok(operator) => operator,
            Err(stranger) => askers.visitor(peer, &head, everybody).filter(|_| at_home || everybody).ok_or(stranger)?,
        };
        let body = if head.method == Method::POST {
            body::collect(body, config.body_limit, config.body_timeout).await?
        } else {
            Bytes::new()
        };
        let agent = head.headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default().to_owned();
        let accept = list(&head.headers, &ACCEPT).map(Cow::into_owned);
        Ok(OwnRequest { method: head.method, page, query, accept, agent, visitor: Some(visitor), body })
    }

    /// Who asks, if they bring a token of an operator's.
    async fn operator(&self, askers: &Askers, peer: IpAddr, head: &Parts) -> Result<Asker, ProxyError> {
        let tokens = self.tokens.load_full().ok_or(ProxyError::NoOperators)?;
        if !tokens.admit(&head.headers).await {
            return Err(ProxyError::NotAnOperator);
        }
        let asker = askers.resolve(peer, head).map_err(ProxyError::Headers)?;
        // The token is ours, and nobody upstream shall see it; whoever brings it has authenticated to us.
        Ok(Asker { authorization: Authorization::Lent, ..asker })
    }
}
