//! Signing in at an OIDC provider: authorization code with PKCE. A person who signs in gets an access token that no one sees, so that
//! `coldframe token` lists and revokes sessions, and the ledger names the person.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use url::{Url, form_urlencoded};

use crate::clock::Clock;
use crate::net::{AddressScope, ClientRequest, HttpClient};
use crate::policy::access::issuer::is_secure;
use crate::policy::access::secret::{self, RANDOM_BYTES, TokenSecret};
use crate::policy::access::sign_in_provider::SignInProvider;
use crate::policy::decisions::Signature;
use crate::policy::{PackageScope, Principal};
use crate::server::auth::authenticator::Authenticator;
use crate::server::auth::issuing::issue_token;
use crate::server::auth::jwt::{self, ExpectedToken, UnverifiedJwt};
use crate::server::auth::key_sets::KeySets;
use crate::server::auth::sessions::PendingSignIn;
use crate::server::error::{JwtError, RequestError};
use crate::store::{NewToken, TokenLedger};
use crate::text::json_error;
use crate::units::timestamp;

/// How long the provider's configuration is used, and the least time between two attempts to read it.
const FRESH: Duration = Duration::from_secs(3600);
const ATTEMPT_INTERVAL: Duration = Duration::from_secs(5);

const DEADLINE: Duration = Duration::from_secs(10);

/// The largest answers of a provider.
const MAX_CONFIGURATION_BYTES: u64 = 256 << 10;
const MAX_TOKENS_BYTES: u64 = 128 << 10;

/// The longest authorization code.
const MAX_CODE_BYTES: usize = 4_096;

/// Codes that are exchanged at a time. Anyone can send some.
const MAX_EXCHANGES: usize = 16;

/// Signs people in at one provider.
pub(crate) struct OidcSignIn {
    provider: SignInProvider,
    secret: Option<String>,
    client: HttpClient,
    clock: Arc<dyn Clock>,
    ledger: Arc<dyn TokenLedger>,
    auth: Arc<Authenticator>,
    endpoints: Mutex<Option<(Arc<Endpoints>, Duration)>>,
    /// When the provider's configuration was last asked for. Held meanwhile.
    attempted: tokio::sync::Mutex<Option<Duration>>,
    exchanges: Semaphore,
}

/// What a provider says of itself.
struct Endpoints {
    authorization: Url,
    token: Url,
    keys_at: Url,
    keys: KeySets,
}

#[derive(Deserialize)]
struct ProviderConfiguration {
    issuer: String,
    authorization_endpoint: Url,
    token_endpoint: Url,
    jwks_uri: Url,
}

#[derive(Deserialize)]
struct TokenAnswer {
    id_token: String,
}

/// What a provider sent back with the browser.
pub(crate) struct ProviderReply {
    pub(crate) code: String,
    pub(crate) redirect: String,
    pub(crate) pending: PendingSignIn,
}

/// What people are signed in with.
pub(crate) struct OidcParts {
    pub(crate) client: HttpClient,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ledger: Arc<dyn TokenLedger>,
    pub(crate) auth: Arc<Authenticator>,
}

impl OidcSignIn {
    pub(crate) fn new(provider: SignInProvider, secret: Option<String>, parts: OidcParts) -> Self {
        let OidcParts { client, clock, ledger, auth } = parts;
        let (endpoints, attempted, exchanges) = (Mutex::default(), tokio::sync::Mutex::default(), Semaphore::new(MAX_EXCHANGES));
        Self { provider, secret, client, clock, ledger, auth, endpoints, attempted, exchanges }
    }

    /// Returns the provider's host, for the link to it.
    pub(crate) fn host(&self) -> String {
        self.provider.address.host_str().unwrap_or_default().to_owned()
    }

