//! Decides which clients may read a stored tarball: all clients if its URL serves it without credentials, others if it serves it
//! to their own. A stored copy entitles no client. Results are cached per credentials and package.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use moka::sync::Cache;

use crate::firewall::error::Result;
use crate::firewall::package::stored_tarballs::{Place, StoredTarball};
use crate::firewall::package::{CacheKey, CredentialScope, PackageSnapshot};
use crate::firewall::packages::Services;
use crate::firewall::packages::fetch_slots::{SharedFetches, SlotRequest, Slots};
use crate::firewall::packages::ingest::{IngestEvent, PackageObserver};
use crate::firewall::recorder::outcome_of;
use crate::firewall::request::Client;
use crate::firewall::verdicts::cache::CachedPackage;
use crate::npm::{Digest, PackageName};
use crate::store::{PackageChange, TarballSource};
use crate::telemetry::{UpstreamOutcome, UpstreamWhat};
use crate::units::timestamp;
use crate::upstream::{Authorization, Offer, UpstreamError};

/// Memory for entitlements, in bytes. An evicted entry costs one request.
const SCOPES_BYTES: u64 = 16 << 20;

/// The approximate memory of an entitlement, in bytes.
const PLACE_BYTES: usize = 150;

/// The most entitlements per package and credentials. Most packages need one.
const MAX_PLACES: usize = 200;

/// The most packages remembered as private.
const MAX_PRIVATE: u64 = 10_000;

/// The known entitlements by credentials and package.
pub(crate) struct Entitlements {
    scopes: Cache<CacheKey, Arc<Scope>>,
    /// When a tarball URL of the package last served nothing without credentials.
    private: Cache<PackageName, Timestamp>,
}

/// The URL folders of a package that served a tarball to some credentials, with the last time, the newest last. Empty if upstream
/// refused since.
type Scope = Vec<(Arc<str>, Timestamp)>;

impl Default for Entitlements {
    fn default() -> Self {
        let weigher = |_: &CacheKey, scope: &Arc<Scope>| u32::try_from(PLACE_BYTES * (1 + scope.len())).unwrap_or(u32::MAX);
        Self { scopes: Cache::builder().max_capacity(SCOPES_BYTES).weigher(weigher).build(), private: Cache::new(MAX_PRIVATE) }
    }
}

impl Entitlements {
    /// Records that upstream served these credentials a tarball from `place`. Anonymous access is per URL and is recorded in the
    /// tarball itself.
    pub(crate) fn grant(&self, cache_key: &CacheKey, place: &Place, now: Timestamp) {
        if cache_key.partition == CredentialScope::Anonymous {
            return;
        }
        let text = &place.text;
        self.scopes.entry(cache_key.clone()).and_upsert_with(|package| {
            let package = package.map(moka::Entry::into_value).unwrap_or_default();
            let mut places: Scope = package.iter().filter(|(other, _)| other != text).cloned().collect();
            if places.len() >= MAX_PLACES {
                places.remove(0);
            }
            places.push((Arc::clone(text), now));
            Arc::new(places)
        });
    }

    /// Records that upstream refuses the package to these credentials.
    pub(crate) fn end(&self, cache_key: &CacheKey) {
        // Others have no entitlement to end and must not fill the memory.
        if cache_key.partition == CredentialScope::Lent || self.scopes.contains_key(cache_key) {
            self.scopes.insert(cache_key.clone(), Arc::default());
        }
    }

    /// Checks whether upstream served these credentials a tarball from `place` within `span`.
    fn holds(&self, cache_key: &CacheKey, place: &Place, span: Duration, now: Timestamp) -> bool {
        let scope = self.scopes.get(cache_key);
        let since = scope.as_ref().and_then(|scope| scope.iter().find(|(text, _)| *text == place.text));
        since.is_some_and(|(_, since)| timestamp::is_within(*since, span, now))
    }

    /// Checks whether no result is known for these credentials since the process started.
    fn is_unasked(&self, cache_key: &CacheKey) -> bool {
        !self.scopes.contains_key(cache_key)
    }
}

/// The key of a shared entitlement check: credentials, URL and bytes.
pub(crate) type EntitlementKey = (CacheKey, Box<str>, Digest);

/// The result of an entitlement check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entitled {
    /// The credentials are sufficient.
    Yes,
    /// The response is inconclusive. The tarball must be downloaded with these credentials and verified.
    Unclear,
}

