//! What clients are to agree with, asked of a Coldframe that runs somewhere.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::header::{AUTHORIZATION, HeaderMap};
use url::Url;

use crate::app::AppError;
use crate::app::standalone::check::{bearer, client, page, read};
use crate::config::Config;
use crate::net::{AddressScope, ClientRequest, Deadlines};
use crate::server::admin::ClientPolicy;

/// How long it may take: whoever asks waits before a prompt.
const PATIENCE: Duration = Duration::from_secs(3);

/// The longest answer that is read, in bytes.
const LONGEST: u64 = 1 << 20;

/// The terms of the Coldframe at `server`.
///
/// # Errors
/// When it cannot be asked, or does not answer as a Coldframe does.
pub async fn terms(server: &Url, config: &Config) -> Result<ClientPolicy, AppError> {
    let deadlines = Deadlines { headers: PATIENCE, whole: PATIENCE, ..config.upstream.deadlines };
    let client = client(config, deadlines)?;
    let url = page(server, "client-config");
    let headers: HeaderMap = bearer(config)?.map(|token| (AUTHORIZATION, token)).into_iter().collect();
    let outgoing = ClientRequest { method: Method::GET, url, headers, body: Bytes::new(), reach: AddressScope::Anywhere };
    let ask = async {
        let answer = client.send(&outgoing).await.map_err(|wrong| wrong.to_string())?;
        let (status, is_well) = (answer.status.to_string(), answer.status.is_success());
        let body = answer.body.collect(LONGEST).await.map_err(|wrong| wrong.to_string())?;
        read(&status, is_well, &body)
    };
    ask.await.map_err(|detail| AppError::Server { server: server.as_str().into(), detail })
}
