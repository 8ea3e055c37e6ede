//! Publisher and maintainer names of versions, each stored once per document. Email addresses are not kept.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::value::RawValue;

use crate::npm::packument::json::{self, decode, string_member};

/// Maximum number of maintainers kept per version.
const MAX_MAINTAINERS: usize = 200;

#[derive(Default)]
pub(crate) struct PeopleInterner<'a> {
    names: HashSet<Arc<str>>,
    publisher: LastValue<&'a str, Option<Arc<str>>>,
    maintainers: LastValue<&'a str, Option<Arc<[Arc<str>]>>>,
}

impl<'a> PeopleInterner<'a> {
    pub(crate) fn publisher(&mut self, raw: &'a str) -> Option<Arc<str>> {
        self.publisher.value_for(raw, |raw| intern(&mut self.names, raw))
    }

    pub(crate) fn maintainers(&mut self, raw: &'a str) -> Option<Arc<[Arc<str>]>> {
        self.maintainers.value_for(raw, |raw| {
            let each: Vec<&RawValue> = serde_json::from_str(raw).unwrap_or_default();
            let people = each.into_iter().take(MAX_MAINTAINERS);
            let names: Vec<_> = people.filter_map(|person| intern(&mut self.names, person.get())).collect();
            (!names.is_empty()).then(|| names.into())
        })
    }
}

/// Returns a person's name, written as an object or as `name <address>`.
fn intern(names: &mut HashSet<Arc<str>>, raw: &str) -> Option<Arc<str>> {
    let name = if raw.starts_with('{') { string_member(raw, "name") } else { decode(raw) }?;
    let name = name.split('<').next().unwrap_or_default().trim();
    (!name.is_empty()).then(|| json::intern(names, name))
}

/// The last result of a computation. Most versions repeat the bytes of the version before.
#[derive(Default)]
pub(crate) struct LastValue<K, V>(Option<(K, V)>);

impl<K: PartialEq, V: Clone> LastValue<K, V> {
    /// Returns the value for `key`, computed if it is not the last key.
    pub(crate) fn value_for(&mut self, key: K, compute: impl FnOnce(&K) -> V) -> V {
        if let Some((_, value)) = self.0.as_ref().filter(|(last, _)| *last == key) {
            return value.clone();
        }
        let value = compute(&key);
        self.0 = Some((key, value.clone()));
        value
    }
}
