//! Asks a server at another address over HTTP: its readiness, its client policy, and checks of lockfiles.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::timeout;
use url::Url;

use crate::app::error::AppError;
use crate::app::listeners::local_url;
use crate::app::operations::requests::RequestOperation;
use crate::app::outbound::{self, HttpReply};
use crate::app::remote::ask_in_parts;
use crate::config::Config;
use crate::firewall::LockedVersion;
use crate::net::{Deadlines, HttpClient, ListenAddress, ProxySettings, Scheme};
use crate::server::admin::requests::PAGE;
use crate::server::admin::{CheckRequest, CheckResponse, ClientPolicy, MAX_CHECKED};
use crate::server::auth::tokens;
use crate::text::json_error;

/// The time limit of a check, which may fetch hundreds of packuments.
const CHECK_TIMEOUT: Duration = Duration::from_mins(5);

/// The time limit of an operation on requests, which may fetch a packument and open a tarball.
const REQUEST_TIMEOUT: Duration = Duration::from_mins(1);

/// The time limit of the client policy. It is short, because a user waits at a prompt.
const POLICY_TIMEOUT: Duration = Duration::from_secs(3);

/// The total time limit of a readiness check. It is shorter than the timeouts of container runtimes.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(4);

/// The maximum sizes of responses, in bytes.
const MAX_CHECK_BYTES: u64 = 16 << 20;
const MAX_POLICY_BYTES: u64 = 1 << 20;
const MAX_HEALTH_BYTES: u64 = 1 << 16;

pub(crate) struct HttpServer {
    client: HttpClient,
    url: Url,
    token: Option<HeaderValue>,
    max_bytes: u64,
}

impl HttpServer {
    fn new(url: Url, config: &Config, limit: Duration, max_bytes: u64) -> Result<Self, AppError> {
        let deadlines = Deadlines { headers: limit, whole: limit, ..config.upstream.deadlines };
        let client = outbound::http_client(config, deadlines, config.upstream.proxies.clone())?;
        // The first token of the file.
        let token = config.server.admin_tokens.as_deref().map(tokens::first).transpose()?;
        Ok(Self { client, url, token: token.and_then(|token| bearer(&token)), max_bytes })
    }

    /// Returns a server that checks locked versions. Does not connect yet.
    pub(crate) fn for_checks(url: Url, config: &Config) -> Result<Self, AppError> {
        Self::new(url, config, CHECK_TIMEOUT, MAX_CHECK_BYTES)
    }

    /// Returns one outcome for each of `locked`, in the same order.
    pub(crate) async fn check(self: &Arc<Self>, locked: &[LockedVersion]) -> Result<CheckResponse, AppError> {
        let parts = locked.chunks(MAX_CHECKED).map(<[LockedVersion]>::to_vec).collect();
        let checked = ask_in_parts(parts, |packages| {
            let server = Arc::clone(self);
            async move {
                let body = serde_json::to_vec(&CheckRequest { packages }).map_err(|error| error.to_string())?;
                server.ask("check", body).await
            }
        });
        checked.await.map_err(|detail| failed(&self.url, detail))
    }

    /// Returns a server for requests for approvals, with the token in the first line of `token_file`. Does not connect yet.
    pub(crate) fn for_requests(url: Url, config: &Config, token_file: Option<&Path>) -> Result<Self, AppError> {
        let mut server = Self::new(url, config, REQUEST_TIMEOUT, MAX_CHECK_BYTES)?;
        if let Some(file) = token_file {
            server.token = bearer(&tokens::first(file)?);
        }
        Ok(server)
    }

    /// Performs an operation on requests as the person to whom the token belongs.
    pub(crate) async fn request(&self, operation: &RequestOperation) -> Result<Value, AppError> {
        let encode = |body: Result<Vec<u8>, serde_json::Error>| body.map_err(|error| AppError::Request(error.to_string()));
        let (page, query, body) = match operation {
            RequestOperation::Ask(body) => (PAGE.to_owned(), None, encode(serde_json::to_vec(body))?),
            RequestOperation::List(query) => (PAGE.to_owned(), Some(query.as_str()), Vec::new()),
            RequestOperation::Show(id) => (format!("{PAGE}/{id}"), None, Vec::new()),
            RequestOperation::Change(id, action, body) => {
                (format!("{PAGE}/{id}/{}", action.as_str()), None, encode(serde_json::to_vec(body))?)
            }
        };
        let mut url = admin_url(&self.url, &page);
        url.set_query(query);
        self.ask_at(url, body).await.map_err(|detail| failed(&self.url, detail))
    }

