//! Judges. Facts, rules and an instant make a verdict; nothing else does. Pure: no clock, no I/O, no async.

pub mod advisories;
pub mod cases;
pub mod decisions;
pub mod facts;
pub mod invariants;
mod malware;
pub mod presets;
pub mod replay;
pub mod rules;
pub mod trace;
pub mod verdict;

pub use advisories::affected::Span;
pub use advisories::index::FeedAdvisories;
pub use advisories::indicators::Indication;
pub use advisories::{Advisories, Advisory, Applicable, NO_ADVISORIES, PackageAdvisories, Ruling, Severity, Trust};
pub use decisions::active::{Ground, Standing, judge, waiver};
pub use facts::{Facts, Presence, UnknownFacts};
pub use invariants::{TAKEDOWN_AGE, is_takedown};
pub use rules::compose::{Compiled, compile};
pub use rules::rule::PackageGlob;
pub use rules::{Note, Policy, Selection};
pub use trace::{Outcome, Step};
pub use verdict::{Reason, RuleId, Verdict};
