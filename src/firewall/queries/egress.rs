//! Places beside the registry that clients want to go to, by what the feeds say of them. Refuses to connect anybody.

use std::net::IpAddr;

use crate::firewall::Components;
use crate::npm::PackageName;
use crate::policy::FeedTrust;
use crate::store::IndicatorHit;
use crate::telemetry::IndicatorContacted;

/// Somebody who wants to go to a place.
#[derive(Debug, Clone, Copy)]
pub struct EgressRequest<'a> {
    /// Who.
    pub client: IpAddr,
    /// By what name, if they logged in.
    pub user: Option<&'a str>,
    /// Where to: a name in lower case without a dot at its end, or an address.
    pub host: &'a str,
    /// What they asked for: host and port.
    pub place: &'a str,
}

impl Components {
    /// Why somebody may not go there: a feed lists it as what malware talks to. That they wanted to is an event, whether or not the
    /// feed is followed far enough to refuse them.
    pub(crate) fn contact(&self, contacting: &EgressRequest<'_>) -> Option<String> {
        let world = self.world();
        let found = world.advisories.indicated(contacting.host)?;
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
        .emit(&self.metrics);
        let contact = IndicatorHit {
            advisory: found.advisory.to_owned(),
            feed: found.feed.to_owned(),
            client,
            place: contacting.place.to_owned(),
            package: PackageName::parse(found.package).ok(),
        };
        self.ledger.record_incident(contact.incident(), self.clock.now());
        refused.then(|| {
            format!(
                "{} of the feed `{}` lists `{}` as what malware of `{}` talks to",
                found.advisory, found.feed, found.listed, found.package
            )
        })
    }
}
