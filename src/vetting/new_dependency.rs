//! What look-ups of a release's new dependencies mean for its signals.

use std::time::Duration;

use jiff::Timestamp;

use crate::units::timestamp;
use crate::vetting::compare::SignalReport;
use crate::vetting::names::Signal;

/// A dependency that was first published so shortly before the release that adds it counts as newborn.
const NEWBORN_AGE: Duration = Duration::from_secs(14 * 24 * 3600);

/// What upstream says of a dependency that no earlier release had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewDependency {
    /// It does not exist. An attacker may create it later.
    Absent,
    Present {
        /// `None` if upstream sends no publish times.
        first_published: Option<Timestamp>,
        /// Whether its `latest` version or a young one has install scripts.
        has_install_script: bool,
    },
}

impl SignalReport {
    /// Adds the signal of a dependency that is itself new or runs code at install. `effective` is when the release was published.
    pub fn add_dependency(&mut self, name: &str, dependency: NewDependency, effective: Timestamp) {
        let what = match dependency {
            NewDependency::Absent => format!("{name}, which does not exist"),
            NewDependency::Present { first_published: Some(first), .. }
                if timestamp::saturating_add(first, NEWBORN_AGE) > effective =>
            {
                format!("{name}, first published {}", timestamp::format_utc(first))
            }
            NewDependency::Present { has_install_script: true, .. } => format!("{name}, which has install scripts"),
            NewDependency::Present { .. } => return,
        };
        self.add(Signal::NewbornDependency, "", &what);
    }
}
