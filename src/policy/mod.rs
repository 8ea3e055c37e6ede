//! Floor 2: judges. Facts, rules and an instant make a verdict; nothing else does. Pure: no clock, no I/O, no async.

pub mod advisory;
pub mod advisory_index;
pub mod affected;
pub mod decision;
mod malware;
pub mod rule;
pub mod standing;
pub mod verdict;

pub use advisory::{Advisories, Advisory, Applicable, NO_ADVISORIES, PackageAdvisories, Severity, Trust};
pub use advisory_index::FeedAdvisories;
pub use affected::Span;
pub use rule::{Facts, PackageGlob, Policy, Presence, TAKEDOWN_AGE, is_takedown};
pub use standing::{Ground, Standing, judge};
pub use verdict::{Reason, RuleId, Verdict};
