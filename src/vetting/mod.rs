//! Facts about a release: signals (differences from its predecessors) and findings (from opening its tarball). So far this layer
//! holds their names, which rules refer to, and determines which signals a packument excludes.

pub mod names;
mod undecided;

pub use names::{Finding, Findings, Signal, SignalStrength, Signals};
pub use undecided::{BASELINE_AGE, undecided};
