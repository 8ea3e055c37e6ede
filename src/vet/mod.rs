//! Floor 1: states facts about a release: signals, which are what differs from its predecessors, and findings, which are what
//! opening its tarball showed. Refuses to judge them. So far it holds their names, which rules may ask for.

pub mod name;

pub use name::{Finding, Findings, Signal, Signals, Strength};
