//! Checks the versions in lockfiles: with a standalone firewall, a remote server, or the server on the data directory.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use serde::de::DeserializeOwned;
use url::Url;

use crate::app::error::AppError;
use crate::app::remote::{RemoteServer, ask_in_parts};
use crate::app::standalone;
use crate::clock::Clock;
use crate::config::Config;
use crate::firewall::{Client, LockedVersion};
use crate::net::{AddressScope, ClientConfig, ClientRequest, Deadlines, HttpClient};
use crate::server::admin::{CheckRequest, CheckResponse, MAX_CHECKED};
use crate::server::auth::tokens;
use crate::tls;

/// The time limit of one request, which may fetch hundreds of packuments.
const CHECK_TIMEOUT: Duration = Duration::from_mins(5);

/// The maximum size of a response, in bytes.
const MAX_RESPONSE_BYTES: u64 = 16 << 20;

/// Checks locked versions at one of several targets.
pub struct Checker(CheckTarget);

enum CheckTarget {
    Here(standalone::StandaloneFirewall, Box<Client>),
    There(Arc<Distant>),
    Running(Box<RemoteServer>, usize),
}

/// A remote server.
struct Distant {
    client: HttpClient,
    server: Url,
    /// The admin token, if one is configured.
    token: Option<HeaderValue>,
}

impl Checker {
    /// Creates a checker from `config`, the data directory and upstream's current state. It writes nothing.
    ///
    /// # Errors
    /// Returns an error if upstream cannot be set up, or if an existing ledger cannot be read.
    pub fn here(config: Config, clock: Arc<dyn Clock>) -> Result<Self, AppError> {
        let local_client = Box::new(standalone::configured_client(&config));
        Ok(Self(CheckTarget::Here(standalone::firewall(config, clock)?, local_client)))
    }

    /// Creates a checker that uses the server on the data directory, with one of its policies.
    #[must_use]
    pub fn running(server: RemoteServer, profile: usize) -> Self {
        Self(CheckTarget::Running(Box::new(server), profile))
    }

    /// Creates a checker that uses the remote server at `server`. Does not connect yet.
    ///
    /// # Errors
    /// Returns an error if the certificates or admin tokens cannot be read.
    pub fn at(server: Url, config: &Config) -> Result<Self, AppError> {
        let deadlines = Deadlines { headers: CHECK_TIMEOUT, whole: CHECK_TIMEOUT, ..config.upstream.deadlines };
        let client = http_client(config, deadlines)?;
        Ok(Self(CheckTarget::There(Arc::new(Distant { client, server, token: admin_token(config)? }))))
    }

    /// Returns one outcome for each of `locked`, in the same order. A failed lookup is the outcome of its package.
    ///
    /// # Errors
    /// Returns an error if a server cannot be queried, or is not a Coldframe.
    pub async fn check(&self, locked: &[LockedVersion]) -> Result<CheckResponse, AppError> {
        match &self.0 {
            CheckTarget::Running(server, profile) => server.check(locked, *profile).await,
            CheckTarget::Here(firewall, local_client) => {
                let packages = firewall.value.check(local_client, locked).await;
                Ok(CheckResponse { packages, upstreams: firewall.value.upstreams() })
            }
            CheckTarget::There(distant) => {
                distant.check(locked).await.map_err(|detail| AppError::Server { server: distant.server.as_str().into(), detail })
            }
        }
    }
}

impl Distant {
    async fn check(self: &Arc<Self>, locked: &[LockedVersion]) -> Result<CheckResponse, String> {
        let parts = locked.chunks(MAX_CHECKED).map(<[LockedVersion]>::to_vec).collect();
        ask_in_parts(parts, |part| {
            let this = Arc::clone(self);
            async move { this.ask(part).await }
        })
        .await
    }

    async fn ask(&self, packages: Vec<LockedVersion>) -> Result<CheckResponse, String> {
        let url = admin_url(&self.server, "check");
        let body = serde_json::to_vec(&CheckRequest { packages }).map_err(|error| error.to_string())?;
        let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        headers.extend(self.token.clone().map(|token| (AUTHORIZATION, token)));
        let outgoing = ClientRequest { method: Method::POST, url, headers, body: body.into(), reach: AddressScope::Anywhere };
        let answer = self.client.send(&outgoing).await.map_err(|error| error.to_string())?;
        let (status, is_well) = (answer.status.to_string(), answer.status.is_success());
        let body = answer.body.collect(MAX_RESPONSE_BYTES).await.map_err(|error| error.to_string())?;
        parse_reply(&status, is_well, &body)
    }
}

/// Creates an HTTP client for remote servers.
pub(crate) fn http_client(config: &Config, deadlines: Deadlines) -> Result<HttpClient, AppError> {
    Ok(HttpClient::new(&ClientConfig {
        deadlines,
        proxies: config.upstream.proxies.clone(),
        tls: tls::client_config(&config.tls)?.client,
        user_agent: HeaderValue::from_static(concat!("coldframe/", env!("CARGO_PKG_VERSION"))),
    }))
}

/// Returns the header value of the first admin token in the configured file.
pub(crate) fn admin_token(config: &Config) -> Result<Option<HeaderValue>, AppError> {
    let token = config.server.admin_tokens.as_deref().map(tokens::first).transpose()?;
    let mut value = token.and_then(|token| HeaderValue::from_str(&format!("Bearer {token}")).ok());
    if let Some(value) = &mut value {
        value.set_sensitive(true);
    }
    Ok(value)
}

/// Returns the URL of an admin page at `server`.
pub(crate) fn admin_url(server: &Url, name: &str) -> Url {
    let mut url = server.clone();
    url.set_path(&format!("{}/-/coldframe/{name}", server.path().trim_end_matches('/')));
    url
}

/// Parses a response, or the error in it.
pub(crate) fn parse_reply<T: DeserializeOwned>(status: &str, is_well: bool, body: &Bytes) -> Result<T, String> {
    if !is_well {
        let reply = serde_json::from_slice::<serde_json::Value>(body).ok();
        let reply = reply.as_ref().and_then(|reply| reply["error"].as_str()).unwrap_or("no reason given");
        return Err(format!("{status}: {reply}"));
    }
    serde_json::from_slice(body).map_err(|error| format!("not a Coldframe response: {error}"))
}
