//! Which registries send `time` in their abbreviated packuments: there an index costs a fraction of the full document. Learned
//! from the first that is asked for; meanwhile, and where there is none, the full one is asked for. Refuses to fetch.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::npm::{Packument, PackumentForm};

/// What is known of each registry, by its id.
#[derive(Default)]
pub(crate) struct AbbreviatedSupport(Mutex<HashMap<Arc<str>, SupportState>>);

/// What was found out about a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SupportState {
    /// Somebody is finding out: one, so that a registry without is not asked twice for everything that is under way.
    Trying,
    /// It sends `time`.
    Timed,
    /// It sends none.
    Timeless,
}

impl AbbreviatedSupport {
    /// The form to ask `registry` for when the index alone is needed.
    pub(crate) fn for_index(&self, registry: &Arc<str>) -> PackumentForm {
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

    /// Looks at what came when the abbreviated form was asked for; whether it does for an index.
    pub(crate) fn learn(&self, registry: &Arc<str>, packument: &Packument) -> bool {
        let timed = packument.is_timed();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A package without versions says nothing of the others.
        if packument.entries.is_empty() {
            known.remove(registry);
        } else {
            known.insert(Arc::clone(registry), if timed { SupportState::Timed } else { SupportState::Timeless });
        }
        timed
    }

    /// Nothing was learned: the next one may try.
    pub(crate) fn not_learned(&self, registry: &Arc<str>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.get(registry) == Some(&SupportState::Trying) {
            known.remove(registry);
        }
    }
}
