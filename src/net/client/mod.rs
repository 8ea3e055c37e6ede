//! An HTTP/1.1 client with a pool, deadlines, limits, retries and outbound proxies. Returns every status, also of redirects.

pub(crate) mod body;
pub(crate) mod connector;
pub(crate) mod dial;
pub(crate) mod error;
pub(crate) mod outbound_proxy;
pub(crate) mod proxy_settings;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri, header};
use http_body_util::Full;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{CaptureConnection, capture_connection};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use url::Url;

use crate::net::address::AddressScope;
use crate::net::client::body::BodyStream;
use crate::net::client::connector::{ClientConfig, Connector};
use crate::net::client::error::{ClientError, ConnectStage};
use crate::net::headers::via;
use crate::net::host_pattern::remove_credentials;

/// Limits of a response head: bytes and header lines.
const HEAD_BYTES: usize = 128 << 10;
const HEAD_LINES: usize = 128;

/// Retries of GET and HEAD, and the delay before the first. It doubles for each retry.
const RETRIES: u32 = 2;
const BACKOFF: Duration = Duration::from_millis(100);

/// How long an idle connection is kept, and how many per host.
const KEPT_FOR: Duration = Duration::from_secs(30);
const KEPT_PER_HOST: usize = 64;

#[derive(Debug, Clone)]
pub struct TlsTrust {
    /// The TLS config: TLS 1.2 or 1.3, ALPN `http/1.1`.
    pub client: Arc<rustls::ClientConfig>,
    /// The number of trusted roots. It is 0 on a machine without any, where every handshake would fail.
    pub roots: usize,
    /// An error from loading the system's roots, if any.
    pub trouble: Option<String>,
    /// TLS configs that trust the roots of one more file, by its path.
    pub with_file: HashMap<PathBuf, Arc<rustls::ClientConfig>>,
}

/// An HTTP client. Clones share its pools.
#[derive(Clone)]
pub struct HttpClient {
    /// One pool per address scope: a connection of one scope must never serve the other.
    anywhere: Pool,
    public: Pool,
    settings: ClientConfig,
}

type Pool = legacy::Client<Connector, Full<Bytes>>;

#[derive(Clone)]
pub struct ClientRequest {
    /// The method. Only GET and HEAD are retried.
    pub method: Method,
    /// An absolute `http` or `https` URL. Credentials in it are not sent.
    pub url: Url,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub reach: AddressScope,
}

#[derive(Debug)]
pub struct ClientResponse {
    pub status: StatusCode,
    /// The reason phrase, if it is valid UTF-8 and not the standard one.
    pub reason: Option<String>,
    pub headers: HeaderMap,
    pub body: BodyStream,
}

impl HttpClient {
    pub fn new(settings: &ClientConfig) -> Self {
        let pool = |reach| {
            legacy::Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(KEPT_FOR)
                .pool_max_idle_per_host(KEPT_PER_HOST)
                .http1_max_buf_size(HEAD_BYTES)
                .http1_max_headers(HEAD_LINES)
                .build(Connector { reach, settings: settings.clone() })
        };
        let (anywhere, public) = (pool(AddressScope::Anywhere), pool(AddressScope::Public));
        Self { anywhere, public, settings: settings.clone() }
    }

    /// Sends `request` and waits for the response head and the first bytes of the body. GET and HEAD are retried up to twice if
    /// there was no connection, or if it was lost before the body began.
    pub async fn send(&self, request: &ClientRequest) -> Result<ClientResponse, ClientError> {
        self.send_with(request, &|| {}).await
    }

    /// Like [`HttpClient::send`], but calls `on_head` for each response head, before its body arrives.
    pub async fn send_with(&self, request: &ClientRequest, on_head: &(dyn Fn() + Sync)) -> Result<ClientResponse, ClientError> {
        let retries = if matches!(request.method, Method::GET | Method::HEAD) { RETRIES } else { 0 };
        let mut attempt = 0;
        loop {
            match self.attempt(request, on_head).await {
                Err(error) if attempt < retries && error.is_retryable() => {
                    tokio::time::sleep(backoff(attempt)).await;
                    attempt += 1;
                }
                other => return other,
            }
        }
    }

