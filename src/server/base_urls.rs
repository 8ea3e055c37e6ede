//! The base URLs whose responses are cached: the server's own, and some that clients sent in `Host`. Each client has a limited
//! share of them, so invalid `Host` headers do not evict URLs that other clients use.

use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// Maximum number of cached base URLs that are neither our own nor configured.
const MAX_NAMED: usize = 8;

/// A base URL without requests for this time counts as unused. Long enough for a lunch break.
const IDLE_WINDOW: Duration = Duration::from_hours(1);

/// The base URLs. A known URL costs a read lock, and one atomic write per client and window.
#[derive(Debug)]
pub(crate) struct BaseUrls {
    own: Box<[Arc<str>]>,
    named: RwLock<BaseUrlWindow>,
    /// Counts insertions. It dates the last use of each entry.
    generation: AtomicU64,
    /// Randomly keyed, so that a client cannot choose an address that collides with another client.
    hashing: RandomState,
}

#[derive(Debug)]
struct BaseUrlWindow {
    entries: Vec<BaseUrlUse>,
    window_start: Instant,
}

#[derive(Debug)]
struct BaseUrlUse {
    text: Arc<str>,
    /// The clients that used it in this window, as a bit set of 64 hash values. Only their number matters.
    clients: AtomicU64,
    /// The clients of the previous window.
    earlier: u64,
    last_used: AtomicU64,
}

impl BaseUrls {
    /// Creates a set in which `own` are permanent.
    pub(crate) fn new(own: Vec<Arc<str>>) -> Self {
        let named = BaseUrlWindow { entries: Vec::with_capacity(MAX_NAMED), window_start: Instant::now() };
        Self { own: own.into(), named: RwLock::new(named), generation: AtomicU64::new(0), hashing: RandomState::new() }
    }

    /// Returns the base URL joined from `parts`, and whether responses for it are cached.
    pub(crate) fn resolve(&self, parts: &[&str; 4], client: IpAddr) -> (Arc<str>, bool) {
        if let Some(text) = self.own.iter().find(|text| is_joined(text, parts)) {
            return (Arc::clone(text), true);
        }
        let client = self.client_bit(client);
        let find = |named: &BaseUrlWindow| {
            let entry = named.entries.iter().find(|entry| is_joined(&entry.text, parts))?;
            entry.note_use(client, self.generation.load(Ordering::Relaxed));
            Some(Arc::clone(&entry.text))
        };
        let found = find(&self.named.read().unwrap_or_else(PoisonError::into_inner));
        if let Some(text) = found {
            return (text, true);
        }
        let mut named = self.named.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(text) = find(&named) {
            return (text, true);
        }
        let text: Arc<str> = parts.concat().into();
        named.advance(Instant::now());
        if named.entries.len() >= MAX_NAMED {
            let Some(victim) = named.victim(client) else { return (text, false) };
            named.entries.swap_remove(victim);
        }
        let last_used = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        named.entries.push(BaseUrlUse {
            text: Arc::clone(&text),
            clients: client.into(),
            earlier: 0,
            last_used: last_used.into(),
        });
        (text, true)
    }

    /// Returns the bit of a client. All loopback addresses count as one client, and so does each IPv6 /64 network.
    fn client_bit(&self, client: IpAddr) -> u64 {
        let hash = match client.to_canonical() {
            address if address.is_loopback() => self.hashing.hash_one(Ipv4Addr::LOCALHOST),
            IpAddr::V4(address) => self.hashing.hash_one(address),
            IpAddr::V6(address) => self.hashing.hash_one(&address.octets()[..8]),
        };
        1 << (hash % 64)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.own.len() + self.named.read().unwrap().entries.len()
    }
}

impl BaseUrlWindow {
    /// Moves to the current window and drops uses that are older than the previous one.
    fn advance(&mut self, now: Instant) {
        let windows = now.saturating_duration_since(self.window_start).as_secs() / IDLE_WINDOW.as_secs();
        if windows == 0 {
            return;
        }
        self.window_start = now;
        for entry in &mut self.entries {
            let current = std::mem::take(entry.clients.get_mut());
            entry.earlier = if windows == 1 { current } else { 0 };
        }
    }

    /// Returns the entry to evict for `client`: an unused one, else the least recently used entry of the client with the most
    /// entries of its own. An entry that several clients use is never evicted.
    fn victim(&self, client: u64) -> Option<usize> {
        let users: Vec<u64> = self.entries.iter().map(BaseUrlUse::users).collect();
        let share = |user: u64| users.iter().filter(|other| **other == user).count();
        let held = share(client);
        let rank = |at: &usize| {
            let user = users[*at];
            let order = (share(user), std::cmp::Reverse(self.entries[*at].last_used.load(Ordering::Relaxed)));
            match user.count_ones() {
                0 => Some((true, order)),
                1 if user == client || order.0 > held => Some((false, order)),
                _ => None,
            }
        };
        (0..self.entries.len()).filter_map(|at| Some((rank(&at)?, at))).max().map(|(_, at)| at)
    }
}

