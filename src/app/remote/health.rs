//! Queries the readiness of a local server over HTTP, like an external probe.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::header::{HeaderMap, HeaderValue};
use url::Url;

use crate::app::error::AppError;
use crate::app::standalone::check::admin_url;
use crate::config::Config;
use crate::net::{AddressScope, ClientConfig, ClientRequest, Deadlines, HttpClient, ProxySettings};
use crate::tls;

/// The total time limit. It is shorter than the timeouts of container runtimes.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(4);

/// The maximum size of a response, in bytes.
const MAX_RESPONSE_BYTES: u64 = 1 << 16;

/// Queries the readiness of the server at `address`, without a proxy.
///
/// # Errors
/// Returns an error if the server cannot be queried or is not ready. The text names the failed check.
pub async fn check_readiness(address: SocketAddr, config: &Config) -> Result<(), AppError> {
    let client = HttpClient::new(&ClientConfig {
        deadlines: Deadlines { headers: HEALTH_TIMEOUT, whole: HEALTH_TIMEOUT, ..config.upstream.deadlines },
        proxies: ProxySettings::none(),
        tls: tls::client_config(&config.tls)?.client,
        user_agent: HeaderValue::from_static(concat!("coldframe/", env!("CARGO_PKG_VERSION"))),
    });
    let server = format!("http://{address}/");
    let failed = |detail: String| AppError::Server { server: server.as_str().into(), detail };
    let url = admin_url(&Url::parse(&server).map_err(|error| failed(error.to_string()))?, "readyz");
    let outgoing =
        ClientRequest { method: Method::GET, url, headers: HeaderMap::new(), body: Bytes::new(), reach: AddressScope::Anywhere };
    let ask = async {
        let answer = client.send(&outgoing).await.map_err(|error| error.to_string())?;
        let (status, is_well) = (answer.status.to_string(), answer.status.is_success());
        let body = answer.body.collect(MAX_RESPONSE_BYTES).await.map_err(|error| error.to_string())?;
        read(&status, is_well, &body)
    };
    let answered = tokio::time::timeout(HEALTH_TIMEOUT, ask).await;
    answered.unwrap_or_else(|_| Err(format!("no answer within {} s", HEALTH_TIMEOUT.as_secs()))).map_err(failed)
}

/// Parses the readiness page. A response of any other server is an error.
fn read(status: &str, is_well: bool, body: &[u8]) -> Result<(), String> {
    let reply = serde_json::from_slice::<serde_json::Value>(body).unwrap_or_default();
    match reply["ready"].as_bool() {
        Some(true) if is_well => Ok(()),
        Some(_) => Err(format!("not ready: {reply}")),
        None => Err(format!("not a Coldframe response: {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_ready_coldframe_passes() {
        assert_eq!(read("200 OK", true, br#"{"ready":true,"draining":false,"checks":{"store":"ok"}}"#), Ok(()));
        let not_ready = br#"{"ready":false,"draining":false,"checks":{"store":"the disk is gone"}}"#;
        let reply = read("503 Service Unavailable", false, not_ready).unwrap_err();
        assert!(reply.contains("the disk is gone"), "{reply}");
        assert!(read("503 Service Unavailable", false, br#"{"ready":true}"#).is_err());
        assert!(read("200 OK", true, b"<html>it works</html>").is_err());
    }
}
