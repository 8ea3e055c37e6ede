//! Publisher and maintainer names of versions, each stored once per document. Email addresses are not kept.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::value::RawValue;

use crate::npm::packument::json::{decode, for_each_member};

/// Maximum number of maintainers kept per version.
const MAX_MAINTAINERS: usize = 200;

/// The maintainers of a version, or `None` if there are none.
type Maintainers = Option<Arc<[Arc<str>]>>;

/// Interns the names in one document. Most versions repeat the bytes of the version before.
#[derive(Default)]
pub(crate) struct PeopleInterner<'a> {
    names: HashSet<Arc<str>>,
    /// The last value and its result.
    publisher: Option<(&'a str, Option<Arc<str>>)>,
    maintainers: Option<(&'a str, Maintainers)>,
}

impl<'a> PeopleInterner<'a> {
    /// Returns the name in `_npmUser`.
    pub(crate) fn publisher(&mut self, raw: &'a str) -> Option<Arc<str>> {
        if let Some((_, name)) = self.publisher.as_ref().filter(|(last, _)| *last == raw) {
            return name.clone();
        }
        let name = self.name(raw);
        self.publisher = Some((raw, name.clone()));
        name
    }

    /// Returns the names in `maintainers`.
    pub(crate) fn maintainers(&mut self, raw: &'a str) -> Maintainers {
        if let Some((_, names)) = self.maintainers.as_ref().filter(|(last, _)| *last == raw) {
            return names.clone();
        }
        let each: Vec<&'a RawValue> = serde_json::from_str(raw).unwrap_or_default();
        let names: Vec<_> = each.into_iter().take(MAX_MAINTAINERS).filter_map(|person| self.name(person.get())).collect();
        let names: Maintainers = (!names.is_empty()).then(|| names.into());
        self.maintainers = Some((raw, names.clone()));
        names
    }

    /// Returns a person's name, written as an object or as `name <address>`.
    fn name(&mut self, raw: &str) -> Option<Arc<str>> {
        let mut name = None;
        if raw.starts_with('{') {
            let walked = for_each_member(raw, |key, value| {
                if decode(key).is_some_and(|key| key == "name") {
                    name = decode(value);
                }
            });
            debug_assert!(walked.is_ok(), "objects were validated when parsed");
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
