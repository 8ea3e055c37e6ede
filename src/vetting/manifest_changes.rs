//! What a manifest changed against that of an earlier version, for people who decide on it: dependencies, scripts, commands,
//! engines, maintainers and publisher. Bounded; texts are from upstream and are escaped where they are printed.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The most changes that are listed, and the most characters of a value. The rest is counted.
const MAX_CHANGES: usize = 200;
const MAX_VALUE_CHARS: usize = 300;

/// The largest manifest that is compared, in bytes.
const MAX_MANIFEST_BYTES: usize = 4 << 20;

/// Members that map names to texts.
const MAPS: [&str; 7] =
    ["dependencies", "optionalDependencies", "peerDependencies", "bundleDependencies", "scripts", "bin", "engines"];

/// One difference. `old` or `new` is `None` if the entry was added or removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestChange {
    /// The member of the manifest, such as `dependencies`.
    pub member: String,
    /// The entry in it, such as the name of a dependency.
    pub name: String,
    pub old: Option<String>,
    pub new: Option<String>,
}

/// The differences between two manifests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestChanges {
    pub changes: Vec<ManifestChange>,
    /// How many more there are.
    pub more: usize,
}

impl ManifestChanges {
    /// Compares two manifests as JSON. Returns `None` if one is not an object, or too large.
    pub(crate) fn between(old: &[u8], new: &[u8]) -> Option<Self> {
        let read = |bytes: &[u8]| -> Option<Value> {
            let value: Value = (bytes.len() <= MAX_MANIFEST_BYTES).then(|| serde_json::from_slice(bytes).ok())??;
            value.is_object().then_some(value)
        };
        let (old, new) = (read(old)?, read(new)?);
        let mut found = Self::default();
        for member in MAPS {
            found.compare(member, &entries(&old[member]), &entries(&new[member]));
        }
        let person = |value: &Value| value["name"].as_str().or_else(|| value.as_str()).map(str::to_owned);
        let people = |manifest: &Value| -> BTreeMap<String, String> {
            let listed = manifest["maintainers"].as_array().into_iter().flatten().filter_map(person);
            listed.map(|name| (name, String::new())).collect()
        };
        found.compare("maintainers", &people(&old), &people(&new));
        let publisher = |manifest: &Value| -> BTreeMap<String, String> {
            person(&manifest["_npmUser"]).map(|name| (String::new(), name)).into_iter().collect()
        };
        found.compare("publisher", &publisher(&old), &publisher(&new));
        Some(found)
    }

    fn compare(&mut self, member: &str, old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) {
        let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        for name in names {
            let (before, after) = (old.get(name), new.get(name));
            if before == after {
                continue;
            }
            if self.changes.len() >= MAX_CHANGES {
                self.more += 1;
                continue;
            }
            let short = |text: &String| shortened(text);
            let change = ManifestChange {
                member: member.to_owned(),
                name: shortened(name),
                old: before.map(short),
                new: after.map(short),
            };
            self.changes.push(change);
        }
    }
}

/// Returns the entries of an object, a list or a text as names and texts.
fn entries(value: &Value) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match value {
        Value::Object(members) => members.iter().map(|(name, value)| (name.clone(), text(value))).collect(),
        Value::Array(items) => items.iter().map(|item| (text(item), String::new())).collect(),
        Value::Null => BTreeMap::new(),
        other => [(String::new(), text(other))].into(),
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_VALUE_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn between(old: &Value, new: &Value) -> ManifestChanges {
        ManifestChanges::between(old.to_string().as_bytes(), new.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn added_removed_and_changed_entries_are_listed() {
        let old = json!({
            "dependencies": { "left-pad": "^1.0.0", "same": "1" },
            "scripts": { "test": "x" },
            "bin": "cli.js",
            "maintainers": [{ "name": "ada" }],
            "_npmUser": { "name": "ada" },
        });
        let new = json!({
            "dependencies": { "left-pad": "^2.0.0", "same": "1", "plain-crypto-js": "4.2.1" },
            "scripts": { "postinstall": "node setup.js" },
            "bin": { "cli": "cli.js" },
            "maintainers": ["bob"],
            "_npmUser": { "name": "bob" },
        });
        let found = between(&old, &new);
        let change = |member: &str, name: &str, old: Option<&str>, new: Option<&str>| ManifestChange {
            member: member.to_owned(),
            name: name.to_owned(),
            old: old.map(str::to_owned),
            new: new.map(str::to_owned),
        };
        for expected in [
            change("dependencies", "left-pad", Some("^1.0.0"), Some("^2.0.0")),
            change("dependencies", "plain-crypto-js", None, Some("4.2.1")),
            change("scripts", "postinstall", None, Some("node setup.js")),
            change("scripts", "test", Some("x"), None),
            change("bin", "", Some("cli.js"), None),
            change("bin", "cli", None, Some("cli.js")),
            change("maintainers", "ada", Some(""), None),
            change("maintainers", "bob", None, Some("")),
            change("publisher", "", Some("ada"), Some("bob")),
        ] {
            assert!(found.changes.contains(&expected), "{expected:?} not in {found:?}");
        }
        assert_eq!((found.changes.len(), found.more), (9, 0));
        assert_eq!(between(&old, &old), ManifestChanges::default());
    }

    #[test]
    fn number_and_length_of_changes_are_bounded() {
        let many: serde_json::Map<String, Value> = (0..1_000).map(|n| (format!("p{n}"), json!("x".repeat(1_000)))).collect();
        let found = between(&json!({}), &json!({ "dependencies": many }));
        assert_eq!((found.changes.len(), found.more), (MAX_CHANGES, 800));
        assert!(found.changes.iter().all(|change| change.new.as_ref().is_some_and(|new| new.len() <= 303)));
        for text in ["[]", "1", "{", ""] {
            assert_eq!(ManifestChanges::between(b"{}", text.as_bytes()), None, "{text}");
        }
    }
}
