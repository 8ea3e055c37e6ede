//! Verifies access tokens against the ledger's, which are in memory: a checksum, a hash, and one look-up. The look-up compares
//! hashes, so its duration tells nothing about a token.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::firewall::BaseUrl;
use crate::policy::access::secret::TokenHash;
use crate::policy::{AuthMethod, Identity};
use crate::server::auth::failure_limit::FailureLimit;
use crate::server::auth::presented::Presented;
use crate::server::config::AuthRequirement;
use crate::server::error::{RequestError, TokenRefusal};
use crate::store::TokenRecord;
use crate::telemetry::{AuthLabel, AuthenticationFailed, Metrics};
use crate::units::timestamp;

/// How exactly the last use of a token is recorded. A token is used thousands of times a minute.
const USE_INTERVAL: Duration = Duration::from_secs(3600);

impl From<TokenRefusal> for AuthLabel {
    fn from(refusal: TokenRefusal) -> Self {
        match refusal {
            TokenRefusal::Malformed => Self::Malformed,
            TokenRefusal::Unknown => Self::Unknown,
            TokenRefusal::Expired => Self::Expired,
            TokenRefusal::Revoked => Self::Revoked,
        }
    }
}

/// How long a server knows why an ended token is refused. Then the token is unknown.
pub(crate) const ENDED_KEPT: Duration = Duration::from_secs(24 * 3600);

/// The tokens of a server, and whether requests need one.
pub(crate) struct Authenticator {
    tokens: ArcSwap<TokenTable>,
    is_required: AtomicBool,
    failures: FailureLimit,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    /// Changes whenever tokens change or expire.
    changed: watch::Sender<()>,
    /// Until when expiries were noticed.
    noticed: Mutex<Timestamp>,
    /// Held while tokens are replaced, so that none is lost.
    writing: Mutex<()>,
}

#[derive(Default)]
struct TokenTable {
    revision: u64,
    by_hash: HashMap<TokenHash, Arc<TokenEntry>>,
    by_id: HashMap<i64, Arc<TokenEntry>>,
    /// When tokens expire, in order.
    expiries: Vec<Timestamp>,
}

struct TokenEntry {
    identity: Arc<Identity>,
    expires: Option<Timestamp>,
    is_revoked: bool,
    /// When it was last used, in Unix seconds, and what of that is recorded; or [`NEVER`].
    used: AtomicI64,
    recorded_use: AtomicI64,
}

/// No instant.
const NEVER: i64 = i64::MIN;

