//! Facts about a release: signals (differences from its predecessors) and findings (from opening its tarball).

pub mod archive;
mod behaviour;
mod change;
pub mod compare;
mod content;
pub mod contents;
pub mod inspect;
pub mod lookalike;
pub mod manifest;
pub mod manifest_changes;
pub mod names;
pub mod new_dependency;
pub mod provenance;
pub mod signatures;
mod surface;

pub use compare::BASELINE_AGE;
pub use names::{Finding, FindingEvidence, Findings, Signal, SignalStrength, Signals};
pub use new_dependency::NewDependency;
