//! Floor 7: work nobody waits for. Looks after the feeds, judges again what was served before they changed, and fetches
//! ahead what will be asked for. Refuses to answer clients.

pub mod ahead;
pub mod exposure;
pub mod feeds;

pub use exposure::{Finding, Purge, judge_again};
pub use feeds::{Feeds, Standing};
