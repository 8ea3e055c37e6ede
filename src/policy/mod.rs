//! Floor 2: judges. Facts, rules and an instant make a verdict; nothing else does. Pure: no clock, no I/O, no async.

pub mod advisory;
pub mod advisory_index;
pub mod affected;
mod among;
pub mod amount;
pub mod built_in;
pub mod case;
pub mod decision;
pub mod facts;
pub mod file;
pub mod judge;
mod malware;
pub mod mistake;
pub mod place;
mod read;
pub mod replay;
pub mod rule;
mod shadow;
pub mod shipped;
pub mod spelling;
pub mod standing;
mod table;
pub mod trace;
pub mod verdict;
mod words;

pub use advisory::{Advisories, Advisory, Applicable, NO_ADVISORIES, PackageAdvisories, Severity, Trust};
pub use advisory_index::FeedAdvisories;
pub use affected::Span;
pub use built_in::{TAKEDOWN_AGE, is_takedown};
pub use facts::{Facts, Presence};
pub use file::{Compiled, compile};
pub use judge::{Note, Policy, Selection};
pub use rule::PackageGlob;
pub use standing::{Ground, Standing, judge};
pub use trace::{Outcome, Step};
pub use verdict::{Reason, RuleId, Verdict};
