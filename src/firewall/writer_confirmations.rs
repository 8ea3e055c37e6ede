//! Remembers which tokens may write which packages.

use std::time::Duration;

use jiff::Timestamp;
use moka::sync::Cache;

use crate::firewall::package::CacheKey;
use crate::units::timestamp;

/// The most tokens of each kind that are remembered.
const MAX_CONFIRMATIONS: u64 = 10_000;

/// How long a failed confirmation is cached.
const REJECTION_TTL: Duration = Duration::from_secs(10);

/// How long a token stays confirmed for a package.
const CONFIRMATION_TTL: Duration = Duration::from_hours(1);

/// Tokens that upstream confirmed as writers of a package, and those that it did not, with the time.
pub(crate) struct WriterConfirmations {
    confirmed: Cache<CacheKey, Timestamp>,
    rejected: Cache<CacheKey, Timestamp>,
}

impl Default for WriterConfirmations {
    fn default() -> Self {
        Self { confirmed: Cache::new(MAX_CONFIRMATIONS), rejected: Cache::new(MAX_CONFIRMATIONS) }
    }
}

impl WriterConfirmations {
    pub(crate) fn confirm(&self, key: CacheKey, now: Timestamp) {
        self.confirmed.insert(key, now);
    }

    pub(crate) fn reject(&self, key: CacheKey, now: Timestamp) {
        self.rejected.insert(key, now);
    }

    /// Returns whether a token may write the package; `None` if upstream must be asked.
    pub(crate) fn find(&self, key: &CacheKey, now: Timestamp) -> Option<bool> {
        let is_within = |since: Option<Timestamp>, ttl| since.is_some_and(|since| timestamp::is_within(since, ttl, now));
        if is_within(self.confirmed.get(key), CONFIRMATION_TTL) {
            return Some(true);
        }
        is_within(self.rejected.get(key), REJECTION_TTL).then_some(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::package::CredentialScope;
    use crate::npm::PackageName;

    #[test]
    fn confirmation_of_a_token_lasts_an_hour_and_a_rejection_ten_seconds() {
        let (writers, at) =
            (WriterConfirmations::default(), |second: i64| Timestamp::from_second(1_775_000_000 + second).unwrap());
        let key = |token: u8| CacheKey { name: PackageName::parse("ui").unwrap(), partition: CredentialScope::Own([token; 32]) };
        assert_eq!(writers.find(&key(1), at(0)), None);
        writers.confirm(key(1), at(0));
        writers.reject(key(2), at(0));
        assert_eq!((writers.find(&key(1), at(3599)), writers.find(&key(1), at(3600))), (Some(true), None));
        assert_eq!((writers.find(&key(2), at(9)), writers.find(&key(2), at(10))), (Some(false), None));
    }
}