    async fn ask<T: DeserializeOwned>(&self, page: &str, body: Vec<u8>) -> Result<T, String> {
        self.ask_at(admin_url(&self.url, page), body).await
    }

    async fn ask_at<T: DeserializeOwned>(&self, url: Url, body: Vec<u8>) -> Result<T, String> {
        let mut headers: HeaderMap = self.token.clone().map(|token| (AUTHORIZATION, token)).into_iter().collect();
        let method = if body.is_empty() { Method::GET } else { Method::POST };
        if method == Method::POST {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let reply = outbound::send(&self.client, (method, url, headers, body.into()), self.max_bytes).await?;
        if !reply.is_success {
            let error = serde_json::from_slice::<Value>(&reply.body).unwrap_or_default();
            return Err(format!("{}: {}", reply.status, error["error"].as_str().unwrap_or("no reason given")));
        }
        serde_json::from_slice(&reply.body).map_err(|error| format!("not a Coldframe response: {}", json_error(&error)))
    }
}

pub(crate) async fn fetch_client_policy(server: &Url, config: &Config) -> Result<ClientPolicy, AppError> {
    let server = HttpServer::new(server.clone(), config, POLICY_TIMEOUT, MAX_POLICY_BYTES)?;
    server.ask("client-config", Vec::new()).await.map_err(|detail| failed(&server.url, detail))
}

/// Queries the readiness of the server at `listener`, like an external probe: without a proxy and a token.
/// Returns an error if the server cannot be queried or is not ready. The text names the failed check.
pub(crate) async fn check_readiness(listener: ListenAddress, config: &Config) -> Result<(), AppError> {
    let deadlines = Deadlines { headers: HEALTH_TIMEOUT, whole: HEALTH_TIMEOUT, ..config.upstream.deadlines };
    let client = match &config.server.tls {
        // The certificate does not name the address that a probe uses.
        Some(files) if listener.scheme == Scheme::Https => outbound::pinned_client(files, deadlines)?,
        _ => outbound::http_client(config, deadlines, ProxySettings::none())?,
    };
    let server = local_url(listener);
    let failed = |detail: String| AppError::Server { server: server.as_str().into(), detail };
    let url = admin_url(&Url::parse(&server).map_err(|error| failed(error.to_string()))?, "readyz");
    let asking = outbound::send(&client, (Method::GET, url, HeaderMap::new(), Bytes::new()), MAX_HEALTH_BYTES);
    let reply = timeout(HEALTH_TIMEOUT, asking).await;
    let reply = reply.unwrap_or_else(|_| Err(format!("no answer within {} s", HEALTH_TIMEOUT.as_secs())));
    reply.and_then(|reply| readiness(&reply)).map_err(failed)
}

/// Parses the readiness page. A response of any other server is an error.
fn readiness(reply: &HttpReply) -> Result<(), String> {
    let report = serde_json::from_slice::<Value>(&reply.body).unwrap_or_default();
    match report["ready"].as_bool() {
        Some(true) if reply.is_success => Ok(()),
        Some(_) => Err(format!("not ready: {report}")),
        None => Err(format!("not a Coldframe response: {}", reply.status)),
    }
}

fn bearer(token: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn failed(server: &Url, detail: String) -> AppError {
    AppError::Server { server: server.as_str().into(), detail }
}

fn admin_url(server: &Url, page: &str) -> Url {
    outbound::below(server, &format!("-/coldframe/{page}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_ready_coldframe_passes() {
        let read = |status: &str, is_success, body: &'static [u8]| {
            readiness(&HttpReply {
                is_success,
                status: status.to_owned(),
                headers: HeaderMap::new(),
                body: Bytes::from_static(body),
            })
        };
        assert_eq!(read("200 OK", true, br#"{"ready":true,"draining":false,"checks":{"store":"ok"}}"#), Ok(()));
        let not_ready = br#"{"ready":false,"draining":false,"checks":{"store":"the disk is gone"}}"#;
        let reply = read("503 Service Unavailable", false, not_ready).unwrap_err();
        assert!(reply.contains("the disk is gone"), "{reply}");
        assert!(read("503 Service Unavailable", false, br#"{"ready":true}"#).is_err());
        assert!(read("200 OK", true, b"<html>it works</html>").is_err());
    }
}