impl BaseUrlUse {
    fn note_use(&self, client: u64, generation: u64) {
        if self.clients.load(Ordering::Relaxed) & client == 0 {
            self.clients.fetch_or(client, Ordering::Relaxed);
        }
        if self.last_used.load(Ordering::Relaxed) != generation {
            self.last_used.store(generation, Ordering::Relaxed);
        }
    }

    fn users(&self) -> u64 {
        self.clients.load(Ordering::Relaxed) | self.earlier
    }
}

/// Checks whether `text` is the concatenation of `parts`.
fn is_joined(text: &str, parts: &[&str; 4]) -> bool {
    parts.iter().try_fold(text, |rest, part| rest.strip_prefix(part)).is_some_and(str::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns base URLs and two clients with different bits.
    fn with_two_clients(own: &[&str]) -> (BaseUrls, [IpAddr; 2]) {
        let urls = BaseUrls::new(own.iter().map(|text| (*text).into()).collect());
        let first = IpAddr::from([10, 0, 0, 1]);
        let mut others = (2..=255).map(|last| IpAddr::from([10, 0, 0, last]));
        let other = others.find(|other| urls.client_bit(*other) != urls.client_bit(first)).unwrap();
        (urls, [first, other])
    }

    fn resolve(urls: &BaseUrls, host: &str, client: IpAddr) -> bool {
        let (text, cached) = urls.resolve(&["http", "://", host, ""], client);
        assert_eq!(*text, *format!("http://{host}"));
        cached
    }

    fn holds(urls: &BaseUrls, host: &str) -> bool {
        let named = urls.named.read().unwrap();
        named.entries.iter().any(|entry| *entry.text == *format!("http://{host}"))
    }

    #[test]
    fn junk_hosts_evict_only_entries_of_the_same_client() {
        let (urls, [people, junk]) = with_two_clients(&["http://own"]);
        assert!(resolve(&urls, "box", people));
        for number in 0..1_000 {
            assert!(resolve(&urls, &format!("junk-{number}"), junk) && holds(&urls, "box"), "{number}");
        }
        assert!(resolve(&urls, "own", junk) && urls.len() == 1 + MAX_NAMED);
    }

    #[test]
    fn new_host_is_cached_after_junk_hosts() {
        let (urls, [people, junk]) = with_two_clients(&[]);
        for number in 0..100 {
            resolve(&urls, &format!("junk-{number}"), junk);
        }
        assert!(resolve(&urls, "box", people) && holds(&urls, "box"));
        for number in 100..1_000 {
            resolve(&urls, &format!("junk-{number}"), junk);
        }
        assert!(holds(&urls, "box"));
    }

    #[test]
    fn host_shared_with_a_junk_client_is_not_evicted() {
        let (urls, [people, junk]) = with_two_clients(&[]);
        resolve(&urls, "box", junk);
        resolve(&urls, "box", people);
        for number in 0..1_000 {
            resolve(&urls, &format!("junk-{number}"), junk);
        }
        assert!(holds(&urls, "box"));
    }

    #[test]
    fn frequently_used_host_is_not_evicted() {
        let (urls, [people, _]) = with_two_clients(&[]);
        for number in 0..100 {
            resolve(&urls, &format!("strange-{number}"), people);
            resolve(&urls, "box", people);
        }
        assert!(holds(&urls, "box") && holds(&urls, "strange-99") && !holds(&urls, "strange-0"));
    }

    #[test]
    fn shared_hosts_are_evicted_when_idle() {
        let (urls, [people, junk]) = with_two_clients(&[]);
        for number in 0..MAX_NAMED {
            resolve(&urls, &format!("shared-{number}"), junk);
            resolve(&urls, &format!("shared-{number}"), people);
        }
        assert!(!resolve(&urls, "box", people), "all are in use");
        let start = urls.named.read().unwrap().window_start;
        urls.named.write().unwrap().advance(start + IDLE_WINDOW);
        assert!(!resolve(&urls, "box", people), "all were in use an hour ago");
        urls.named.write().unwrap().advance(start + 2 * IDLE_WINDOW);
        assert!(resolve(&urls, "box", people) && holds(&urls, "box"));
    }

    #[test]
    fn ipv6_network_and_loopback_each_count_as_one_client() {
        let urls = BaseUrls::new(Vec::new());
        let bit = |text: &str| urls.client_bit(text.parse().unwrap());
        assert_eq!(bit("2001:db8::1"), bit("2001:db8::ffff:2"));
        assert_eq!(bit("::ffff:10.0.0.1"), bit("10.0.0.1"));
        assert_eq!(bit("::1"), bit("127.0.0.9"));
    }
}