impl Authenticator {
    pub(crate) fn new(
        tokens: (u64, Vec<TokenRecord>),
        requirement: AuthRequirement,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            tokens: ArcSwap::from_pointee(TokenTable::new(tokens, &TokenTable::default())),
            is_required: AtomicBool::new(requirement == AuthRequirement::Required),
            failures: FailureLimit::default(),
            clock,
            metrics,
            changed: watch::Sender::new(()),
            noticed: Mutex::new(Timestamp::MIN),
            writing: Mutex::default(),
        }
    }

    /// Replaces all tokens by those of a revision. Requests from now on are judged by the new ones.
    pub(crate) fn replace(&self, (revision, records): (u64, Vec<TokenRecord>)) {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.tokens.store(Arc::new(TokenTable::new((revision, records), &self.tokens.load())));
        self.changed.send_replace(());
    }

    /// Adds a token that this process recorded as `revision`. If others were recorded meanwhile, the next reload has them all.
    pub(crate) fn add(&self, revision: u64, record: TokenRecord) {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.tokens.load();
        let mut table = before.without_ended(timestamp::saturating_sub(self.clock.now(), ENDED_KEPT));
        table.insert(record, &before);
        table.expiries.sort_unstable();
        if before.revision + 1 == revision {
            table.revision = revision;
        }
        self.tokens.store(Arc::new(table));
    }

    /// Returns the revision of the tokens that are applied.
    pub(crate) fn revision(&self) -> u64 {
        self.tokens.load().revision
    }

    pub(crate) fn set_requirement(&self, requirement: AuthRequirement) {
        self.is_required.store(requirement == AuthRequirement::Required, Ordering::Relaxed);
        self.changed.send_replace(());
    }

    pub(crate) fn is_required(&self) -> bool {
        self.is_required.load(Ordering::Relaxed)
    }

    /// Returns the identity of a token, or `None` if the client presented none. Counts the result.
    pub(crate) fn authenticate(&self, client: IpAddr, presented: Presented) -> Result<Option<Arc<Identity>>, RequestError> {
        let Presented::Token(hash) = presented else { return Ok(None) };
        let tokens = self.tokens.load();
        let entry = hash.and_then(|hash| tokens.by_hash.get(&hash));
        let now = self.clock.now();
        let verified = match (hash, entry) {
            (None, _) => Err(TokenRefusal::Malformed),
            (Some(_), None) => Err(TokenRefusal::Unknown),
            (Some(_), Some(entry)) => entry.check(now).map(|()| entry),
        };
        match verified {
            Ok(entry) => {
                entry.used.store(now.as_second(), Ordering::Relaxed);
                self.metrics.requests.authentications.of(AuthLabel::Accepted).inc();
                Ok(Some(Arc::clone(&entry.identity)))
            }
            Err(refusal) => Err(self.refuse(client, refusal, entry.map(|entry| &*entry.identity.subject))),
        }
    }

    /// Returns the error for a request without a token, with the line for `.npmrc`. Counts it.
    pub(crate) fn missing(&self, base: &BaseUrl) -> RequestError {
        self.metrics.requests.authentications.of(AuthLabel::Missing).inc();
        let place = base.text.split_once("://").map_or(&*base.text, |(_, place)| place);
        RequestError::TokenRequired(format!("//{}/:_authToken=TOKEN", place.trim_end_matches('/')))
    }

    /// Checks that an identity that was authenticated earlier, as that of a connection, is still valid.
    pub(crate) fn confirm(&self, identity: &Identity) -> Result<(), TokenRefusal> {
        let AuthMethod::Token(id) = identity.method else { return Ok(()) };
        self.tokens.load().by_id.get(&id).map_or(Err(TokenRefusal::Unknown), |entry| entry.check(self.clock.now()))
    }

    /// Returns the identity of the token with this number, for a session that it began. Counts its use.
    pub(crate) fn identity_of(&self, id: i64) -> Result<Arc<Identity>, TokenRefusal> {
        let tokens = self.tokens.load();
        let (entry, now) = (tokens.by_id.get(&id).ok_or(TokenRefusal::Unknown)?, self.clock.now());
        entry.check(now)?;
        entry.used.store(now.as_second(), Ordering::Relaxed);
        Ok(Arc::clone(&entry.identity))
    }

    /// Waits until an identity is no longer valid.
    pub(crate) async fn until_ended(&self, identity: &Identity) {
        let mut changed = self.changed.subscribe();
        // The sender is a field, so it is not closed while this waits.
        while self.confirm(identity).is_ok() && changed.changed().await.is_ok() {}
    }

    /// Wakes those that wait for the end of a token, if one expired since the last call.
    pub(crate) fn notice_expiry(&self) {
        let (now, tokens) = (self.clock.now(), self.tokens.load());
        let mut noticed = self.noticed.lock().unwrap_or_else(PoisonError::into_inner);
        let expired = |until: Timestamp| tokens.expiries.partition_point(|expires| *expires <= until);
        if expired(*noticed) < expired(now) {
            self.changed.send_replace(());
        }
        *noticed = now;
    }

    /// Returns the tokens whose last use must be recorded, with the time: those that were not for an hour.
    pub(crate) fn take_uses(&self) -> Vec<(i64, Timestamp)> {
        let mut uses = Vec::new();
        for (id, entry) in &self.tokens.load().by_id {
            let (used, recorded) = (entry.used.load(Ordering::Relaxed), entry.recorded_use.load(Ordering::Relaxed));
            let (Ok(at), known) = (Timestamp::from_second(used), Timestamp::from_second(recorded).ok()) else { continue };
            if known.is_none_or(|known| timestamp::saturating_add(known, USE_INTERVAL) <= at) {
                entry.recorded_use.store(used, Ordering::Relaxed);
                uses.push((*id, at));
            }
        }
        uses
    }

    /// Counts an OIDC token that was refused. Fails if the client sends too many.
    pub(crate) fn count_untrusted(&self, client: IpAddr) -> Result<(), RequestError> {
        self.metrics.requests.authentications.of(AuthLabel::Untrusted).inc();
        let verdict = self.failures.record(client, 1);
        if verdict.is_logged {
            AuthenticationFailed { client, user: None, reason: AuthLabel::Untrusted }.emit(&self.metrics);
        }
        if verdict.is_limited { Err(RequestError::TooManyGuesses) } else { Ok(()) }
    }

    /// Returns the error for a token of a sign-in form that is neither an access token nor an admin token. Counts it as a guess.
    pub(crate) fn refuse_unknown(&self, client: IpAddr) -> RequestError {
        self.refuse(client, TokenRefusal::Unknown, None)
    }

    fn refuse(&self, client: IpAddr, refusal: TokenRefusal, subject: Option<&str>) -> RequestError {
        self.metrics.requests.authentications.of(refusal.into()).inc();
        let is_guess = matches!(refusal, TokenRefusal::Malformed | TokenRefusal::Unknown);
        let verdict = self.failures.record(client, u32::from(is_guess));
        if verdict.is_logged {
            AuthenticationFailed { client, user: subject, reason: refusal.into() }.emit(&self.metrics);
        }
        if verdict.is_limited { RequestError::TooManyGuesses } else { RequestError::TokenRefused(refusal) }
    }
}

