//! What is true now of the version that a request is about.

use crate::policy::Verdict;

/// The state of the version that a request is about.
#[derive(Debug, Clone)]
pub struct CurrentVersion {
    /// All known digests, which an approval must return.
    pub digests: String,
    pub verdict: Verdict,
    /// The advisories and signals that an approval must name. With any, a second person must confirm.
    pub records: Vec<String>,
}
