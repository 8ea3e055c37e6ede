//! Counts requests for nonexistent names per client. Each name is recorded in the ledger, so that a package that appears later
//! cannot claim to be old; one client must not fill it.

use std::net::IpAddr;
use std::time::Duration;

use moka::sync::Cache;

use crate::firewall::error::FirewallError;
use crate::firewall::package::CacheKey;
use crate::net::fair_limit::network_of;

/// How long requests for nonexistent names count against a client.
const PERIOD: Duration = Duration::from_secs(24 * 3600);

/// The most names and clients that are tracked.
const MAX_TRACKED: u64 = 10_000;

pub(crate) struct AbsentNames {
    /// Names that were just recorded as absent for the first time.
    new: Cache<CacheKey, ()>,
    /// New absent names per client network.
    by_client: Cache<IpAddr, usize>,
    /// The most new names per client and [`PERIOD`].
    limit: usize,
}

impl AbsentNames {
    pub(crate) fn new(limit: usize) -> Self {
        let by_client = Cache::builder().max_capacity(MAX_TRACKED).time_to_live(PERIOD).build();
        Self { new: Cache::new(MAX_TRACKED), by_client, limit }
    }

    /// Records that the ledger has a name as absent for the first time.
    pub(crate) fn add(&self, key: &CacheKey) {
        self.new.insert(key.clone(), ());
    }

    /// Counts a name for the client that requested it first.
    pub(crate) fn count(&self, key: &CacheKey, client: IpAddr) {
        if self.new.remove(key).is_none() {
            return;
        }
        let client = network_of(client);
        let count = self.by_client.get(&client).unwrap_or_default();
        self.by_client.insert(client, count.saturating_add(1));
    }

    /// Checks whether a client may request further unknown names.
    pub(crate) fn check(&self, client: IpAddr) -> Result<(), FirewallError> {
        if self.by_client.get(&network_of(client)).is_some_and(|count| count >= self.limit) {
            return Err(too_many());
        }
        Ok(())
    }
}

/// Returns the error for more nonexistent names than can be recorded.
pub(crate) fn too_many() -> FirewallError {
    FirewallError::TooMany("too many packages requested that do not exist; try again tomorrow".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::package::CredentialScope;
    use crate::npm::PackageName;

    #[test]
    fn names_are_counted_once_for_the_first_client_and_limited_per_network() {
        let names = AbsentNames::new(2);
        let key = |name: &str| CacheKey { name: PackageName::parse(name).unwrap(), partition: CredentialScope::Anonymous };
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        for name in ["one", "two"] {
            assert!(names.check(address("2001:db8::1")).is_ok());
            names.add(&key(name));
            names.count(&key(name), address("2001:db8::1"));
            // The next client that requests the same name does not pay for it.
            names.count(&key(name), address("192.0.2.1"));
        }
        assert!(names.check(address("2001:db8::2")).is_err() && names.check(address("192.0.2.1")).is_ok());
        names.count(&key("known"), address("192.0.2.1"));
        assert!(names.check(address("192.0.2.1")).is_ok());
    }
}
