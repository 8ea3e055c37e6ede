//! Connections to indicators that clients requested, stored as events. A hit does not say whether the connection was made.

use crate::npm::PackageName;
use crate::store::ledger::LedgerEvent;

/// The kind of these events, see [`LedgerEvent::kind`].
pub const KIND: &str = "exposure";

/// Separates client and target in the event's detail.
const ASKED_FOR: &str = " asked for ";

/// A client's request for a connection to an indicator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndicatorHit {
    pub advisory: String,
    pub feed: String,
    pub client: String,
    /// The target: host and port.
    pub place: String,
    pub package: Option<PackageName>,
}

impl IndicatorHit {
    pub fn to_event(&self) -> LedgerEvent {
        let Self { advisory, feed, client, place, package } = self;
        let detail = format!("{advisory} of the feed `{feed}`: {client}{ASKED_FOR}{place}");
        LedgerEvent { kind: KIND, name: package.clone(), version: None, detail }
    }

    /// Parses the detail of an event; `None` if the event is not an indicator hit.
    pub fn from_event(package: Option<&str>, detail: &str) -> Option<Self> {
        let (advisory, rest) = detail.split_once(" of the feed `")?;
        // The name of a feed has only letters, digits and dashes.
        let (feed, rest) = rest.split_once("`: ")?;
        let (client, place) = rest.split_once(ASKED_FOR)?;
        Some(Self {
            advisory: advisory.to_owned(),
            feed: feed.to_owned(),
            client: client.to_owned(),
            place: place.to_owned(),
            package: package.and_then(|name| PackageName::parse(name).ok()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hit_survives_the_round_trip_through_an_event() {
        let hit = IndicatorHit {
            advisory: "MAL-2026-2307".to_owned(),
            feed: "osv".to_owned(),
            client: "ada@10.0.0.1".to_owned(),
            place: "evil.example:443".to_owned(),
            package: PackageName::parse("axios").ok(),
        };
        let incident = hit.to_event();
        assert_eq!(IndicatorHit::from_event(Some("axios"), &incident.detail), Some(hit));
        assert_eq!(IndicatorHit::from_event(None, "MAL-1 of the feed `osv`: 10.0.0.1 (npm/11.21.2)"), None);
    }
}
