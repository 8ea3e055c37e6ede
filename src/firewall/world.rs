//! What changes while serving: the policy in force and its revision. Loaded once at the top of a request together with the
//! time, so that one request sees one world and one instant.

use crate::policy::Policy;

/// Everything a verdict depends on besides a package's own facts.
#[derive(Debug)]
pub struct World {
    /// The rules in force.
    pub policy: Policy,
    /// Counts worlds: a judgement made in another one is made again.
    pub revision: u64,
}
