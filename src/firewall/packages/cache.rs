//! The packages in memory, and what is remembered of failed fetches and of writes through this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use moka::sync::Cache;

use crate::firewall::package::CacheKey;
use crate::firewall::packages::request::DocumentNeed;
use crate::firewall::policy_state::{EvalContext, Profile};
use crate::firewall::verdicts::cache::CachedPackage;
use crate::npm::PackageName;
use crate::units::timestamp;

/// How long a missing package is cached as missing.
pub(crate) const ABSENT_TTL: Duration = Duration::from_secs(60);

/// How long upstream is not asked for a package after a failure, while a stale packument can be served.
const BACKOFF: Duration = Duration::from_secs(5);

/// Entries in each cache of absent and unreachable packages.
const MAX_REMEMBERED: u64 = 10_000;

/// Package snapshots, bounded in bytes, and recent failures, bounded in number.
pub(crate) struct PackageCache {
    pub packages: Cache<CacheKey, Arc<CachedPackage>>,
    /// How long a packument is fresh.
    pub ttl: Duration,
    /// Packages that upstream does not have, with the time of that answer.
    pub absent: Cache<CacheKey, Timestamp>,
    /// Packages whose last fetch failed, with the time of the failure.
    pub unreachable: Cache<CacheKey, Timestamp>,
    /// Packages that were written through this process, with the time. They are revalidated before the next response.
    pub written: Cache<PackageName, Timestamp>,
    /// The newest time in `written`, in milliseconds since the epoch. Responses from memory compare only this value.
    last_written: AtomicI64,
}

impl PackageCache {
    pub(crate) fn new(bytes: u64, ttl: Duration) -> Self {
        let packages = Cache::builder().max_capacity(bytes).weigher(|_, package: &Arc<CachedPackage>| package.weight());
        Self {
            packages: packages.build(),
            ttl,
            absent: Cache::new(MAX_REMEMBERED),
            unreachable: Cache::new(MAX_REMEMBERED),
            written: Cache::new(MAX_REMEMBERED),
            last_written: AtomicI64::new(i64::MIN),
        }
    }

    pub(crate) fn get(&self, key: &CacheKey) -> Option<Arc<CachedPackage>> {
        self.packages.get(key)
    }

    pub(crate) fn fresh(
        &self,
        key: &CacheKey,
        profile: Profile,
        need: DocumentNeed,
        context: &EvalContext,
    ) -> Option<Arc<CachedPackage>> {
        self.packages.get(key).filter(|package| need.is_met_by(package) && self.is_fresh(package, profile, context))
    }

    /// Checks whether `package` may be used without asking upstream: within its TTL, no held version may have opened since the
    /// check, and no write went through this process. A clock that was set back makes it stale.
    pub(crate) fn is_fresh(&self, package: &CachedPackage, profile: Profile, context: &EvalContext) -> bool {
        let &EvalContext { now, ref policy_snapshot } = context;
        // A package with many versions must be evaluated off the async threads first.
        if !package.is_judged(policy_snapshot, profile) {
            return false;
        }
        let opening = package.verdicts(policy_snapshot, profile).next_opening;
        let opened = opening.is_some_and(|opening| package.confirmed.checked < opening && opening <= now);
        timestamp::is_within(package.confirmed.checked, self.ttl, now)
            && !opened
            && self.outlives_writes(&package.cache_key.name, package.confirmed.checked)
    }

    /// Caches a package, also for requests with other tokens.
    pub(crate) fn insert(&self, package: &Arc<CachedPackage>) {
        if package.cache_key.is_client_scoped() {
            self.insert_at(&package.cache_key.shared(), package);
        }
        self.insert_at(&package.cache_key, package);
    }

    /// Caches a package for requests with these credentials only.
    pub(crate) fn insert_at(&self, key: &CacheKey, package: &Arc<CachedPackage>) {
        self.packages.insert(key.clone(), Arc::clone(package));
    }