impl TokenTable {
    /// Indexes tokens. What is known of their use is taken from `before`.
    fn new((revision, records): (u64, Vec<TokenRecord>), before: &Self) -> Self {
        let mut table = Self { revision, ..Self::default() };
        for record in records {
            table.insert(record, before);
        }
        table.expiries.sort_unstable();
        table
    }

    /// Returns a table of the entries that did not expire before an instant.
    fn without_ended(&self, ended: Timestamp) -> Self {
        let is_kept = |entry: &TokenEntry| entry.expires.is_none_or(|expires| expires >= ended);
        let by_hash = self.by_hash.iter().filter(|(_, entry)| is_kept(entry)).map(|(hash, entry)| (*hash, Arc::clone(entry)));
        let by_id = self.by_id.iter().filter(|(_, entry)| is_kept(entry)).map(|(id, entry)| (*id, Arc::clone(entry)));
        let expiries = self.expiries.iter().copied().filter(|expires| *expires >= ended);
        Self { revision: self.revision, by_hash: by_hash.collect(), by_id: by_id.collect(), expiries: expiries.collect() }
    }

    fn insert(&mut self, record: TokenRecord, before: &Self) {
        let TokenRecord { id, token, last_used, revoked } = record;
        let known = before.by_id.get(&id);
        let recorded = last_used.map_or(NEVER, Timestamp::as_second);
        let load = |counter: fn(&TokenEntry) -> &AtomicI64| {
            known.map_or(recorded, |known| counter(known).load(Ordering::Relaxed).max(recorded))
        };
        let identity = Identity {
            subject: token.label.into(),
            role: token.role,
            scope: token.scope,
            method: AuthMethod::Token(id),
            principal: token.owner,
        };
        let entry = Arc::new(TokenEntry {
            identity: Arc::new(identity),
            expires: token.expires,
            is_revoked: revoked.is_some(),
            used: load(|entry| &entry.used).into(),
            recorded_use: load(|entry| &entry.recorded_use).into(),
        });
        self.expiries.extend(token.expires);
        self.by_hash.insert(token.hash, Arc::clone(&entry));
        self.by_id.insert(id, entry);
    }
}

