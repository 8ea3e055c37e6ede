//! Floor 2: judges. Facts, rules and an instant make a verdict; nothing else does. Pure: no clock, no I/O, no async.

pub mod rule;
pub mod verdict;

pub use rule::{Facts, PackageGlob, Policy, Presence, TAKEDOWN_AGE, is_takedown};
pub use verdict::{Reason, RuleId, Verdict};
