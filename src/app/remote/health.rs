//! Whether the server that runs here is ready, asked over the socket as a probe from outside would.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::header::{HeaderMap, HeaderValue};
use url::Url;

use crate::app::AppError;
use crate::app::standalone::check::page;
use crate::config::Config;
use crate::net::{AddressScope, ClientConfig, ClientRequest, Deadlines, HttpClient, ProxySettings};
use crate::tls;

/// How long it may take in all: what starts containers gives up soon after.
const PATIENCE: Duration = Duration::from_secs(4);

/// The longest answer that is read, in bytes.
const LONGEST: u64 = 1 << 16;

/// Asks the server at `address` for its readiness, directly, whatever proxies there are.
///
/// # Errors
/// When it cannot be asked, or says that it is not ready; the text tells which check failed.
pub async fn health(address: SocketAddr, config: &Config) -> Result<(), AppError> {
    let client = HttpClient::new(&ClientConfig {
        deadlines: Deadlines { headers: PATIENCE, whole: PATIENCE, ..config.upstream.deadlines },
        proxies: ProxySettings::none(),
        tls: tls::client_config(&config.tls)?.client,
        user_agent: HeaderValue::from_static(concat!("coldframe/", env!("CARGO_PKG_VERSION"))),
    });
    let server = format!("http://{address}/");
    let failed = |detail: String| AppError::Server { server: server.as_str().into(), detail };
    let url = page(&Url::parse(&server).map_err(|wrong| failed(wrong.to_string()))?, "readyz");
    let outgoing =
        ClientRequest { method: Method::GET, url, headers: HeaderMap::new(), body: Bytes::new(), reach: AddressScope::Anywhere };
    let ask = async {
        let answer = client.send(&outgoing).await.map_err(|wrong| wrong.to_string())?;
        let (status, is_well) = (answer.status.to_string(), answer.status.is_success());
        let body = answer.body.collect(LONGEST).await.map_err(|wrong| wrong.to_string())?;
        read(&status, is_well, &body)
    };
    let answered = tokio::time::timeout(PATIENCE, ask).await;
    answered.unwrap_or_else(|_| Err(format!("no answer within {} s", PATIENCE.as_secs()))).map_err(failed)
}

/// Reads the page of readiness. Something else that answers there is not a Coldframe that is ready.
fn read(status: &str, is_well: bool, body: &[u8]) -> Result<(), String> {
    let told = serde_json::from_slice::<serde_json::Value>(body).unwrap_or_default();
    match told["ready"].as_bool() {
        Some(true) if is_well => Ok(()),
        Some(_) => Err(format!("it is not ready: {told}")),
        None => Err(format!("{status}: it does not answer as a Coldframe does")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_coldframe_that_says_so_is_ready() {
        assert_eq!(read("200 OK", true, br#"{"ready":true,"draining":false,"checks":{"store":"ok"}}"#), Ok(()));
        let not_ready = br#"{"ready":false,"draining":false,"checks":{"store":"the disk is gone"}}"#;
        let told = read("503 Service Unavailable", false, not_ready).unwrap_err();
        assert!(told.contains("the disk is gone"), "{told}");
        assert!(read("503 Service Unavailable", false, br#"{"ready":true}"#).is_err());
        assert!(read("200 OK", true, b"<html>it works</html>").is_err());
    }
}
