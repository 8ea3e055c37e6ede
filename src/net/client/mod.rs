//! An HTTP/1.1 client with a pool, deadlines, limits, retries and outbound proxies. Refuses to know what it asks for, to
//! follow redirects and to judge a status: those are the caller's.

pub(crate) mod body;
pub(crate) mod connector;
pub mod deadlines;
pub mod dial;
pub(crate) mod error;
pub mod outbound_proxy;
pub mod proxy_settings;

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::Full;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{CaptureConnection, capture_connection};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use url::Url;

use crate::net::client::body::BodyStream;
use crate::net::client::connector::Connector;
use crate::net::client::deadlines::Deadlines;
use crate::net::client::dial::AddressScope;
use crate::net::client::error::{ClientError, ConnectStage};
use crate::net::client::proxy_settings::ProxySettings;

/// The most that an answer's head may weigh, in bytes, and the most header lines in it.
const HEAD_BYTES: usize = 128 << 10;
const HEAD_LINES: usize = 128;

/// How often a request that changes nothing is tried again, and how long before the first time; then twice as long.
const RETRIES: u32 = 2;
const BACKOFF: Duration = Duration::from_millis(100);

/// How long a connection is kept for the next request, and how many to one host.
const KEPT_FOR: Duration = Duration::from_secs(30);
const KEPT_PER_HOST: usize = 64;

/// How this process names itself in `Via`, differently from every other one: a request that names it has been here before.
#[must_use]
pub fn pseudonym() -> &'static str {
    static PSEUDONYM: OnceLock<String> = OnceLock::new();
    PSEUDONYM.get_or_init(|| format!("coldframe-{:016x}", RandomState::new().build_hasher().finish()))
}

/// A `Via` with our pseudonym, for requests that pass another proxy: it may be this very process.
pub(crate) fn via() -> HeaderValue {
    HeaderValue::from_str(&format!("1.1 {}", pseudonym())).unwrap_or(HeaderValue::from_static("1.1 coldframe"))
}

/// Whom a client trusts.
#[derive(Debug, Clone)]
pub struct TlsTrust {
    /// TLS 1.2 or 1.3, offering `http/1.1`.
    pub client: Arc<rustls::ClientConfig>,
    /// How many roots it trusts: 0 on a machine without any, where every handshake would fail.
    pub roots: usize,
    /// What went wrong with the system's roots, if something did.
    pub trouble: Option<String>,
}

/// What a client is made of.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// How long things may take.
    pub deadlines: Deadlines,
    /// Outbound proxies.
    pub proxies: ProxySettings,
    /// Whom to trust, offering `http/1.1` only.
    pub tls: Arc<rustls::ClientConfig>,
    /// Sent with every request that brings none.
    pub user_agent: HeaderValue,
}

/// The client; clones share its pool.
#[derive(Clone)]
pub struct HttpClient {
    /// One pool a reach: a connection made for one must never serve the other.
    anywhere: Pool,
    public: Pool,
    proxies: ProxySettings,
    deadlines: Deadlines,
    user_agent: HeaderValue,
}

type Pool = legacy::Client<Connector, Full<Bytes>>;

/// One request.
#[derive(Clone)]
pub struct ClientRequest {
    /// The method. Only GET and HEAD are ever tried again.
    pub method: Method,
    /// An absolute `http` or `https` URL. Credentials in it are not sent.
    pub url: Url,
    /// End-to-end headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// Where it may go.
    pub reach: AddressScope,
}

/// The head of an answer, and its body on its way.
#[derive(Debug)]
pub struct ClientResponse {
    /// The status, whatever it is.
    pub status: StatusCode,
    /// The reason phrase, if it is not the usual one and can be read.
    pub reason: Option<String>,
    /// All headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: BodyStream,
}

