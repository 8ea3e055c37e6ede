//! Floor 7: work nobody waits for. Looks after the feeds, and judges again what was served before they changed. Refuses to
//! answer clients.

pub mod exposure;
pub mod feeds;

pub use exposure::{Finding, Purge, judge_again};
pub use feeds::{Feeds, Standing};
