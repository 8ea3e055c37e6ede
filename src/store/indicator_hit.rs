//! Who wanted to go where a feed says that malware calls home, as the ledger keeps it. Refuses to know whether they got there.

use crate::npm::PackageName;
use crate::store::ledger::LedgerEvent;

/// The kind of incident that this is one of, see [`LedgerEvent::kind`].
pub const KIND: &str = "exposure";

/// Between the client and the place.
const ASKED_FOR: &str = " asked for ";

/// Somebody asked for a place that a record lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndicatorHit {
    /// The record.
    pub advisory: String,
    /// The feed it stands in.
    pub feed: String,
    /// Who: an address, behind a name if they have one.
    pub client: String,
    /// Where to: host and port.
    pub place: String,
    /// The package that the record is about.
    pub package: Option<PackageName>,
}

impl IndicatorHit {
    /// The event of it.
    #[must_use]
    pub fn incident(&self) -> LedgerEvent {
        let Self { advisory, feed, client, place, package } = self;
        let detail = format!("{advisory} of the feed `{feed}`: {client}{ASKED_FOR}{place}");
        LedgerEvent { kind: KIND, name: package.clone(), version: None, detail }
    }

    /// Reads an event's detail; `None` for an event that is none of these.
    #[must_use]
    pub fn read(package: Option<&str>, detail: &str) -> Option<Self> {
        let (advisory, rest) = detail.split_once(" of the feed `")?;
        // A feed's name is one of letters, digits and dashes.
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
    fn what_is_written_is_read_again() {
        let contact = IndicatorHit {
            advisory: "MAL-2026-2307".to_owned(),
            feed: "osv".to_owned(),
            client: "ada@10.0.0.1".to_owned(),
            place: "evil.example:443".to_owned(),
            package: PackageName::parse("axios").ok(),
        };
        let incident = contact.incident();
        assert_eq!(IndicatorHit::read(Some("axios"), &incident.detail), Some(contact));
        assert_eq!(IndicatorHit::read(None, "MAL-1 of the feed `osv`: 10.0.0.1 (npm/11.21.2)"), None);
    }
}