impl PackageObserver for Entitlements {
    fn ingested(&self, _event: &mut IngestEvent<'_>) {}

    fn refused(&self, key: &CacheKey) {
        self.end(key);
    }
}

/// Decides who may read stored tarballs, and asks upstream if necessary.
pub(crate) struct EntitlementService {
    pub services: Arc<Services>,
    /// They count as long as a packument is fresh, and while upstream does not answer up to `max-stale`.
    pub known: Arc<Entitlements>,
    pub running: SharedFetches<EntitlementKey, Entitled>,
    pub slots: Arc<Slots>,
}

impl EntitlementService {
    /// Checks whether the credentials of `package` are known to be entitled to `stored`.
    pub(crate) fn is_entitled(&self, package: &PackageSnapshot, stored: &StoredTarball) -> bool {
        stored.is_public()
            || self.known.holds(&package.cache_key, &stored.place, self.services.cache.ttl, self.services.policy.now())
    }

    /// Checks whether the credentials of `package` may read a version that was removed upstream and whose tarball is not public.
    /// Configured credentials that can read the package may read its tarballs. A client's own token may read only those it received
    /// itself, because others may exist for other tokens.
    pub(crate) fn is_entitled_to_departed(&self, package: &PackageSnapshot, stored: &StoredTarball) -> bool {
        let is_shown = || package.packument.is_some() && stored.place.is_packages_own;
        let got_it =
            || self.known.holds(&package.cache_key, &stored.place, self.services.config.max_stale, self.services.policy.now());
        match package.cache_key.partition {
            CredentialScope::Anonymous => false,
            CredentialScope::Lent => is_shown(),
            CredentialScope::Own(_) => is_shown() && got_it(),
        }
    }

    /// Asks upstream whether the credentials of `package` may read `stored`, the tarball of the entry at `at`.
    pub(crate) async fn ask(
        self: &Arc<Self>,
        package: &Arc<CachedPackage>,
        at: usize,
        stored: &Arc<StoredTarball>,
        client: &Client,
    ) -> Result<Entitled> {
        let Some(address) =
            package.packument.as_ref().and_then(|packument| packument.entries.get(at)).map(|entry| &entry.tarball)
        else {
            return Ok(Entitled::Unclear);
        };
        let key = (package.cache_key.clone(), address.clone(), stored.name.clone());
        let slots = self.slots.of(&package.registry);
        let (inner, package, stored) = (Arc::clone(self), Arc::clone(package), Arc::clone(stored));
        let (authorization, limit) = (client.authorization.clone(), Arc::clone(&slots));
        let ask = move |request: SlotRequest<_>| async move {
            let _permit = request.permit(&limit).await;
            inner.find_entitlement(&package, at, &stored, &authorization).await
        };
        self.running.join(key, client.address, &slots, ask).await
    }

    async fn find_entitlement(
        self: &Arc<Self>,
        package: &Arc<CachedPackage>,
        at: usize,
        stored: &Arc<StoredTarball>,
        authorization: &Authorization,
    ) -> Result<Entitled> {
        let (cache_key, now) = (&package.cache_key, self.services.policy.now());
        let is_anonymous = cache_key.partition == CredentialScope::Anonymous;
        let is_recent = |since| timestamp::is_within(since, self.services.cache.ttl, now);
        let is_private = || self.known.private.get(&cache_key.name).is_some_and(is_recent);
        if !is_anonymous && !is_private() {
            if let Ok(Entitled::Yes) = self.ask_address(package, at, stored, &Authorization::None).await {
                self.make_public(package, at, stored).await;
                return Ok(Entitled::Yes);
            }
            self.known.private.insert(cache_key.name.clone(), now);
        }
        let authorization = if is_anonymous { &Authorization::None } else { authorization };
        let entitled = self.ask_address(package, at, stored, authorization).await;
        match &entitled {
            Ok(Entitled::Yes) if is_anonymous => self.make_public(package, at, stored).await,
            Ok(Entitled::Yes) => self.known.grant(cache_key, &stored.place, now),
            Err(error) if !is_no_answer(error) => self.known.end(cache_key),
            // Without a response, the last entitlement counts up to `max-stale`.
            Err(_) if self.known.holds(cache_key, &stored.place, self.services.config.max_stale, now) => {
                return Ok(Entitled::Yes);
            }
            // After a restart, the last packument served to the configured credentials counts as their entitlement.
            Err(_)
                if cache_key.partition == CredentialScope::Lent
                    && stored.place.is_packages_own
                    && self.known.is_unasked(cache_key)
                    && timestamp::is_within(package.confirmed.checked, self.services.config.max_stale, now) =>
            {
                return Ok(Entitled::Yes);
            }
            _ => {}
        }
        Ok(entitled?)
    }