impl HttpClient {
    /// A client of `settings`. Connects to nothing.
    #[must_use]
    pub fn new(settings: &ClientConfig) -> Self {
        let pool = |reach| {
            let connector = Connector {
                reach,
                proxies: settings.proxies.clone(),
                tls: Arc::clone(&settings.tls),
                user_agent: settings.user_agent.clone(),
                deadline: settings.deadlines.connect,
            };
            legacy::Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(KEPT_FOR)
                .pool_max_idle_per_host(KEPT_PER_HOST)
                .http1_max_buf_size(HEAD_BYTES)
                .http1_max_headers(HEAD_LINES)
                .build(connector)
        };
        Self {
            anywhere: pool(AddressScope::Anywhere),
            public: pool(AddressScope::Public),
            proxies: settings.proxies.clone(),
            deadlines: settings.deadlines,
            user_agent: settings.user_agent.clone(),
        }
    }

    /// Sends `request` and waits for the head of the answer and the first bytes of its body. GET and HEAD are tried up to
    /// twice more when there was no connection, or when it was lost before the body began.
    ///
    /// # Errors
    /// When there is no connection, no answer in time, or no HTTP in the answer.
    pub async fn send(&self, request: &ClientRequest) -> Result<ClientResponse, ClientError> {
        self.send_noting(request, &|| {}).await
    }

    /// Like [`HttpClient::send`]; `heard` is called whenever the head of an answer came, before its body does.
    ///
    /// # Errors
    /// As [`HttpClient::send`].
    pub async fn send_noting(&self, request: &ClientRequest, heard: &(dyn Fn() + Sync)) -> Result<ClientResponse, ClientError> {
        let retries = if matches!(request.method, Method::GET | Method::HEAD) { RETRIES } else { 0 };
        let mut attempt = 0;
        loop {
            match self.attempt(request, heard).await {
                Err(error) if attempt < retries && error.is_passing() => {
                    tokio::time::sleep(pause(attempt)).await;
                    attempt += 1;
                }
                other => return other,
            }
        }
    }

    async fn attempt(&self, request: &ClientRequest, heard: &(dyn Fn() + Sync)) -> Result<ClientResponse, ClientError> {
        let pool = match request.reach {
            AddressScope::Anywhere => &self.anywhere,
            AddressScope::Public => &self.public,
        };
        let mut request = self.prepare(request)?;
        let absolute = request.uri().scheme_str() == Some("http") && self.proxies.of(request.uri()).is_some();
        let connected = capture_connection(&mut request);
        let answer = tokio::select! {
            biased;
            answer = pool.request(request) => answer,
            error = self.impatience(connected) => return Err(error),
        };
        let answer = answer.map_err(|error| ClientError::of_exchange(&error))?;
        heard();
        if absolute && answer.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
            return Err(ClientError::unreachable(ConnectStage::Proxy, "it wants other credentials (407)"));
        }
        let (head, incoming) = answer.into_parts();
        let reason = head.extensions.get::<hyper::ext::ReasonPhrase>();
        let reason = reason.and_then(|reason| std::str::from_utf8(reason.as_bytes()).ok()).map(str::to_owned);
        let body = BodyStream::begin(incoming, self.deadlines).await?;
        Ok(ClientResponse { status: head.status, reason, headers: head.headers, body })
    }

    /// Ends when the headers had their time. It runs from when there is a connection, which has a deadline of its own.
    async fn impatience(&self, mut connected: CaptureConnection) -> ClientError {
        drop(connected.wait_for_connection_metadata().await);
        tokio::time::sleep(self.deadlines.headers).await;
        ClientError::TimedOut { after: self.deadlines.headers }
    }

    fn prepare(&self, request: &ClientRequest) -> Result<Request<Full<Bytes>>, ClientError> {
        let mut url = request.url.clone();
        // Neither can fail for a URL that has a host, and one that has none does not parse below.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.set_fragment(None);
        let uri: Uri = url.as_str().parse().map_err(|_| ClientError::broken("an address that HTTP cannot carry"))?;
        let mut prepared = Request::new(Full::new(request.body.clone()));
        *prepared.method_mut() = request.method.clone();
        *prepared.headers_mut() = request.headers.clone();
        prepared.headers_mut().entry(header::USER_AGENT).or_insert_with(|| self.user_agent.clone());
        if uri.scheme_str() == Some("http")
            && let Some(proxy) = self.proxies.of(&uri)
        {
            prepared.headers_mut().insert(header::VIA, via());
            prepared.headers_mut().extend(proxy.authorization.map(|own| (header::PROXY_AUTHORIZATION, own)));
        }
        *prepared.uri_mut() = uri;
        Ok(prepared)
    }
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Client").field("proxies", &self.proxies).field("deadlines", &self.deadlines).finish_non_exhaustive()
    }
}