    /// Drops every view of a package, so that upstream is asked before the next response.
    pub(crate) fn forget(&self, name: &PackageName) {
        let keys: Vec<_> = self.packages.iter().map(|(key, _)| key).filter(|key| key.name == *name).collect();
        for key in keys {
            self.packages.invalidate(&*key);
        }
    }

    /// Checks whether the package is cached for any token, or was missing within the last minute.
    pub(crate) fn is_known(&self, key: &CacheKey, now: Timestamp) -> bool {
        let is_absent = || self.absent.get(key).is_some_and(|since| timestamp::is_within(since, ABSENT_TTL, now));
        self.packages.contains_key(key) || self.packages.contains_key(&key.shared()) || is_absent()
    }

    /// Checks whether upstream said within the last minute, and since the last write, that it has no such package.
    pub(crate) fn is_absent(&self, key: &CacheKey, now: Timestamp) -> bool {
        let counts = |since| timestamp::is_within(since, ABSENT_TTL, now) && self.outlives_writes(&key.name, since);
        self.absent.get(key).is_some_and(counts)
    }

    /// Checks whether a fetch failed recently, and since the last write.
    pub(crate) fn is_backing_off(&self, key: &CacheKey, now: Timestamp) -> bool {
        let counts = |since| timestamp::is_within(since, BACKOFF, now) && self.outlives_writes(&key.name, since);
        self.unreachable.get(key).is_some_and(counts)
    }

    pub(crate) fn clear_failures(&self, key: &CacheKey) {
        self.absent.invalidate(key);
        self.unreachable.invalidate(key);
    }

    /// Records a write through this process: what was cached before in any view, also a failure, is not used any more.
    pub(crate) fn invalidate(&self, name: &PackageName, now: Timestamp) {
        self.written.insert(name.clone(), now);
        self.last_written.fetch_max(now.as_millisecond(), Ordering::Relaxed);
    }

    fn outlives_writes(&self, name: &PackageName, since: Timestamp) -> bool {
        since.as_millisecond() > self.last_written.load(Ordering::Relaxed)
            || self.written.get(name).is_none_or(|written| since > written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::package::CredentialScope;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_775_000_000 + second).unwrap()
    }

    fn key(name: &str) -> CacheKey {
        CacheKey { name: PackageName::parse(name).unwrap(), partition: CredentialScope::Anonymous }
    }

    #[test]
    fn failures_count_for_a_while_and_end_with_a_write() {
        let (cache, key) = (PackageCache::new(1 << 20, Duration::from_secs(300)), key("left-pad"));
        cache.absent.insert(key.clone(), at(0));
        cache.unreachable.insert(key.clone(), at(0));
        assert!(cache.is_absent(&key, at(59)) && !cache.is_absent(&key, at(60)));
        assert!(cache.is_backing_off(&key, at(4)) && !cache.is_backing_off(&key, at(5)));
        // A clock that was set back does not prolong them.
        assert!(!cache.is_absent(&key, at(-1)) && !cache.is_backing_off(&key, at(-1)));
        cache.invalidate(&key.name, at(1));
        assert!(!cache.is_absent(&key, at(2)) && !cache.is_backing_off(&key, at(2)));
        // What upstream said after the write counts.
        cache.absent.insert(key.clone(), at(3));
        assert!(cache.is_absent(&key, at(4)));
        cache.clear_failures(&key);
        assert!(!cache.is_absent(&key, at(4)));
    }

    #[test]
    fn write_to_one_package_leaves_others() {
        let (cache, written, other) = (PackageCache::new(1 << 20, Duration::from_secs(300)), key("axios"), key("react"));
        cache.absent.insert(other.clone(), at(0));
        cache.invalidate(&written.name, at(10));
        assert!(cache.is_absent(&other, at(20)));
        assert_eq!(cache.written.get(&written.name), Some(at(10)));
        assert_eq!(cache.written.get(&other.name), None);
    }
}