    /// Returns the address of the provider's page for a sign-in.
    pub(crate) async fn start(&self, pending: &PendingSignIn, redirect: &str) -> Result<Url, RequestError> {
        let mut url = self.endpoints().await?.authorization.clone();
        let challenge = URL_SAFE_NO_PAD.encode(secret::hash(pending.verifier.as_bytes()));
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &self.provider.client_id)
            .append_pair("redirect_uri", redirect)
            .append_pair("scope", &self.provider.scopes.join(" "))
            .append_pair("state", &pending.state)
            .append_pair("nonce", &pending.nonce)
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256");
        Ok(url)
    }

    /// Exchanges the code that the provider sent back. Returns the number of the person's token.
    pub(crate) async fn finish(&self, client: IpAddr, reply: &ProviderReply) -> Result<i64, RequestError> {
        let signed_in = self.try_finish(reply).await;
        match &signed_in {
            Ok((_, label)) => tracing::info!(client.address = %client, client.user = label, "signed in at the provider"),
            Err(RequestError::SignInFailed(_) | RequestError::ExchangeRefused(_)) => self.auth.count_untrusted(client)?,
            Err(_) => {}
        }
        signed_in.map(|(id, _)| id)
    }

    async fn try_finish(&self, reply: &ProviderReply) -> Result<(i64, String), RequestError> {
        let _permit = self.exchanges.try_acquire().map_err(|_| RequestError::ProviderUnavailable)?;
        if reply.code.is_empty() || reply.code.len() > MAX_CODE_BYTES {
            return Err(failed("the provider sent no authorization code"));
        }
        let endpoints = self.endpoints().await?;
        let token = self.id_token(&endpoints, reply).await?;
        let claims = self.verify(&endpoints, &token, &reply.pending.nonce).await?;
        let label = self
            .provider
            .label(&claims)
            .ok_or_else(|| failed("the provider does not state who you are, or has not verified it"))?;
        let role = self.provider.role(&claims).ok_or_else(|| failed("none of your groups has a role here"))?;
        let mut random = [0; RANDOM_BYTES];
        rand::fill(&mut random).map_err(|_| RequestError::TaskFailed)?;
        let now = self.clock.now();
        let token = NewToken {
            // No one has the token, so only the session can use it.
            hash: TokenSecret::from_random(random).hash(),
            label: label.clone(),
            role,
            scope: PackageScope::default(),
            expires: Some(timestamp::saturating_add(now, self.provider.lasts)),
            created: Signature { who: self.provider.issuer.clone(), at: now },
            owner: Principal::Person(label.as_str().into()),
        };
        let record = issue_token(&self.ledger, &self.auth, token).await?;
        Ok((record.id, label))
    }

    /// Returns the ID token for a code.
    async fn id_token(&self, endpoints: &Endpoints, reply: &ProviderReply) -> Result<String, RequestError> {
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "authorization_code")
            .append_pair("code", &reply.code)
            .append_pair("redirect_uri", &reply.redirect)
            .append_pair("code_verifier", &reply.pending.verifier)
            .append_pair("client_id", &self.provider.client_id)
            .finish();
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(secret) = &self.secret {
            let coded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
            let pair = STANDARD.encode(format!("{}:{}", coded(&self.provider.client_id), coded(secret)));
            let mut value = HeaderValue::try_from(format!("Basic {pair}")).map_err(|_| RequestError::ProviderUnavailable)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let request = ClientRequest {
            method: Method::POST,
            url: endpoints.token.clone(),
            headers,
            body: Bytes::from(form),
            reach: self.reach(&endpoints.token),
        };
        let (status, body) = self.ask(&request, MAX_TOKENS_BYTES).await?;
        if status != StatusCode::OK {
            tracing::warn!(status = status.as_u16(), "the sign-in provider refused a code");
            return Err(failed("the provider refused the authorization code"));
        }
        let answer: TokenAnswer = serde_json::from_slice(&body).map_err(|_| failed("the provider sent no ID token"))?;
        Ok(answer.id_token)
    }

    /// Returns the claims of an ID token that the provider signed for this sign-in.
    async fn verify(&self, endpoints: &Endpoints, token: &str, nonce: &str) -> Result<Map<String, Value>, RequestError> {
        let refused = RequestError::ExchangeRefused;
        let unverified = UnverifiedJwt::parse(token).map_err(refused)?;
        let issuer = &*self.provider.issuer;
        let expected = ExpectedToken { issuer, audience: &self.provider.client_id, algorithm: self.provider.algorithm };
        if !unverified.is_expected(&expected) {
            return Err(refused(JwtError::Untrusted));
        }
        let key = endpoints.keys.find(&endpoints.keys_at, &unverified.key_id).await?;
        let claims = jwt::verify(token, &expected, &key, self.clock.now()).map_err(refused)?;
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        // With several audiences, `azp` says whom the token was issued to.
        let party = text("azp");
        let is_for_us = party == Some(&*self.provider.client_id) || (party.is_none() && unverified.audiences.len() == 1);
        if text("nonce") != Some(nonce) || !is_for_us {
            return Err(refused(JwtError::Untrusted));
        }
        Ok(claims)
    }

    /// Returns the provider's endpoints, read at most once an hour.
    async fn endpoints(&self) -> Result<Arc<Endpoints>, RequestError> {
        let now = self.clock.elapsed();
        let known = |longest: Duration| {
            let known = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner).clone();
            known.filter(|(_, read)| now.saturating_sub(*read) < longest).map(|(endpoints, _)| endpoints)
        };
        if let Some(endpoints) = known(FRESH) {
            return Ok(endpoints);
        }
        let mut attempted = self.attempted.lock().await;
        if known(FRESH).is_none() && attempted.is_none_or(|attempted| now.saturating_sub(attempted) >= ATTEMPT_INTERVAL) {
            *attempted = Some(now);
            match self.discover().await {
                Ok(endpoints) => {
                    *self.endpoints.lock().unwrap_or_else(PoisonError::into_inner) = Some((Arc::new(endpoints), now));
                }
                Err(error) => tracing::warn!(provider = %self.provider.issuer, error, "sign-in provider not read"),
            }
        }
        known(FRESH * 24).ok_or(RequestError::ProviderUnavailable)
    }

    async fn discover(&self) -> Result<Endpoints, String> {
        let issuer = self.provider.issuer.trim_end_matches('/');
        let url = Url::parse(&format!("{issuer}/.well-known/openid-configuration")).map_err(|error| error.to_string())?;
        let (headers, reach) = (HeaderMap::new(), AddressScope::Anywhere);
        let request = ClientRequest { method: Method::GET, url, headers, body: Bytes::new(), reach };
        let (status, body) = self.ask(&request, MAX_CONFIGURATION_BYTES).await.map_err(|error| error.to_string())?;
        if status != StatusCode::OK {
            return Err(format!("unexpected status {}", status.as_u16()));
        }
        let read: ProviderConfiguration = serde_json::from_slice(&body).map_err(|error| json_error(&error))?;
        if read.issuer != self.provider.issuer {
            return Err("the configuration is of another issuer".to_owned());
        }
        if ![&read.authorization_endpoint, &read.token_endpoint, &read.jwks_uri].into_iter().all(is_secure) {
            return Err("an endpoint is not an `https` URL".to_owned());
        }
        let (client, clock, address) = (self.client.clone(), Arc::clone(&self.clock), read.jwks_uri.clone());
        let reach = self.reach(&address);
        let keys = KeySets::new(client, clock, std::iter::once(address)).limited_to(reach);
        Ok(Endpoints { authorization: read.authorization_endpoint, token: read.token_endpoint, keys_at: read.jwks_uri, keys })
    }

    /// Returns the addresses that an endpoint may have. The operator named the issuer's host; others must be public.
    fn reach(&self, url: &Url) -> AddressScope {
        if url.origin() == self.provider.address.origin() { AddressScope::Anywhere } else { AddressScope::Public }
    }

    async fn ask(&self, request: &ClientRequest, longest: u64) -> Result<(StatusCode, Bytes), RequestError> {
        let asking = async {
            let response = self.client.send(request).await.map_err(|error| error.to_string())?;
            let body = response.body.collect(longest, None).await.map_err(|error| error.to_string())?;
            Ok::<_, String>((response.status, body))
        };
        let answer = timeout(DEADLINE, asking).await.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        answer.map_err(|error| {
            tracing::warn!(provider = %self.provider.issuer, error, "sign-in provider not reached");
            RequestError::ProviderUnavailable
        })
    }
}

fn failed(why: &'static str) -> RequestError {
    RequestError::SignInFailed(why)
}
