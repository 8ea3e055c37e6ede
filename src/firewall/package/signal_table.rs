//! The signals and findings of a package's releases, by position in its index.

use std::collections::HashMap;
use std::sync::Arc;

use crate::npm::Integrity;
use crate::store::InspectedTarball;
use crate::vetting::FindingEvidence;
use crate::vetting::compare::SignalReport;

#[derive(Debug, Default)]
pub(crate) struct SignalTable {
    /// The revision of the policy snapshot.
    pub revision: u64,
    /// The revision of what is known of new dependencies.
    pub dependencies: u64,
    /// The revision of the vetted tarballs.
    pub vetted: u64,
    /// Releases whose tarballs have findings.
    pub inspections: HashMap<usize, Arc<InspectedTarball>>,
    /// All digests of tarballs, if a feed lists one of them that the document does not state.
    pub listed: HashMap<usize, Integrity>,
    /// Releases whose signature or provenance is false, with all their findings.
    pub false_origins: HashMap<usize, Vec<FindingEvidence>>,
    /// Releases without signals are absent.
    pub reports: HashMap<usize, SignalReport>,
    /// For each young release, the release of the baseline that its tarball is compared with.
    pub predecessors: HashMap<usize, Option<usize>>,
    /// The new dependencies that are not looked up yet, in the order of their look-ups.
    pub pending: Vec<Arc<str>>,
    /// Young releases whose provenance is not verified yet.
    pub unverified: Vec<usize>,
}

impl SignalTable {
    /// Returns the report on the entry at `at`, if it is young and differs from earlier releases.
    pub(crate) fn report(&self, at: usize) -> Option<&SignalReport> {
        self.reports.get(&at)
    }

    /// Adds a finding that is not from the tarball.
    pub(crate) fn add_finding(&mut self, at: usize, evidence: FindingEvidence) {
        let inside = || self.inspections.get(&at).map(|inspected| inspected.evidence.clone()).unwrap_or_default();
        self.false_origins.entry(at).or_insert_with(inside).push(evidence);
    }

    /// Returns the findings of the entry at `at`.
    pub(crate) fn findings(&self, at: usize) -> &[FindingEvidence] {
        let inside = || self.inspections.get(&at).map(|inspected| &*inspected.evidence);
        self.false_origins.get(&at).map(|all| &**all).or_else(inside).unwrap_or_default()
    }
}
