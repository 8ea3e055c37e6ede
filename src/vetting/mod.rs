//! Facts about a release: signals (differences from its predecessors) and findings (from opening its tarball).

pub mod archive;
mod behaviour;
mod change;
pub mod compare;
mod content;
pub mod contents;
pub mod inspect;
pub mod manifest;
pub mod names;
pub mod provenance;
pub mod signatures;
mod surface;

pub use compare::BASELINE_AGE;
pub use names::{Finding, FindingEvidence, Findings, Signal, SignalStrength, Signals};
