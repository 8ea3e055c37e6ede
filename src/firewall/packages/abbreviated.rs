//! Learns which registries send `time` in abbreviated packuments. There the index costs a fraction of the full document;
//! elsewhere, and until it is known, the full form is requested.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::npm::{Packument, PackumentForm};

#[derive(Default)]
pub(crate) struct AbbreviatedSupport(Mutex<HashMap<Arc<str>, SupportState>>);

/// Whether a registry sends `time` in abbreviated packuments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SupportState {
    /// A first request runs. Others use the full form, so that a registry without `time` is not asked twice for each.
    Trying,
    Timed,
    Timeless,
}

impl AbbreviatedSupport {
    /// Returns the form to request from `registry` if only the index is needed.
    pub(crate) fn form_for_index(&self, registry: &Arc<str>) -> PackumentForm {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match known.get(registry) {
            Some(SupportState::Timed) => PackumentForm::Abbreviated,
            Some(SupportState::Trying | SupportState::Timeless) => PackumentForm::Full,
            None => {
                known.insert(Arc::clone(registry), SupportState::Trying);
                PackumentForm::Abbreviated
            }
        }
    }

    /// Learns from an abbreviated packument. Returns whether it is sufficient for an index.
    pub(crate) fn learn(&self, registry: &Arc<str>, packument: &Packument) -> bool {
        let timed = packument.is_timed();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A package without versions proves nothing.
        if packument.entries.is_empty() {
            known.remove(registry);
        } else {
            known.insert(Arc::clone(registry), if timed { SupportState::Timed } else { SupportState::Timeless });
        }
        timed
    }

    /// Resets a first request that failed, so that the next one tries.
    pub(crate) fn reset(&self, registry: &Arc<str>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.get(registry) == Some(&SupportState::Trying) {
            known.remove(registry);
        }
    }
}