    async fn attempt(&self, request: &ClientRequest, on_head: &(dyn Fn() + Sync)) -> Result<ClientResponse, ClientError> {
        let pool = match request.reach {
            AddressScope::Anywhere => &self.anywhere,
            AddressScope::Public => &self.public,
        };
        let mut request = self.prepare(request)?;
        let absolute = request.uri().scheme_str() == Some("http") && self.settings.proxies.of(request.uri()).is_some();
        let connected = capture_connection(&mut request);
        let answer = tokio::select! {
            biased;
            answer = pool.request(request) => answer,
            error = self.header_timeout(connected) => return Err(error),
        };
        let answer = answer.map_err(|error| ClientError::from_exchange(&error))?;
        on_head();
        if absolute && answer.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
            return Err(ClientError::unreachable(ConnectStage::Proxy, "credentials not accepted (407)"));
        }
        let (head, incoming) = answer.into_parts();
        let reason = head.extensions.get::<hyper::ext::ReasonPhrase>();
        let reason = reason.and_then(|reason| std::str::from_utf8(reason.as_bytes()).ok()).map(str::to_owned);
        let body = BodyStream::start(incoming, self.settings.deadlines).await?;
        Ok(ClientResponse { status: head.status, reason, headers: head.headers, body })
    }

    /// Completes at the deadline for headers. It starts when the connection is open, since connecting has its own deadline.
    async fn header_timeout(&self, mut connected: CaptureConnection) -> ClientError {
        drop(connected.wait_for_connection_metadata().await);
        tokio::time::sleep(self.settings.deadlines.headers).await;
        ClientError::TimedOut { after: self.settings.deadlines.headers }
    }

    fn prepare(&self, request: &ClientRequest) -> Result<Request<Full<Bytes>>, ClientError> {
        let mut url = request.url.clone();
        remove_credentials(&mut url);
        url.set_fragment(None);
        let uri: Uri = url.as_str().parse().map_err(|_| ClientError::broken("URL is not a valid request target"))?;
        let mut prepared = Request::new(Full::new(request.body.clone()));
        *prepared.method_mut() = request.method.clone();
        *prepared.headers_mut() = request.headers.clone();
        prepared.headers_mut().entry(header::USER_AGENT).or_insert_with(|| self.settings.user_agent.clone());
        if uri.scheme_str() == Some("http")
            && let Some(proxy) = self.settings.proxies.of(&uri)
        {
            prepared.headers_mut().insert(header::VIA, via());
            prepared.headers_mut().extend(proxy.authorization.map(|own| (header::PROXY_AUTHORIZATION, own)));
        }
        *prepared.uri_mut() = uri;
        Ok(prepared)
    }
}

/// Returns the delay before a retry: between half and all of a doubling backoff, so that clients do not retry in step.
pub fn backoff(attempt: u32) -> Duration {
    jittered(BACKOFF * 2u32.saturating_pow(attempt))
}

