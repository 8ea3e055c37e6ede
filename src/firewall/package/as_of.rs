//! Reconstructs a package as of another instant from its record. Only for explanations: never cached or served.

use std::sync::Arc;

use jiff::Timestamp;

use crate::firewall::package::history;
use crate::firewall::package::{Confirmation, PackageSnapshot};
use crate::npm::Packument;

impl PackageSnapshot {
    /// Returns the package as of `at`. A later instant yields the current state, as if confirmed then.
    pub(crate) fn as_of(&self, at: Timestamp) -> Self {
        let confirmed = Confirmation { validated: at, behind: None, ..self.confirmed };
        let mut then = Self { confirmed, ..self.clone() };
        if at < self.confirmed.validated {
            then.rewind_to(at);
        }
        then
    }

    fn rewind_to(&mut self, at: Timestamp) {
        let Some(packument) = &self.packument else { return };
        let was_there = |place: usize| self.provenance[place].effective <= at;
        let kept = self.provenance.iter().filter(|seen| seen.effective <= at).cloned().collect();
        let tags = self.tags_at(packument, at);
        self.packument = Some(Arc::new(packument.restricted_to(&was_there, tags)));
        self.provenance = kept;
        Arc::make_mut(&mut self.record).tags.retain(|sighting| sighting.first_seen <= at);
    }

    /// Returns the dist-tags as last seen before `at`. One not seen before keeps its current target, if that version existed.
    fn tags_at(&self, packument: &Packument, at: Timestamp) -> Vec<(Box<str>, Box<str>)> {
        let was_there = |version: &str| packument.find(version).is_some_and(|(place, _)| self.provenance[place].effective <= at);
        let seen = history::newest_sightings(self.record.tags.iter().filter(|sighting| sighting.first_seen <= at));
        let pointed =
            packument.dist_tags.iter().map(|(tag, target)| (tag, seen.get(&**tag).map_or(target, |sighting| &sighting.version)));
        pointed.filter(|(_, target)| was_there(target)).map(|(tag, target)| (tag.clone(), target.clone())).collect()
    }
}
