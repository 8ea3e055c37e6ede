//! Limits revalidations for unknown versions, which may be made up: one per package and interval, and a number per client.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use moka::sync::Cache;

use crate::firewall::package::CacheKey;
use crate::net::fair_limit::network_of;
use crate::units::timestamp;

/// The least interval between two rechecks of a package.
const RECHECK_INTERVAL: Duration = Duration::from_secs(10);

/// The most rechecks per client and [`WINDOW`]. An install needs one or two.
const MAX_PER_CLIENT: u32 = 60;
const WINDOW: Duration = Duration::from_mins(1);

/// The most packages and clients that are tracked.
const MAX_TRACKED: u64 = 10_000;

/// The start of a window and the number of rechecks in it.
type Window = Arc<Mutex<(Timestamp, u32)>>;

/// Recent revalidations.
pub(crate) struct RecheckLimit {
    /// Packages whose recheck found nothing new, by the views that share a history.
    in_vain: Cache<CacheKey, Timestamp>,
    clients: Cache<IpAddr, Window>,
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

    /// Records that a revalidation found nothing new.
    pub(crate) fn mark_vain(&self, shared: CacheKey, now: Timestamp) {
        self.in_vain.insert(shared, now);
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
