//! Who published and who maintains a version, by name, each name once a document. Refuses to keep addresses.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::value::RawValue;

use crate::npm::packument::json::{decode, for_each_member};

/// Maintainers of one version beyond which they are not kept.
const MOST: usize = 200;

/// The names in one `maintainers`; `None` where there are none.
type Maintainers = Option<Arc<[Arc<str>]>>;

/// The people of one document. Most versions name those that the version before named, in the same bytes.
#[derive(Default)]
pub(crate) struct PeopleInterner<'a> {
    names: HashSet<Arc<str>>,
    /// What was read last, and what it was read as.
    publisher: Option<(&'a str, Option<Arc<str>>)>,
    maintainers: Option<(&'a str, Maintainers)>,
}

impl<'a> PeopleInterner<'a> {
    /// The name in `_npmUser`.
    pub(crate) fn publisher(&mut self, raw: &'a str) -> Option<Arc<str>> {
        if let Some((_, name)) = self.publisher.as_ref().filter(|(last, _)| *last == raw) {
            return name.clone();
        }
        let name = self.name(raw);
        self.publisher = Some((raw, name.clone()));
        name
    }

    /// The names in `maintainers`.
    pub(crate) fn maintainers(&mut self, raw: &'a str) -> Maintainers {
        if let Some((_, names)) = self.maintainers.as_ref().filter(|(last, _)| *last == raw) {
            return names.clone();
        }
        let each: Vec<&'a RawValue> = serde_json::from_str(raw).unwrap_or_default();
        let names: Vec<_> = each.into_iter().take(MOST).filter_map(|one| self.name(one.get())).collect();
        let names: Maintainers = (!names.is_empty()).then(|| names.into());
        self.maintainers = Some((raw, names.clone()));
        names
    }

    /// The name of one person, written as an object, or as `name <address>`.
    fn name(&mut self, raw: &str) -> Option<Arc<str>> {
        let mut name = None;
        if raw.starts_with('{') {
            let walked = for_each_member(raw, |key, value| {
                if decode(key).is_some_and(|key| key == "name") {
                    name = decode(value);
                }
            });
            debug_assert!(walked.is_ok(), "an object that was validated is one");
        } else {
            name = decode(raw);
        }
        let name = name?;
        let name = name.split('<').next().unwrap_or_default().trim();
        if name.is_empty() {
            return None;
        }
        if let Some(known) = self.names.get(name) {
            return Some(Arc::clone(known));
        }
        let name: Arc<str> = name.into();
        self.names.insert(Arc::clone(&name));
        Some(name)
    }
}
