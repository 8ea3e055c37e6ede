//! Versions and ranges as npm's `semver` reads them.

pub mod interval;
pub mod range;
pub mod range_matching;
pub mod range_table;
pub mod version;
