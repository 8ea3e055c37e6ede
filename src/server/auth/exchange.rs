//! Exchanges OIDC tokens of CI for access tokens of bounded life. Such a token lives for minutes, and an install may take longer.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::clock::Clock;
use crate::policy::Principal;
use crate::policy::access::issuer::TrustedIssuer;
use crate::policy::access::secret::{self, RANDOM_BYTES, TokenHash, TokenSecret};
use crate::policy::decisions::Signature;
use crate::server::auth::authenticator::Authenticator;
use crate::server::auth::issuing::issue_token;
use crate::server::auth::jwt::{self, UnverifiedJwt};
use crate::server::auth::key_sets::KeySets;
use crate::server::auth::presented::credentials_in;
use crate::server::error::{JwtError, RequestError};
use crate::store::{NewToken, TokenLedger, TokenRecord};
use crate::units::timestamp;

/// The most tokens that are remembered as exchanged, until they expire.
const MAX_EXCHANGED: usize = 50_000;

/// How long an exchanged token is remembered. Issuers give them minutes.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);

/// Exchanges tokens of trusted issuers.
pub(crate) struct TokenExchange {
    issuers: Vec<TrustedIssuer>,
    keys: KeySets,
    ledger: Arc<dyn TokenLedger>,
    auth: Arc<Authenticator>,
    clock: Arc<dyn Clock>,
    /// Digests of tokens that were exchanged, and since when.
    exchanged: Mutex<HashMap<TokenHash, Timestamp>>,
}

/// A new access token.
pub(crate) struct IssuedToken {
    pub(crate) secret: TokenSecret,
    pub(crate) record: TokenRecord,
}

impl TokenExchange {
    pub(crate) fn new(
        issuers: Vec<TrustedIssuer>,
        keys: KeySets,
        ledger: Arc<dyn TokenLedger>,
        auth: Arc<Authenticator>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { issuers, keys, ledger, auth, clock, exchanged: Mutex::default() }
    }

    /// Checks whether a header has a token that is meant for this server. Such a token is ours and not forwarded.
    pub(crate) fn is_ours(&self, header: &str) -> bool {
        self.any(header, UnverifiedJwt::is_for)
    }

    /// Checks whether a header has a token of a trusted issuer, for whichever audience.
    pub(crate) fn is_of_issuer(&self, header: &str) -> bool {
        self.any(header, |jwt, issuer| jwt.issuer == issuer.issuer)
    }

    fn any(&self, header: &str, fits: impl Fn(&UnverifiedJwt, &TrustedIssuer) -> bool) -> bool {
        let credentials = credentials_in(header);
        let tokens = credentials.iter().filter(|credential| is_jwt(credential)).filter_map(|jwt| UnverifiedJwt::parse(jwt).ok());
        tokens.into_iter().any(|jwt| self.issuers.iter().any(|issuer| fits(&jwt, issuer)))
    }

    /// Verifies the token in a header and issues an access token, once.
    pub(crate) async fn exchange(&self, client: IpAddr, header: Option<&str>) -> Result<IssuedToken, RequestError> {
        let issued = self.try_exchange(header).await;
        match &issued {
            Ok(IssuedToken { record, .. }) => {
                let NewToken { label, created, .. } = &record.token;
                tracing::info!(client.address = %client, client.user = label, token.issuer = created.who, "access token issued");
            }
            Err(RequestError::ExchangeRefused(_) | RequestError::ClaimsRefused | RequestError::AlreadyExchanged) => {
                self.auth.count_untrusted(client)?;
            }
            Err(_) => {}
        }
        issued
    }

    async fn try_exchange(&self, header: Option<&str>) -> Result<IssuedToken, RequestError> {
        let refused = RequestError::ExchangeRefused;
        let jwt = header.and_then(bearer).ok_or(JwtError::Malformed).map_err(refused)?;
        let unverified = UnverifiedJwt::parse(jwt).map_err(refused)?;
        let candidates: Vec<_> = self.issuers.iter().filter(|issuer| unverified.is_for(issuer)).collect();
        if candidates.is_empty() {
            return Err(refused(JwtError::Untrusted));
        }
        let now = self.clock.now();
        for issuer in candidates {
            let key = self.keys.find(&issuer.keys, &unverified.key_id).await?;
            let claims = jwt::verify(jwt, &issuer.into(), &key, now).map_err(refused)?;
            if issuer.accepts(&claims) {
                self.mark_exchanged(jwt, now)?;
                return self.issue(issuer, &claims, now).await;
            }
        }
        Err(RequestError::ClaimsRefused)
    }

    /// Refuses a token that was exchanged before. A copy of one from a log is worthless then.
    fn mark_exchanged(&self, jwt: &str, now: Timestamp) -> Result<(), RequestError> {
        // The signature has several spellings, what it signs has one.
        let signed = jwt.rsplit_once('.').map_or(jwt, |(signed, _)| signed);
        let digest = secret::hash(signed.as_bytes());
        let mut exchanged = self.exchanged.lock().unwrap_or_else(PoisonError::into_inner);
        if exchanged.len() >= MAX_EXCHANGED {
            exchanged.retain(|_, at| timestamp::is_within(*at, REMEMBERED, now));
        }
        match exchanged.contains_key(&digest) {
            true => Err(RequestError::AlreadyExchanged),
            false if exchanged.len() >= MAX_EXCHANGED => Err(RequestError::TooManyTokens),
            false => {
                exchanged.insert(digest, now);
                Ok(())
            }
        }
    }

    async fn issue(
        &self,
        issuer: &TrustedIssuer,
        claims: &Map<String, Value>,
        now: Timestamp,
    ) -> Result<IssuedToken, RequestError> {
        let mut random = [0; RANDOM_BYTES];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| RequestError::TaskFailed)?;
        let secret = TokenSecret::from_random(random);
        let token = NewToken {
            hash: secret.hash(),
            label: issuer.label(claims),
            role: issuer.grant.role,
            scope: issuer.grant.scope.clone(),
            expires: Some(timestamp::saturating_add(now, issuer.grant.lasts)),
            created: Signature { who: issuer.issuer.clone(), at: now },
            owner: Principal::Machine(issuer.issuer.as_str().into()),
        };
        let record = issue_token(&self.ledger, &self.auth, token).await?;
        Ok(IssuedToken { secret, record })
    }
}

/// Returns a bearer token that looks like a JWT.
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && is_jwt(token)).then_some(token)
}

fn is_jwt(token: &str) -> bool {
    token.starts_with("ey") && token.matches('.').count() == 2
}
