//! Revalidates a package if an exact version is unknown, since it may be newer than the cached packument. Limited per package and
//! per client, so that made-up versions cost upstream one conditional request per interval.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use moka::sync::Cache;

use crate::firewall::Components;
use crate::firewall::package::CacheKey;
use crate::firewall::package::removed::RemovedVersion;
use crate::firewall::packages::fetch::{DocumentNeed, FetchRequest, PackageLookup};
use crate::firewall::request::Client;
use crate::net::fair_limit::network_of;
use crate::npm::Version;
use crate::units::timestamp;
use crate::upstream::CacheValidators;

/// The least interval between two rechecks of a package.
const RECHECK_INTERVAL: Duration = Duration::from_secs(10);

/// The most rechecks per client and [`WINDOW`]. An install needs one or two.
const MAX_PER_CLIENT: u32 = 60;
const WINDOW: Duration = Duration::from_mins(1);

/// The most packages and clients that are tracked.
const MAX_TRACKED: u64 = 10_000;

/// The start of a window and the number of rechecks in it.
type Window = Arc<Mutex<(Timestamp, u32)>>;

/// Recent rechecks.
pub(crate) struct OnceMore {
    /// Packages whose recheck found nothing new, by the views that share a history.
    in_vain: Cache<CacheKey, Timestamp>,
    clients: Cache<IpAddr, Window>,
}

impl Default for OnceMore {
    fn default() -> Self {
        Self { in_vain: Cache::new(MAX_TRACKED), clients: Cache::new(MAX_TRACKED) }
    }
}

impl OnceMore {
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

impl Components {
    /// Revalidates a package because `version` of it is unknown. Returns `None` if that is not an exact version or is known to be
    /// removed, if no conditional request is possible, or if the last check is too recent.
    pub(crate) async fn ask_once_more(
        self: &Arc<Self>,
        client: &Client,
        reading: &PackageLookup,
        version: &str,
        need: DocumentNeed,
    ) -> Option<PackageLookup> {
        let (known, now) = (&reading.known, self.clock.now());
        let shared = known.slot.shared();
        let is_answered = reading.stale.is_some()
            || known.packument.is_none()
            || known.validators() == CacheValidators::default()
            || timestamp::is_within(known.checked, RECHECK_INTERVAL, now)
            || self.once_more.in_vain.get(&shared).is_some_and(|since| timestamp::is_within(since, RECHECK_INTERVAL, now));
        // It may be missing for one client's token only.
        let has_left = || !known.slot.is_client_scoped() && RemovedVersion::is_known(known, version);
        if is_answered || Version::parse(version).is_none() || has_left() {
            return None;
        }
        let (slot, registry) = (known.slot.clone(), Arc::clone(&known.registry));
        let request = FetchRequest { not_before: Some(now), ..FetchRequest::new(client, slot, registry, need) };
        // Requests during a recheck share its result.
        if !self.packument_fetches.is_under_way(&self.fetch_key(&request)) && !self.once_more.admits(client.address, now) {
            return None;
        }
        let again = self.fetch_or_stale(request, now).await.ok();
        if let Some(again) = &again {
            self.judge_many(&again.known, client.profile, client.address).await;
        }
        let Some(newer) = again.as_ref().filter(|again| again.known.content != known.content) else {
            self.once_more.in_vain.insert(shared, now);
            return again;
        };
        if newer.stale.is_some() {
            return again;
        }
        // The new verdicts may depend on missing fields or on the parent package, like those of the previous document.
        let whole = self.lookup(client, &known.slot.name, need, None).await.ok();
        whole.or(again)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rechecks_are_limited_per_minute_and_client_network() {
        let (once_more, now) = (OnceMore::default(), Timestamp::from_second(1_775_000_000).unwrap());
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let asked = |client: &str, now| once_more.admits(address(client), now);
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
