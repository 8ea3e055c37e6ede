//! Limits what guessing tokens costs the server: beyond a number per minute and client, guesses are neither logged nor explained.
//! Valid tokens of the same address are never refused, because many clients may share one.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::net::fair_limit::network_of;

pub(crate) const WINDOW: Duration = Duration::from_secs(60);

/// Guesses per window. A client with a mistyped token makes a few dozen requests until it ends.
const MAX_GUESSES: u32 = 60;

/// Log lines about failures per window and client.
const MAX_LOGGED: u32 = 3;

/// Clients that are remembered. Beyond, all are forgotten: an attacker with more addresses is not limited by address.
const MAX_CLIENTS: usize = 10_000;

#[derive(Default)]
pub(crate) struct FailureLimit(Mutex<HashMap<IpAddr, Failures>>);

#[derive(Debug, Clone, Copy)]
struct Failures {
    since: Instant,
    guesses: u32,
    total: u32,
}

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FailureVerdict {
    pub(crate) is_logged: bool,
    /// Whether the client guesses too often.
    pub(crate) is_limited: bool,
}

impl FailureLimit {
    /// Counts a failure of a client. Only a token that was never issued counts as a guess, not one that has ended.
    pub(crate) fn record(&self, client: IpAddr, guesses: u32) -> FailureVerdict {
        let (client, now) = (network_of(client), Instant::now());
        let mut clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len() >= MAX_CLIENTS && !clients.contains_key(&client) {
            clients.retain(|_, failures| now < failures.since + WINDOW);
            if clients.len() >= MAX_CLIENTS {
                clients.clear();
            }
        }
        let fresh = Failures { since: now, guesses: 0, total: 0 };
        let failures = clients.entry(client).or_insert(fresh);
        if now >= failures.since + WINDOW {
            *failures = fresh;
        }
        failures.guesses = failures.guesses.saturating_add(guesses);
        failures.total = failures.total.saturating_add(1);
        FailureVerdict { is_logged: failures.total <= MAX_LOGGED, is_limited: guesses > 0 && failures.guesses > MAX_GUESSES }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[tokio::test(start_paused = true)]
    async fn guesses_are_limited_per_client_and_minute() {
        let limit = FailureLimit::default();
        let verdicts: Vec<_> = (0..=MAX_GUESSES).map(|_| limit.record(CLIENT, 1)).collect();
        assert_eq!(verdicts.iter().filter(|verdict| verdict.is_logged).count(), MAX_LOGGED as usize);
        assert_eq!(verdicts.iter().filter(|verdict| verdict.is_limited).count(), 1);
        assert!(!limit.record(CLIENT, 0).is_limited, "a token that has ended is not a guess");
        assert!(!limit.record(IpAddr::from([192, 0, 2, 1]), 1).is_limited);
        tokio::time::advance(WINDOW).await;
        assert_eq!(limit.record(CLIENT, 1), FailureVerdict { is_logged: true, is_limited: false });
    }

    #[tokio::test(start_paused = true)]
    async fn remembered_clients_are_bounded() {
        let limit = FailureLimit::default();
        for number in 0..=u32::try_from(MAX_CLIENTS).unwrap() {
            limit.record(IpAddr::from(number.to_be_bytes()), 1);
        }
        assert!(limit.0.lock().unwrap().len() <= MAX_CLIENTS);
    }
}
