//! Fetches the client policy of a remote server.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::header::{AUTHORIZATION, HeaderMap};
use url::Url;

use crate::app::error::AppError;
use crate::app::standalone::check::{admin_token, admin_url, http_client, parse_reply};
use crate::config::Config;
use crate::net::{AddressScope, ClientRequest, Deadlines};
use crate::server::admin::ClientPolicy;

/// The time limit; it is short, because a user waits at a prompt.
const FETCH_TIMEOUT: Duration = Duration::from_secs(3);

/// The maximum size of a response, in bytes.
const MAX_RESPONSE_BYTES: u64 = 1 << 20;

/// Fetches the client policy of the server at `server`.
///
/// # Errors
/// Returns an error if the server cannot be queried, or is not a Coldframe.
pub async fn fetch_client_policy(server: &Url, config: &Config) -> Result<ClientPolicy, AppError> {
    let deadlines = Deadlines { headers: FETCH_TIMEOUT, whole: FETCH_TIMEOUT, ..config.upstream.deadlines };
    let client = http_client(config, deadlines)?;
    let url = admin_url(server, "client-config");
    let headers: HeaderMap = admin_token(config)?.map(|token| (AUTHORIZATION, token)).into_iter().collect();
    let outgoing = ClientRequest { method: Method::GET, url, headers, body: Bytes::new(), reach: AddressScope::Anywhere };
    let ask = async {
        let answer = client.send(&outgoing).await.map_err(|error| error.to_string())?;
        let (status, is_well) = (answer.status.to_string(), answer.status.is_success());
        let body = answer.body.collect(MAX_RESPONSE_BYTES).await.map_err(|error| error.to_string())?;
        parse_reply(&status, is_well, &body)
    };
    ask.await.map_err(|detail| AppError::Server { server: server.as_str().into(), detail })
}