/// Returns a random duration from half of `whole` to all of it, so that many instances do not retry at the same time.
pub fn jittered(whole: Duration) -> Duration {
    whole / 2 + whole.mul_f64(0.5 * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::net::client::connector::Deadlines;
    use crate::net::client::proxy_settings::ProxySettings;
    use crate::net::testing::{ReceivedRequest, ScriptedServer, ServerAction, TestIdentity, answer};

    fn client(tls: Arc<rustls::ClientConfig>, proxies: ProxySettings) -> HttpClient {
        within(Deadlines::default(), tls, proxies)
    }

    fn within(deadlines: Deadlines, tls: Arc<rustls::ClientConfig>, proxies: ProxySettings) -> HttpClient {
        HttpClient::new(&ClientConfig { deadlines, proxies, tls, user_agent: HeaderValue::from_static("trial/1") })
    }

    fn plain() -> HttpClient {
        client(TestIdentity::no_roots(), ProxySettings::none())
    }

    fn impatient() -> HttpClient {
        within(Deadlines::impatient(), TestIdentity::no_roots(), ProxySettings::none())
    }

    fn get(url: &str) -> ClientRequest {
        let url = Url::parse(url).unwrap();
        ClientRequest { method: Method::GET, url, headers: HeaderMap::new(), body: Bytes::new(), reach: AddressScope::Anywhere }
    }

    async fn body(client: &HttpClient, url: &str) -> Result<String, ClientError> {
        let bytes = client.send(&get(url)).await?.body.collect(1 << 20, None).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    async fn failure(
        client: &HttpClient,
        script: impl Fn(&ReceivedRequest, usize) -> ServerAction + Send + Sync + 'static,
    ) -> (String, usize) {
        let server = ScriptedServer::plain(script).await;
        let error = body(client, &server.url()).await.unwrap_err();
        (error.to_string(), server.heard().len())
    }

    #[tokio::test]
    async fn connection_is_reused() {
        let server =
            ScriptedServer::plain(|_, before| ServerAction::Say(answer("200 OK", &[], before.to_string().as_bytes()))).await;
        let client = plain();
        let url = format!("http://user:secret@{}/a?b=c#d", server.address);
        assert_eq!(body(&client, &url).await.unwrap(), "0");
        assert_eq!(body(&client, &url).await.unwrap(), "1");
        let heard = server.heard();
        assert_eq!(heard[0].line(), "GET /a?b=c HTTP/1.1");
        assert_eq!(heard[0].header("host"), Some(server.address.to_string().as_str()));
        assert_eq!((heard[0].header("user-agent"), heard[0].header("authorization")), (Some("trial/1"), None));
    }

    #[tokio::test]
    async fn a_get_is_retried_after_a_reset_and_a_put_is_not() {
        let server = ScriptedServer::plain(|_, before| {
            if before < 2 { ServerAction::Reset } else { ServerAction::Say(answer("200 OK", &[], b"there")) }
        })
        .await;
        assert_eq!(body(&plain(), &server.url()).await.unwrap(), "there");
        assert_eq!(server.heard().len(), 3);

        let server = ScriptedServer::plain(|_, _| ServerAction::Reset).await;
        let write = ClientRequest { method: Method::PUT, body: Bytes::from_static(b"{}"), ..get(&server.url()) };
        assert!(matches!(plain().send(&write).await.unwrap_err(), ClientError::Broken { lost: true, .. }));
        assert_eq!((server.heard().len(), server.heard()[0].body.as_slice()), (1, b"{}".as_slice()));
    }

    #[tokio::test]
    async fn request_is_retried_until_the_first_body_byte() {
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n";
        let (error, asked) = failure(&plain(), move |_, _| ServerAction::Close(head.to_vec())).await;
        assert_eq!((error.as_str(), asked), ("connection closed before the response was complete", 3));
        let part = [head.as_slice(), b"th"].concat();
        let (error, asked) = failure(&plain(), move |_, _| ServerAction::Close(part.clone())).await;
        assert_eq!((error.as_str(), asked), ("connection closed before the response was complete", 1));
    }

    #[tokio::test]
    async fn truncated_chunked_body_is_an_error() {
        let part = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nth\r\n".to_vec();
        assert_eq!(failure(&plain(), move |_, _| ServerAction::Close(part.clone())).await.1, 1);
    }

    #[tokio::test]
    async fn invalid_http_is_not_retried() {
        let (error, asked) = failure(&plain(), |_, _| ServerAction::Close(b"220 mail.example ESMTP\r\n\r\n".to_vec())).await;
        assert!(error.starts_with("not HTTP: "), "{error}");
        assert_eq!(asked, 1);
    }

    #[tokio::test]
    async fn oversized_headers_are_rejected() {
        let mut endless = b"HTTP/1.1 200 OK\r\n".to_vec();
        endless.extend(std::iter::repeat_n(b"x: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n".as_slice(), 6_000).flatten());
        let (error, asked) = failure(&plain(), move |_, _| ServerAction::Hang(endless.clone())).await;
        assert_eq!((error.as_str(), asked), ("response headers are too large", 1));
    }

    #[tokio::test]
    async fn silence_in_headers_and_body_times_out() {
        let (error, asked) = failure(&impatient(), |_, _| ServerAction::Hang(Vec::new())).await;
        assert_eq!((error.as_str(), asked), ("no response within 0.15 s", 1));
        let part = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nth";
        let (error, asked) = failure(&impatient(), |_, _| ServerAction::Hang(part.to_vec())).await;
        assert_eq!((error.as_str(), asked), ("no response within 0.15 s", 1));
    }

    #[tokio::test]
    async fn body_below_minimum_rate_times_out() {
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n";
        let (error, asked) =
            failure(&impatient(), |_, _| ServerAction::Drip(head.to_vec(), vec![b'x'; 5_000], Duration::from_millis(5))).await;
        assert_eq!((error.as_str(), asked), ("no response within 0.15 s", 1));
    }

    #[tokio::test]
    async fn body_has_a_total_deadline() {
        let head = b"HTTP/1.1 200 OK\r\n\r\n";
        let lively =
            |_: &ReceivedRequest, _: usize| ServerAction::Flood(head.to_vec(), vec![b'x'; 1_000], Duration::from_millis(20));
        assert_eq!(failure(&impatient(), lively).await, ("no response within 0.6 s".to_owned(), 1));
    }

    #[tokio::test]
    async fn oversized_body_is_rejected_with_and_without_a_length() {
        let head = "HTTP/1.1 200 OK\r\n\r\n";
        let server = ScriptedServer::plain(move |heard, _| match heard.line() {
            "GET /said HTTP/1.1" => ServerAction::Say(answer("200 OK", &[], &[b'x'; 100])),
            _ => ServerAction::Close([head.as_bytes(), &[b'x'; 100]].concat()),
        })
        .await;
        for path in ["said", "unsaid"] {
            let response = plain().send(&get(&format!("{}{path}", server.url()))).await.unwrap();
            assert!(matches!(response.body.collect(99, None).await.unwrap_err(), ClientError::TooLarge { limit: 99 }), "{path}");
            let response = plain().send(&get(&format!("{}{path}", server.url()))).await.unwrap();
            assert_eq!(response.body.collect(100, None).await.unwrap().len(), 100, "{path}");
        }
    }

    #[tokio::test]
    async fn certificate_must_be_trusted_current_and_match_the_name() {
        let say = |_: &ReceivedRequest, _: usize| ServerAction::Say(answer("200 OK", &[], b"safe"));
        let identity = TestIdentity::of("localhost");
        let server = ScriptedServer::secure(&identity, say).await;
        let url = |host: &str| format!("https://{host}:{}/", server.address.port());
        assert_eq!(body(&client(identity.trusted(), ProxySettings::none()), &url("localhost")).await.unwrap(), "safe");
        let unknown = body(&plain(), &url("localhost")).await.unwrap_err();
        assert_eq!(unknown.layer(), Some(ConnectStage::Trust));
        assert_eq!(unknown.to_string(), "TLS: certificate issued by an untrusted authority");
        let other = body(&client(identity.trusted(), ProxySettings::none()), &url("127.0.0.1")).await.unwrap_err();
        assert_eq!(other.to_string(), "TLS: certificate is for another name");
        let old = TestIdentity::until("localhost", 2002);
        let server = ScriptedServer::secure(&old, say).await;
        let expired =
            body(&client(old.trusted(), ProxySettings::none()), &format!("https://localhost:{}/", server.address.port()))
                .await
                .unwrap_err();
        assert_eq!(expired.to_string(), "TLS: certificate has expired");
    }

    #[tokio::test]
    async fn server_without_tls_fails_at_the_tls_stage() {
        let server = ScriptedServer::plain(|_, _| ServerAction::Close(Vec::new())).await;
        // A plain server waits for the end of a head, so this ends at the deadline.
        let error = body(&impatient(), &format!("https://{}/", server.address)).await.unwrap_err();
        assert_eq!(error.layer(), Some(ConnectStage::Tls), "{error}");
    }

    #[tokio::test]
    async fn https_uses_a_proxy_tunnel_with_credentials() {
        let identity = TestIdentity::of("registry.example");
        let server = ScriptedServer::secure(&identity, |_, _| ServerAction::Say(answer("200 OK", &[], b"far"))).await;
        let target = server.address;
        let proxy = ScriptedServer::plain(move |_, _| ServerAction::Tunnel(target)).await;
        let address = format!("http://user:p%40ss@{}", proxy.address);
        let proxies = ProxySettings::new(Some(("HTTPS_PROXY", &address)), None, None).unwrap();
        let client = client(identity.trusted(), proxies);
        assert_eq!(body(&client, "https://registry.example/x").await.unwrap(), "far");
        assert_eq!(body(&client, "https://registry.example/y").await.unwrap(), "far");
        let tunnels = proxy.heard();
        assert_eq!((tunnels.len(), tunnels[0].line()), (1, "CONNECT registry.example:443 HTTP/1.1"));
        assert_eq!(tunnels[0].header("proxy-authorization"), Some("Basic dXNlcjpwQHNz"));
        assert_eq!((server.heard()[1].line(), server.heard()[1].header("proxy-authorization")), ("GET /y HTTP/1.1", None));
    }

    #[tokio::test]
    async fn http_uses_the_proxy_in_absolute_form() {
        let proxy = ScriptedServer::plain(|heard, _| match heard.header("proxy-authorization") {
            Some("Basic dXNlcjpw") => ServerAction::Say(answer("200 OK", &[], b"far")),
            _ => ServerAction::Say(answer("407 Proxy Authentication Required", &[], b"")),
        })
        .await;
        for (user, expected) in
            [("user:p@", Ok("far".to_owned())), ("", Err("outbound proxy: credentials not accepted (407)".to_owned()))]
        {
            let address = format!("http://{user}{}", proxy.address);
            let proxies = ProxySettings::new(None, Some(("HTTP_PROXY", &address)), Some("direct.example")).unwrap();
            let got = body(&client(TestIdentity::no_roots(), proxies), "http://registry.example:8080/x").await;
            assert_eq!(got.map_err(|error| error.to_string()), expected);
        }
        assert_eq!(proxy.heard()[0].line(), "GET http://registry.example:8080/x HTTP/1.1");
        assert_eq!(proxy.heard()[0].header("host"), Some("registry.example:8080"));
    }

    #[tokio::test]
    async fn proxy_refusal_is_distinct_from_a_server_error() {
        for (status, expected) in [
            ("407 Nope", "outbound proxy: credentials not accepted (407)"),
            ("403 Forbidden", "outbound proxy: CONNECT refused: 403 Forbidden"),
        ] {
            let proxy = ScriptedServer::plain(move |_, _| ServerAction::Say(answer(status, &[], b""))).await;
            let address = format!("http://{}", proxy.address);
            let proxies = ProxySettings::new(Some(("HTTPS_PROXY", &address)), None, None).unwrap();
            let error = body(&client(TestIdentity::no_roots(), proxies), "https://registry.example/").await.unwrap_err();
            assert_eq!(error.to_string(), expected);
            assert_eq!(proxy.heard().len(), 1);
        }
    }

    #[tokio::test]
    async fn proxy_does_not_bypass_the_public_address_check() {
        let proxy = ScriptedServer::plain(|_, _| ServerAction::Say(answer("200 OK", &[], b"inside"))).await;
        let address = format!("http://{}", proxy.address);
        let proxies = ProxySettings::new(None, Some(("HTTP_PROXY", &address)), None).unwrap();
        let inside = ClientRequest { reach: AddressScope::Public, ..get("http://169.254.169.254/latest") };
        let error = client(TestIdentity::no_roots(), proxies).send(&inside).await.unwrap_err();
        assert_eq!(error.to_string(), "address: `169.254.169.254` is not a public address");
        assert!(proxy.heard().is_empty());
    }

    #[tokio::test]
    async fn pools_are_separate_per_address_scope() {
        let server = ScriptedServer::plain(|_, _| ServerAction::Say(answer("200 OK", &[], b"there"))).await;
        let client = plain();
        assert_eq!(body(&client, &server.url()).await.unwrap(), "there");
        let untrusted = ClientRequest { reach: AddressScope::Public, ..get(&server.url()) };
        assert_eq!(client.send(&untrusted).await.unwrap_err().layer(), Some(ConnectStage::Reach));
        assert_eq!(server.heard().len(), 1);
    }
}
