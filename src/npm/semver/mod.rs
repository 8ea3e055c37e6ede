//! Versions and ranges with the semantics of npm's `semver`.

pub mod interval;
pub mod range;
pub mod range_matching;
pub mod range_table;
pub mod version;
