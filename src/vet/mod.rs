//! Floor 1: states facts about a release: signals, which are what differs from its predecessors, and findings, which are what
//! opening its tarball showed. Refuses to judge them. So far it holds their names, which rules may ask for, and which of
//! them a packument excludes.

pub mod name;
mod undecided;

pub use name::{Finding, Findings, Signal, Signals, Strength};
pub use undecided::{BASELINE_AGE, undecided};
