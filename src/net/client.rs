//! An HTTP/1.1 client with a pool, deadlines, limits, retries and outbound proxies. Refuses to know what it asks for, to
//! follow redirects and to judge a status: those are the caller's.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::Full;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use url::Url;

use super::client_body::BodyStream;
use super::client_connect::Connector;
use super::client_error::{ClientError, Layer};
use super::deadline::Deadlines;
use super::dial::Reach;
use super::proxies::Proxies;

/// The most that an answer's head may weigh, in bytes, and the most header lines in it.
const HEAD_BYTES: usize = 128 << 10;
const HEAD_LINES: usize = 128;

/// How often a request that changes nothing is tried again, and how long before the first time; then twice as long.
const RETRIES: u32 = 2;
const BACKOFF: Duration = Duration::from_millis(100);

/// How long a connection is kept for the next request, and how many to one host.
const KEPT_FOR: Duration = Duration::from_secs(30);
const KEPT_PER_HOST: usize = 64;

/// What a client is made of.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long things may take.
    pub deadlines: Deadlines,
    /// Outbound proxies.
    pub proxies: Proxies,
    /// Whom to trust, offering `http/1.1` only.
    pub tls: Arc<rustls::ClientConfig>,
    /// Sent with every request that brings none.
    pub user_agent: HeaderValue,
}

/// The client; clones share its pool.
#[derive(Clone)]
pub struct Client {
    /// One pool a reach: a connection made for one must never serve the other.
    anywhere: Pool,
    public: Pool,
    proxies: Proxies,
    deadlines: Deadlines,
    user_agent: HeaderValue,
}

type Pool = legacy::Client<Connector, Full<Bytes>>;

/// One request.
#[derive(Clone)]
pub struct Outgoing {
    /// The method. Only GET and HEAD are ever tried again.
    pub method: Method,
    /// An absolute `http` or `https` URL. Credentials in it are not sent.
    pub url: Url,
    /// End-to-end headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// Where it may go.
    pub reach: Reach,
}

/// The head of an answer, and its body on its way.
#[derive(Debug)]
pub struct Response {
    /// The status, whatever it is.
    pub status: StatusCode,
    /// The reason phrase, if it is not the usual one and can be read.
    pub reason: Option<String>,
    /// All headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: BodyStream,
}

impl Client {
    /// A client of `settings`. Connects to nothing.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
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
            anywhere: pool(Reach::Anywhere),
            public: pool(Reach::Public),
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
    pub async fn send(&self, request: &Outgoing) -> Result<Response, ClientError> {
        let retries = if matches!(request.method, Method::GET | Method::HEAD) { RETRIES } else { 0 };
        let mut attempt = 0;
        loop {
            match self.attempt(request).await {
                Err(error) if attempt < retries && error.is_passing() => {
                    tokio::time::sleep(pause(attempt)).await;
                    attempt += 1;
                }
                other => return other,
            }
        }
    }

    async fn attempt(&self, request: &Outgoing) -> Result<Response, ClientError> {
        let (request, by_proxy) = (self.prepare(request)?, request.reach);
        let pool = match by_proxy {
            Reach::Anywhere => &self.anywhere,
            Reach::Public => &self.public,
        };
        let absolute = request.uri().scheme_str() == Some("http") && self.proxies.of(request.uri()).is_some();
        let patience = self.deadlines.connect + self.deadlines.headers;
        let answer = tokio::time::timeout(patience, pool.request(request)).await;
        let answer = answer.map_err(|_| ClientError::TimedOut { after: self.deadlines.headers })?;
        let answer = answer.map_err(|error| ClientError::of_exchange(&error))?;
        if absolute && answer.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
            return Err(ClientError::unreachable(Layer::Proxy, "it wants other credentials (407)"));
        }
        let (head, incoming) = answer.into_parts();
        let reason = head.extensions.get::<hyper::ext::ReasonPhrase>();
        let reason = reason.and_then(|reason| std::str::from_utf8(reason.as_bytes()).ok()).map(str::to_owned);
        let body = BodyStream::begin(incoming, self.deadlines).await?;
        Ok(Response { status: head.status, reason, headers: head.headers, body })
    }

    fn prepare(&self, request: &Outgoing) -> Result<Request<Full<Bytes>>, ClientError> {
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
            && let Some(authorization) = self.proxies.of(&uri).and_then(|proxy| proxy.authorization)
        {
            prepared.headers_mut().insert(header::PROXY_AUTHORIZATION, authorization);
        }
        *prepared.uri_mut() = uri;
        Ok(prepared)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Client").field("proxies", &self.proxies).field("deadlines", &self.deadlines).finish_non_exhaustive()
    }
}

/// How long to wait after a failed attempt: between half and all of a doubling backoff, so that many do not return at once.
fn pause(attempt: u32) -> Duration {
    let whole = BACKOFF * 2u32.saturating_pow(attempt);
    // Freshly keyed hashers differ from call to call, which is all the chance that is needed.
    let dice = u32::from(RandomState::new().build_hasher().finish().to_le_bytes()[0]);
    whole / 2 + whole / 2 * dice / 255
}