    /// Requests the URL of the entry at `at` with these credentials.
    async fn ask_address(
        &self,
        package: &PackageSnapshot,
        at: usize,
        stored: &StoredTarball,
        authorization: &Authorization,
    ) -> Result<Entitled, UpstreamError> {
        let Some(entry) = package.packument.as_ref().and_then(|packument| packument.entries.get(at)) else {
            return Ok(Entitled::Unclear);
        };
        let asked = std::time::Instant::now();
        let offer = package.registry.offers_tarball(&entry.tarball, authorization).await;
        let outcome = offer.as_ref().map_or_else(outcome_of, |_| UpstreamOutcome::Changed);
        let detail = offer.as_ref().err().map(ToString::to_string);
        self.services.recorder.upstream_answered(
            UpstreamWhat::Tarball,
            Some(&package.cache_key.name),
            asked,
            outcome,
            detail.as_deref(),
        );
        match offer? {
            Offer::Bytes(length) if length == stored.length => Ok(Entitled::Yes),
            Offer::Bytes(_) | Offer::Unclear => Ok(Entitled::Unclear),
            // A login page: a success status, but not a tarball.
            Offer::Page => Err(UpstreamError::NotFound),
        }
    }

    /// Records that the URL of the entry at `at` serves `stored` without credentials.
    async fn make_public(self: &Arc<Self>, package: &Arc<CachedPackage>, at: usize, stored: &Arc<StoredTarball>) {
        stored.make_public();
        let Some(entry) = package.packument.as_ref().and_then(|packument| packument.entries.get(at)) else { return };
        let source = TarballSource {
            version: entry.key.clone(),
            address: entry.tarball.clone(),
            digests: stored.digests.clone(),
            length: stored.length,
            public: true,
        };
        let change = PackageChange { tarballs: vec![source], ..PackageChange::default() };
        let (recorder, key) = (Arc::clone(&self.services.recorder), package.cache_key.key(&package.registry));
        if self.services.workers.run(move || recorder.package_change(&key, &change)).await.is_err() {
            tracing::error!("ledger task failed");
        }
    }
}

/// Checks whether the error says nothing about the credentials: upstream was unreachable, too slow, or failed itself.
fn is_no_answer(error: &UpstreamError) -> bool {
    match error {
        UpstreamError::NotFound
        | UpstreamError::Denied { .. }
        | UpstreamError::Redirected { .. }
        | UpstreamError::TarballHost { .. } => false,
        UpstreamError::Status { status, .. } => *status >= 500 || matches!(status, 408 | 429),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_774_915_200 + second).unwrap()
    }

    #[test]
    fn entitlement_is_limited_to_its_span_and_folder_and_ends_when_refused() {
        let name = || PackageName::parse("@acme/secret").unwrap();
        let cache_key = |token: u8| CacheKey { name: name(), partition: CredentialScope::Own([token; 32]) };
        let place = |address: &str| Place::of(&name(), &format!("https://registry.example/{address}"));
        let (own, odd) = (place("@acme/secret/-/secret-1.0.0.tgz"), place("other/secret.tgz"));
        let (entitlements, span) = (Entitlements::default(), Duration::from_secs(300));
        assert!(!entitlements.holds(&cache_key(1), &own, span, at(0)));
        entitlements.grant(&cache_key(1), &own, at(0));
        let next = place("@acme/secret/-/secret-1.1.0.tgz");
        assert!(entitlements.holds(&cache_key(1), &next, span, at(299)) && !entitlements.holds(&cache_key(2), &own, span, at(1)));
        assert!(
            !entitlements.holds(&cache_key(1), &own, span, at(300)) && !entitlements.holds(&cache_key(1), &own, span, at(-1))
        );
        assert!(!entitlements.holds(&cache_key(1), &odd, span, at(1)));
        entitlements.end(&cache_key(1));
        assert!(!entitlements.holds(&cache_key(1), &own, span, at(1)) && !entitlements.is_unasked(&cache_key(1)));
        entitlements.grant(&cache_key(1), &odd, at(2));
        assert!(entitlements.holds(&cache_key(1), &odd, span, at(2)) && !entitlements.holds(&cache_key(1), &own, span, at(2)));
        for number in 0..2 * MAX_PLACES {
            entitlements.grant(&cache_key(1), &place(&format!("{number}.tgz")), at(3));
        }
        assert_eq!(entitlements.scopes.get(&cache_key(1)).unwrap().len(), MAX_PLACES);
        let anonymous = CacheKey { name: name(), partition: CredentialScope::Anonymous };
        entitlements.grant(&anonymous, &own, at(0));
        assert!(!entitlements.holds(&anonymous, &own, span, at(1)));
    }

    #[test]
    fn only_a_response_about_the_credentials_ends_an_entitlement() {
        let status = |status| UpstreamError::Status { host: "registry.example".into(), status, retry_after: None };
        for error in [status(500), status(429), UpstreamError::Broken { host: "registry.example".into(), detail: "cut".into() }] {
            assert!(is_no_answer(&error), "{error}");
        }
        let denied = UpstreamError::Denied { host: "registry.example".into(), status: 401, message: "no".into() };
        for error in [UpstreamError::NotFound, denied, status(400)] {
            assert!(!is_no_answer(&error), "{error}");
        }
    }
}
