//! The signals of a package's young releases, by position in its index.

use std::collections::HashMap;
use std::sync::Arc;

use crate::vetting::compare::SignalReport;

#[derive(Debug, Default)]
pub(crate) struct SignalTable {
    /// The revision of the policy snapshot.
    pub revision: u64,
    /// Whether new dependencies were looked up.
    pub has_dependencies: bool,
    /// Releases without signals are absent.
    pub reports: HashMap<usize, SignalReport>,
    /// The new dependencies that are not looked up yet, sorted.
    pub pending: Vec<Arc<str>>,
}

impl SignalTable {
    /// Returns the report on the entry at `at`, if it is young and differs from earlier releases.
    pub(crate) fn report(&self, at: usize) -> Option<&SignalReport> {
        self.reports.get(&at)
    }
}