impl TokenEntry {
    fn check(&self, now: Timestamp) -> Result<(), TokenRefusal> {
        match self {
            _ if self.is_revoked => Err(TokenRefusal::Revoked),
            _ if self.expires.is_some_and(|expires| expires <= now) => Err(TokenRefusal::Expired),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::policy::access::secret::TokenSecret;
    use crate::policy::decisions::Signature;
    use crate::policy::{PackageScope, Principal, Role};
    use crate::store::NewToken;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn secret(fill: u8) -> TokenSecret {
        TokenSecret::from_random([fill; 32])
    }

    fn record(fill: u8, expires: Option<Timestamp>) -> TokenRecord {
        let created = Signature { who: "ada".to_owned(), at: Timestamp::UNIX_EPOCH };
        let (hash, label, scope) = (secret(fill).hash(), format!("ci-{fill}"), PackageScope::default());
        let owner = Principal::Person("ada".into());
        let token = NewToken { hash, label, role: Role::Client, scope, expires, created, owner };
        TokenRecord { id: i64::from(fill), token, last_used: None, revoked: None }
    }

    fn authenticator(records: Vec<TokenRecord>, clock: &ManualClock) -> Authenticator {
        Authenticator::new((0, records), AuthRequirement::Optional, Arc::new(clock.clone()), Arc::default())
    }

    fn outcome(auth: &Authenticator, fill: u8) -> Result<String, String> {
        let presented = Presented::parse(&format!("Bearer {}", secret(fill).reveal()));
        match auth.authenticate(CLIENT, presented) {
            Ok(identity) => Ok(identity.unwrap().subject.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[tokio::test]
    async fn token_is_accepted_until_it_expires_or_is_revoked() {
        let clock = ManualClock::at(Timestamp::UNIX_EPOCH);
        let ends = Timestamp::UNIX_EPOCH + Duration::from_secs(60);
        let auth = authenticator(vec![record(1, Some(ends)), record(2, None)], &clock);
        assert_eq!((outcome(&auth, 1), outcome(&auth, 2)), (Ok("ci-1".to_owned()), Ok("ci-2".to_owned())));
        assert!(outcome(&auth, 3).unwrap_err().contains("unknown"));
        let identity = auth.authenticate(CLIENT, Presented::Token(Some(secret(1).hash()))).unwrap().unwrap();
        assert!(auth.confirm(&identity).is_ok());
        clock.advance(Duration::from_secs(60));
        assert!(outcome(&auth, 1).unwrap_err().contains("expired"));
        assert_eq!(auth.confirm(&identity), Err(TokenRefusal::Expired));
        auth.until_ended(&identity).await;
        let revoked = TokenRecord { revoked: Some(Signature { who: "ada".to_owned(), at: ends }), ..record(2, None) };
        auth.replace((1, vec![revoked]));
        assert!(outcome(&auth, 2).unwrap_err().contains("revoked") && outcome(&auth, 1).unwrap_err().contains("unknown"));
        assert_eq!(auth.confirm(&identity), Err(TokenRefusal::Unknown));
    }

    #[tokio::test]
    async fn added_token_is_accepted_and_a_gap_in_revisions_is_not_hidden() {
        let auth = authenticator(vec![record(1, None)], &ManualClock::at(Timestamp::UNIX_EPOCH));
        auth.add(1, record(2, None));
        assert_eq!(auth.revision(), 1);
        auth.add(3, record(3, None));
        assert_eq!(auth.revision(), 1, "the reload must read revision 2");
        assert!((1..=3).all(|fill| outcome(&auth, fill).is_ok()));
    }

    #[tokio::test]
    async fn tokens_that_ended_long_ago_are_forgotten_when_one_is_added() {
        let clock = ManualClock::at(Timestamp::UNIX_EPOCH);
        let ends = Timestamp::UNIX_EPOCH + Duration::from_secs(60);
        let auth = authenticator(vec![record(1, Some(ends)), record(2, None)], &clock);
        clock.advance(Duration::from_secs(60) + ENDED_KEPT);
        auth.add(1, record(3, None));
        assert!(outcome(&auth, 1).unwrap_err().contains("expired"));
        clock.advance(Duration::from_secs(1));
        auth.add(2, record(4, None));
        assert!(outcome(&auth, 1).unwrap_err().contains("unknown") && (2..=4).all(|fill| outcome(&auth, fill).is_ok()));
        assert!(auth.tokens.load().expiries.is_empty());
    }

    #[tokio::test]
    async fn request_without_a_token_is_not_authenticated() {
        let auth = authenticator(vec![record(1, None)], &ManualClock::at(Timestamp::UNIX_EPOCH));
        for presented in [Presented::Nothing, Presented::Foreign] {
            assert!(auth.authenticate(CLIENT, presented).unwrap().is_none());
        }
        assert!(matches!(
            auth.authenticate(CLIENT, Presented::Token(None)),
            Err(RequestError::TokenRefused(TokenRefusal::Malformed))
        ));
    }

    #[tokio::test]
    async fn guessing_is_limited_and_a_valid_token_of_the_same_address_is_not() {
        let auth = authenticator(vec![record(1, None)], &ManualClock::at(Timestamp::UNIX_EPOCH));
        let guesses = (0..1_000)
            .filter(|_| matches!(auth.authenticate(CLIENT, Presented::Token(Some([9; 32]))), Err(RequestError::TooManyGuesses)));
        assert!(guesses.count() > 900);
        assert!(outcome(&auth, 1).is_ok());
    }

    #[tokio::test]
    async fn use_is_recorded_once_an_hour() {
        let clock = ManualClock::at(Timestamp::UNIX_EPOCH);
        let auth = authenticator(vec![record(1, None), record(2, None)], &clock);
        assert_eq!(auth.take_uses(), []);
        outcome(&auth, 1).unwrap();
        assert_eq!(auth.take_uses(), [(1, clock.now())]);
        clock.advance(USE_INTERVAL / 2);
        outcome(&auth, 1).unwrap();
        auth.replace((1, vec![record(1, None)]));
        assert_eq!(auth.take_uses(), []);
        clock.advance(USE_INTERVAL / 2);
        outcome(&auth, 1).unwrap();
        assert_eq!(auth.take_uses(), [(1, clock.now())]);
    }
}
