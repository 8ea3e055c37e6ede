//! States facts about a release: signals, which are what differs from its predecessors, and findings, which are what
//! opening its tarball showed. Refuses to judge them. So far it holds their names, which rules may ask for, and which of
//! them a packument excludes.

pub mod names;
mod undecided;

pub use names::{Finding, Findings, Signal, SignalStrength, Signals};
pub use undecided::{BASELINE_AGE, undecided};
