//! Audit bodies: the one-pass parser agrees with a parse into a tree, or rejects the body, and stays within its bounds.

use std::collections::{BTreeMap, BTreeSet};

use coldframe::firewall::audit::body::{Audited, read_bulk, read_tree};
use serde_json::{Map, Value};

/// Panics if a body is parsed incorrectly.
pub fn holds(input: &[u8]) {
    if let Ok(Some(audited)) = read_bulk(input, |_| true, |_, _| {}) {
        let expected: BTreeMap<String, Vec<String>> =
            serde_json::from_slice(input).expect("a body that the one-pass parser accepts");
        let names = expected.keys().filter(|name| name.len() <= 214);
        assert!(audited.versions.keys().eq(names), "the packages differ");
        assert!(audited.versions.iter().all(|(name, versions)| versions.keys().all(|version| expected[name].contains(version))));
    }
    if let Ok(Some(audited)) = read_tree(input, |_| true) {
        within_bounds(&audited);
        // A tree keeps only the last of duplicate members. The second parse therefore sees no duplicates.
        let Ok(tree) = serde_json::from_slice::<Value>(input) else { return };
        let again = read_tree(tree.to_string().as_bytes(), |_| true).expect("few packages").expect("the same tree");
        let mut expected = BTreeMap::new();
        let count = walk(tree.get("dependencies").unwrap_or(&Value::Null), &mut expected);
        let kept: BTreeMap<&str, Vec<&str>> =
            again.versions.iter().map(|(name, versions)| (&**name, versions.keys().map(String::as_str).collect())).collect();
        let expected: BTreeMap<&str, Vec<&str>> =
            expected.iter().map(|(name, versions)| (&**name, versions.iter().map(String::as_str).collect())).collect();
        assert_eq!((again.count, kept), (count, expected));
    }
}

fn within_bounds(audited: &Audited) {
    let paths = audited.versions.iter().flat_map(|(name, versions)| versions.values().flatten().map(move |path| (name, path)));
    let mut bytes = 0;
    for (name, path) in paths {
        bytes += path.len();
        assert!(path.ends_with(name.as_str()), "{path} does not end with {name}");
    }
    assert!(bytes <= 4 << 20, "{bytes} bytes of paths");
}

/// Collects every package with a version by name, and returns their number.
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
