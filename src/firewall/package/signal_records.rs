//! The signals of a package's releases that are in the ledger. Shared by all snapshots of one document.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;

use crate::firewall::package::signal_table::SignalTable;
use crate::firewall::package::vetted_tarballs::compared_with;
use crate::npm::Packument;
use crate::npm::packument::index::VersionEntry;
use crate::store::RecordedSignals;
use crate::vetting::Signals;
use crate::vetting::compare::{MAX_RECORDED_SIGNALS, SIGNALS_VERSION};

/// Signals that the ledger lacks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NewSignals {
    /// The position of the entry.
    pub at: usize,
    pub recorded: RecordedSignals,
    /// Those that were not recorded before.
    pub added: Signals,
}

/// Returns a digest of what signals compare of an entry's manifest.
pub(crate) fn manifest_of(entry: &VersionEntry) -> [u8; 32] {
    compared_with(entry, None, 0)
}

/// By version.
#[derive(Debug, Default)]
pub(crate) struct SignalRecords(Mutex<HashMap<Box<str>, RecordedSignals>>);

impl SignalRecords {
    pub(crate) fn new(known: &[RecordedSignals]) -> Self {
        Self(Mutex::new(known.iter().map(|recorded| (recorded.version.clone(), recorded.clone())).collect()))
    }

    /// Adds the signals of a table that differ from the known ones, and returns them in the order of the index.
    pub(crate) fn add(&self, packument: &Packument, table: &SignalTable, now: Timestamp) -> Vec<NewSignals> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = Vec::new();
        for (at, report) in &table.reports {
            let Some(entry) = packument.entries.get(*at) else { continue };
            let (before, signals, manifest) = (known.get(&entry.key), report.signals, manifest_of(entry));
            let had: Signals = before.iter().flat_map(|before| &before.evidence).map(|evidence| evidence.signal).collect();
            let is_current = before.is_some_and(|before| before.code == SIGNALS_VERSION && before.manifest == manifest);
            let is_full = before.is_none() && known.len() >= MAX_RECORDED_SIGNALS;
            // Only another set of signals is news: some texts change with each release.
            if is_full || (had == signals && (is_current || signals.is_empty())) {
                continue;
            }
            let (version, evidence) = (entry.key.clone(), report.evidence.clone());
            let recorded = RecordedSignals { version, code: SIGNALS_VERSION, manifest, recorded: now, evidence };
            known.insert(recorded.version.clone(), recorded.clone());
            changed.push(NewSignals { at: *at, recorded, added: signals.without(had) });
        }
        changed.sort_by_key(|new| new.at);
        changed
    }
}