/// How long to wait after a failed attempt: between half and all of a doubling backoff, so that many do not return at once.
#[must_use]
pub fn pause(attempt: u32) -> Duration {
    let whole = BACKOFF * 2u32.saturating_pow(attempt);
    whole / 2 + whole.mul_f64(0.5 * dice())
}

/// A chance between 0 and 1, for what many should not do at the same moment. Not for secrets.
#[must_use]
pub fn dice() -> f64 {
    // Freshly keyed hashers differ from call to call, which is all the chance that is needed.
    f64::from(RandomState::new().build_hasher().finish().to_le_bytes()[0]) / 255.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::testing::{ReceivedRequest, ScriptedServer, ServerAction, TestIdentity, answer};

    fn client(tls: Arc<rustls::ClientConfig>, proxies: ProxySettings) -> HttpClient {
        within(Deadlines::default(), tls, proxies)
    }

    fn within(deadlines: Deadlines, tls: Arc<rustls::ClientConfig>, proxies: ProxySettings) -> HttpClient {
        HttpClient::new(&ClientConfig { deadlines, proxies, tls, user_agent: HeaderValue::from_static("trial/1") })
    }

    fn plain() -> HttpClient {
        client(TestIdentity::nobody(), ProxySettings::none())
    }

    fn hasty() -> HttpClient {
        within(Deadlines::hasty(), TestIdentity::nobody(), ProxySettings::none())
    }

    fn get(url: &str) -> ClientRequest {
        let url = Url::parse(url).unwrap();
        ClientRequest { method: Method::GET, url, headers: HeaderMap::new(), body: Bytes::new(), reach: AddressScope::Anywhere }
    }

    async fn body(client: &HttpClient, url: &str) -> Result<String, ClientError> {
        let bytes = client.send(&get(url)).await?.body.collect(1 << 20).await?;
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
    async fn one_connection_serves_request_after_request() {
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
    async fn a_reset_before_the_body_is_tried_again_and_for_a_write_it_is_not() {
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
    async fn a_body_that_breaks_before_its_first_byte_is_tried_again_and_later_it_is_not() {
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n";
        let (error, asked) = failure(&plain(), move |_, _| ServerAction::Close(head.to_vec())).await;
        assert_eq!((error.as_str(), asked), ("the connection ended before the answer was complete", 3));
        let part = [head.as_slice(), b"th"].concat();
        let (error, asked) = failure(&plain(), move |_, _| ServerAction::Close(part.clone())).await;
        assert_eq!((error.as_str(), asked), ("the connection ended before the answer was complete", 1));
    }

    #[tokio::test]
    async fn a_chunked_body_that_ends_early_is_broken() {
        let part = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nth\r\n".to_vec();
        assert_eq!(failure(&plain(), move |_, _| ServerAction::Close(part.clone())).await.1, 1);
    }

    #[tokio::test]
    async fn what_is_not_http_is_broken_and_not_tried_again() {
        let (error, asked) = failure(&plain(), |_, _| ServerAction::Close(b"220 mail.example ESMTP\r\n\r\n".to_vec())).await;
        assert!(error.starts_with("not HTTP: "), "{error}");
        assert_eq!(asked, 1);
    }

    #[tokio::test]
    async fn headers_without_end_are_cut_off() {
        let mut endless = b"HTTP/1.1 200 OK\r\n".to_vec();
        endless.extend(std::iter::repeat_n(b"x: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n".as_slice(), 6_000).flatten());
        let (error, asked) = failure(&plain(), move |_, _| ServerAction::Hang(endless.clone())).await;
        assert_eq!((error.as_str(), asked), ("the headers are larger than is taken", 1));
    }

    #[tokio::test]
    async fn silence_before_the_headers_and_within_the_body_ends_in_time() {
        let (error, asked) = failure(&hasty(), |_, _| ServerAction::Hang(Vec::new())).await;
        assert_eq!((error.as_str(), asked), ("no answer within 0.15 s", 1));
        let part = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nth";
        let (error, asked) = failure(&hasty(), |_, _| ServerAction::Hang(part.to_vec())).await;
        assert_eq!((error.as_str(), asked), ("no answer within 0.15 s", 1));
    }

    #[tokio::test]
    async fn a_drip_is_no_sign_of_life() {
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n";
        let (error, asked) =
            failure(&hasty(), |_, _| ServerAction::Drip(head.to_vec(), vec![b'x'; 5_000], Duration::from_millis(5))).await;
        assert_eq!((error.as_str(), asked), ("no answer within 0.15 s", 1));
    }

    #[tokio::test]
    async fn a_lively_body_ends_in_time_too() {
        let head = b"HTTP/1.1 200 OK\r\n\r\n";
        let lively =
            |_: &ReceivedRequest, _: usize| ServerAction::Flood(head.to_vec(), vec![b'x'; 1_000], Duration::from_millis(20));
        assert_eq!(failure(&hasty(), lively).await, ("no answer within 0.6 s".to_owned(), 1));
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused_with_and_without_a_length() {
        let head = "HTTP/1.1 200 OK\r\n\r\n";
        let server = ScriptedServer::plain(move |heard, _| match heard.line() {
            "GET /said HTTP/1.1" => ServerAction::Say(answer("200 OK", &[], &[b'x'; 100])),
            _ => ServerAction::Close([head.as_bytes(), &[b'x'; 100]].concat()),
        })
        .await;
        for path in ["said", "unsaid"] {
            let response = plain().send(&get(&format!("{}{path}", server.url()))).await.unwrap();
            assert!(matches!(response.body.collect(99).await.unwrap_err(), ClientError::TooLarge { limit: 99 }), "{path}");
            let response = plain().send(&get(&format!("{}{path}", server.url()))).await.unwrap();
            assert_eq!(response.body.collect(100).await.unwrap().len(), 100, "{path}");
        }
    }

    #[tokio::test]
    async fn a_certificate_has_to_be_trusted_in_time_and_for_the_name() {
        let say = |_: &ReceivedRequest, _: usize| ServerAction::Say(answer("200 OK", &[], b"safe"));
        let identity = TestIdentity::of("localhost");
        let server = ScriptedServer::secure(&identity, say).await;
        let url = |host: &str| format!("https://{host}:{}/", server.address.port());
        assert_eq!(body(&client(identity.trusted(), ProxySettings::none()), &url("localhost")).await.unwrap(), "safe");
        let unknown = body(&plain(), &url("localhost")).await.unwrap_err();
        assert_eq!(unknown.layer(), Some(ConnectStage::Trust));
        assert_eq!(unknown.to_string(), "TLS: the certificate was issued by an authority that this machine does not trust");
        let other = body(&client(identity.trusted(), ProxySettings::none()), &url("127.0.0.1")).await.unwrap_err();
        assert_eq!(other.to_string(), "TLS: the certificate is for another name");
        let old = TestIdentity::until("localhost", 2002);
        let server = ScriptedServer::secure(&old, say).await;
        let expired =
            body(&client(old.trusted(), ProxySettings::none()), &format!("https://localhost:{}/", server.address.port()))
                .await
                .unwrap_err();
        assert_eq!(expired.to_string(), "TLS: the certificate has expired");
    }

    #[tokio::test]
    async fn a_server_that_speaks_no_tls_is_named_so() {
        let server = ScriptedServer::plain(|_, _| ServerAction::Close(Vec::new())).await;
        // A plain server waits for the end of a head that never comes, so it is the deadline that ends this.
        let error = body(&hasty(), &format!("https://{}/", server.address)).await.unwrap_err();
        assert_eq!(error.layer(), Some(ConnectStage::Tls), "{error}");
    }

    #[tokio::test]
    async fn https_goes_through_the_proxys_tunnel_with_its_credentials() {
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
    async fn http_goes_to_the_proxy_in_absolute_form() {
        let proxy = ScriptedServer::plain(|heard, _| match heard.header("proxy-authorization") {
            Some("Basic dXNlcjpw") => ServerAction::Say(answer("200 OK", &[], b"far")),
            _ => ServerAction::Say(answer("407 Proxy Authentication Required", &[], b"")),
        })
        .await;
        for (user, expected) in
            [("user:p@", Ok("far".to_owned())), ("", Err("outbound proxy: it wants other credentials (407)".to_owned()))]
        {
            let address = format!("http://{user}{}", proxy.address);
            let proxies = ProxySettings::new(None, Some(("HTTP_PROXY", &address)), Some("direct.example")).unwrap();
            let got = body(&client(TestIdentity::nobody(), proxies), "http://registry.example:8080/x").await;
            assert_eq!(got.map_err(|error| error.to_string()), expected);
        }
        assert_eq!(proxy.heard()[0].line(), "GET http://registry.example:8080/x HTTP/1.1");
        assert_eq!(proxy.heard()[0].header("host"), Some("registry.example:8080"));
    }

    #[tokio::test]
    async fn a_proxy_that_refuses_is_told_apart_from_the_server() {
        for (status, expected) in [
            ("407 Nope", "outbound proxy: it wants other credentials (407)"),
            ("403 Forbidden", "outbound proxy: it refused the tunnel with 403 Forbidden"),
        ] {
            let proxy = ScriptedServer::plain(move |_, _| ServerAction::Say(answer(status, &[], b""))).await;
            let address = format!("http://{}", proxy.address);
            let proxies = ProxySettings::new(Some(("HTTPS_PROXY", &address)), None, None).unwrap();
            let error = body(&client(TestIdentity::nobody(), proxies), "https://registry.example/").await.unwrap_err();
            assert_eq!(error.to_string(), expected);
            assert_eq!(proxy.heard().len(), 1);
        }
    }

    #[tokio::test]
    async fn a_proxy_is_no_way_around_public_addresses_only() {
        let proxy = ScriptedServer::plain(|_, _| ServerAction::Say(answer("200 OK", &[], b"inside"))).await;
        let address = format!("http://{}", proxy.address);
        let proxies = ProxySettings::new(None, Some(("HTTP_PROXY", &address)), None).unwrap();
        let inside = ClientRequest { reach: AddressScope::Public, ..get("http://169.254.169.254/latest") };
        let error = client(TestIdentity::nobody(), proxies).send(&inside).await.unwrap_err();
        assert_eq!(error.to_string(), "address: `169.254.169.254` is not a public address");
        assert!(proxy.heard().is_empty());
    }

    #[tokio::test]
    async fn a_connection_made_for_the_operator_never_serves_a_stranger() {
        let server = ScriptedServer::plain(|_, _| ServerAction::Say(answer("200 OK", &[], b"there"))).await;
        let client = plain();
        assert_eq!(body(&client, &server.url()).await.unwrap(), "there");
        let stranger = ClientRequest { reach: AddressScope::Public, ..get(&server.url()) };
        assert_eq!(client.send(&stranger).await.unwrap_err().layer(), Some(ConnectStage::Reach));
        assert_eq!(server.heard().len(), 1);
    }
}
