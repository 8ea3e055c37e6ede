//! The body of an audit: read in one pass as a tree in memory would be read, or not at all, and never beyond its bounds.

use std::collections::{BTreeMap, BTreeSet};

use coldframe::firewall::audit::body::{Audited, read_bulk, read_tree};
use serde_json::{Map, Value};

/// Panics when a body is read otherwise than it is written.
pub fn holds(input: &[u8]) {
    if let Ok(Some(audited)) = read_bulk(input, |_| true, |_, _| {}) {
        let slowly: BTreeMap<String, Vec<String>> = serde_json::from_slice(input).expect("what was read in one pass");
        let names = slowly.keys().filter(|name| name.len() <= 214);
        assert!(audited.versions.keys().eq(names), "other packages");
        assert!(audited.versions.iter().all(|(name, versions)| versions.keys().all(|version| slowly[name].contains(version))));
    }
    if let Ok(Some(audited)) = read_tree(input, |_| true) {
        within_bounds(&audited);
        // Of two members of one name the last counts in a tree in memory: read again, there is one.
        let Ok(tree) = serde_json::from_slice::<Value>(input) else { return };
        let again = read_tree(tree.to_string().as_bytes(), |_| true).expect("few packages").expect("the same tree");
        let mut slowly = BTreeMap::new();
        let count = walk(tree.get("dependencies").unwrap_or(&Value::Null), &mut slowly);
        let kept: BTreeMap<&str, Vec<&str>> =
            again.versions.iter().map(|(name, versions)| (&**name, versions.keys().map(String::as_str).collect())).collect();
        let slowly: BTreeMap<&str, Vec<&str>> =
            slowly.iter().map(|(name, versions)| (&**name, versions.iter().map(String::as_str).collect())).collect();
        assert_eq!((again.count, kept), (count, slowly));
    }
}

fn within_bounds(audited: &Audited) {
    let paths = audited.versions.iter().flat_map(|(name, versions)| versions.values().flatten().map(move |path| (name, path)));
    let mut bytes = 0;
    for (name, path) in paths {
        bytes += path.len();
        assert!(path.ends_with(name.as_str()), "{path} does not lead to {name}");
    }
    assert!(bytes <= 4 << 20, "{bytes} bytes of paths");
}

/// Every package with a version, by name; how many there are.
fn walk(dependencies: &Value, found: &mut BTreeMap<String, BTreeSet<String>>) -> usize {
    let mut count = 0;
    for (name, package) in dependencies.as_object().into_iter().flat_map(Map::iter) {
        if let Some(version) = package.get("version").and_then(Value::as_str) {
            count += 1;
            if name.len() <= 214 {
                found.entry(name.clone()).or_default().insert(version.to_owned());
            }
        }
        count += walk(package.get("dependencies").unwrap_or(&Value::Null), found);
    }
    count
}
