//! Computes verdicts from facts, rules and an instant. Pure: no clock, no I/O, no async.

pub mod access;
pub mod advisories;
pub mod cases;
pub mod decisions;
pub mod evaluate;
pub mod facts;
pub mod invariants;
mod malware;
pub(crate) mod past_history;
pub mod presets;
pub mod principal;
pub mod replay;
pub mod requests;
pub mod rules;
pub mod survey;
pub mod trace;
pub mod verdict;

pub use access::scope::PackageScope;
pub use access::{AuthMethod, Identity, Role};
pub use advisories::affected::AffectedRange;
pub use advisories::index::FeedAdvisories;
pub use advisories::indicators::IndicatorMatch;
pub use advisories::{Advisories, Advisory, ApplicableAdvisories, FeedTrust, NO_ADVISORIES, PackageAdvisories, Ruling, Severity};
pub use decisions::active::{ActiveDecisions, DecisionRef};
pub(crate) use evaluate::explain;
pub use evaluate::{Evaluation, evaluate, evaluate_without_decisions};
pub use facts::{CohortWait, Facts, Presence, Removal, UnknownFacts};
pub use invariants::TAKEDOWN_AGE;
pub(crate) use invariants::is_takedown;
pub use principal::Principal;
pub use rules::compose::{CompiledPolicy, compile};
pub use rules::rule::PackageGlob;
pub use rules::{PackageRules, Policy};
pub use trace::{Sink, StepOutcome, Trace, TraceStep, Warning};
pub use verdict::{Reason, RuleId, Verdict};
