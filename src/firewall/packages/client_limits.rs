//! Limits what one client may cause with made-up package names and versions.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use moka::sync::Cache;

use crate::firewall::error::{FirewallError, Result};
use crate::firewall::package::CacheKey;
use crate::net::fair_limit::network_of;
use crate::units::timestamp;

/// The most names, packages and clients that are tracked, each.
const MAX_TRACKED: u64 = 10_000;

/// How long requests for nonexistent names count against a client.
const PERIOD: Duration = Duration::from_secs(24 * 3600);

/// Counts requests for nonexistent names per client. Each name is recorded in the ledger, so that a package that appears later
/// cannot claim to be old; one client must not fill it.
pub(crate) struct AbsentNames {
    /// Names that were just recorded as absent for the first time.
    pub new: Cache<CacheKey, ()>,
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
    pub(crate) fn check(&self, client: IpAddr) -> Result<()> {
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

/// The least interval between two rechecks of a package.
const RECHECK_INTERVAL: Duration = Duration::from_secs(10);

/// The most rechecks per client and [`WINDOW`]. An install needs one or two.
const MAX_PER_CLIENT: u32 = 60;
const WINDOW: Duration = Duration::from_mins(1);

/// Limits revalidations for unknown versions, which may be made up: one per package and interval, and a number per client.
pub(crate) struct RecheckLimit {
    /// Packages whose recheck found nothing new, by the views that share a history.
    pub in_vain: Cache<CacheKey, Timestamp>,
    /// The start of a window and the number of rechecks in it, by client network.
    clients: Cache<IpAddr, Arc<Mutex<(Timestamp, u32)>>>,
}

impl Default for RecheckLimit {
    fn default() -> Self {
        Self { in_vain: Cache::new(MAX_TRACKED), clients: Cache::new(MAX_TRACKED) }
    }
}

impl RecheckLimit {
    /// Checks whether upstream may have something newer than a package that it confirmed at `checked`.
    pub(crate) fn is_due(&self, shared: &CacheKey, checked: Timestamp, now: Timestamp) -> bool {
        let is_recent = |since| timestamp::is_within(since, RECHECK_INTERVAL, now);
        !is_recent(checked) && !self.in_vain.get(shared).is_some_and(is_recent)
    }

    /// Checks whether `client` may cause a recheck at `now`, and counts it.
    pub(crate) fn admits(&self, client: IpAddr, now: Timestamp) -> bool {
        let window = self.clients.get_with(network_of(client), || Arc::new(Mutex::new((now, 0))));
        let mut window = window.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, count) = &mut *window;
        if !timestamp::is_within(*since, WINDOW, now) {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        *count <= MAX_PER_CLIENT
    }
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
            names.new.insert(key(name), ());
            names.count(&key(name), address("2001:db8::1"));
            // The next client that requests the same name does not pay for it.
            names.count(&key(name), address("192.0.2.1"));
        }
        assert!(names.check(address("2001:db8::2")).is_err() && names.check(address("192.0.2.1")).is_ok());
        names.count(&key("known"), address("192.0.2.1"));
        assert!(names.check(address("192.0.2.1")).is_ok());
    }

    #[test]
    fn rechecks_are_limited_per_minute_and_client_network() {
        let (limit, now) = (RecheckLimit::default(), Timestamp::from_second(1_775_000_000).unwrap());
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let asked = |client: &str, now| limit.admits(address(client), now);
        assert!((0..MAX_PER_CLIENT).all(|_| asked("192.0.2.1", now)) && !asked("192.0.2.1", now));
        assert!(asked("192.0.2.2", now));
        assert!((0..MAX_PER_CLIENT).all(|last| asked(&format!("2001:db8::{last:x}"), now)));
        assert!(!asked("2001:db8::ffff", now) && asked("2001:db8:0:1::1", now));
        let later = now + WINDOW;
        assert!(asked("192.0.2.1", later));
        // A clock that was set back starts a new window.
        assert!(asked("192.0.2.1", now));
    }
}
