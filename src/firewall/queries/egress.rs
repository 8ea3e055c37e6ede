//! Checks egress destinations against the indicators of the feeds.

use std::net::IpAddr;

use crate::firewall::components::Firewall;
use crate::npm::PackageName;
use crate::policy::FeedTrust;
use crate::store::IndicatorHit;
use crate::telemetry::IndicatorContacted;

/// A client's request to connect to a destination.
#[derive(Debug, Clone, Copy)]
pub struct EgressRequest<'a> {
    /// The client's address.
    pub client: IpAddr,
    /// The user name, if the client authenticated.
    pub user: Option<&'a str>,
    /// The destination: a lower-case host name without a trailing dot, or an IP address.
    pub host: &'a str,
    /// The requested host and port.
    pub place: &'a str,
}

impl Firewall {
    /// Returns the reason if a feed lists the destination as an indicator of malware and the feed's trust refuses it. Every hit
    /// is recorded as an event, refused or not.
    pub(crate) fn check_egress(&self, contacting: &EgressRequest<'_>) -> Option<String> {
        let policy_snapshot = self.0.policy.snapshot();
        let found = policy_snapshot.advisories.match_indicator(contacting.host)?;
        let client = match contacting.user {
            Some(user) => format!("{user}@{}", contacting.client),
            None => contacting.client.to_string(),
        };
        let refused = found.trust != FeedTrust::Warn;
        IndicatorContacted {
            place: contacting.place,
            advisory: found.advisory,
            feed: found.feed,
            package: found.package,
            client: &client,
            refused,
        }
        .emit(self.0.recorder.metrics());
        let contact = IndicatorHit {
            advisory: found.advisory.to_owned(),
            feed: found.feed.to_owned(),
            client,
            place: contacting.place.to_owned(),
            package: PackageName::parse(found.package).ok(),
        };
        self.0.recorder.ledger_event(contact.to_event());
        refused.then(|| {
            format!(
                "{} of the feed `{}` lists `{}` as contacted by malware in `{}`",
                found.advisory, found.feed, found.listed, found.package
            )
        })
    }
}
