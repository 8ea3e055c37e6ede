//! Parses audit requests, bulk (`{"name": ["version"]}`) or the older tree format, in one pass without building the tree. Only
//! packages selected by the caller are kept, and everything is bounded. Pure.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserializer as _;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::firewall::error::{FirewallError, Result};

/// The most packages of one audit, counting every path in a tree: five times the largest public lockfiles.
const MAX_PACKAGES: usize = 50_000;

/// The most versions of one package. No install has a hundred.
const MAX_VERSIONS: usize = 1_000;

/// The longest package name that a registry accepts. Longer names in a tree are aliases or file names.
const MAX_NAME_BYTES: usize = 214;

/// The most paths per version in a response, the longest path in bytes, and the total of all paths in bytes.
const MAX_PATHS: usize = 100;
const MAX_PATH_BYTES: usize = 4 << 10;
const MAX_PATHS_BYTES: usize = 4 << 20;

/// The installed versions of the selected packages, with their paths in the tree.
#[derive(Debug, Default)]
pub struct Audited {
    /// The paths of each version, by package and version.
    pub versions: BTreeMap<String, BTreeMap<String, Vec<String>>>,
    /// The number of all packages in the audit.
    pub count: usize,
}

impl Audited {
    fn count_package(&mut self) -> Result<(), String> {
        self.count += 1;
        if self.count > MAX_PACKAGES { Err(format!("{TOO_MUCH}more than {MAX_PACKAGES} packages")) } else { Ok(()) }
    }
}

/// Parses a bulk audit. Keeps packages that are `listed` and calls `each` for all; `None` if it is not a bulk audit.
///
/// # Errors
/// Returns [`FirewallError::TooMuch`] if there are too many packages or versions.
pub fn read_bulk(body: &[u8], listed: impl Fn(&str) -> bool, mut each: impl FnMut(&str, &[String])) -> Result<Option<Audited>> {
    let mut audited = Audited::default();
    let mut add = |name: String, versions: Vec<String>| {
        audited.count_package()?;
        if name.len() <= MAX_NAME_BYTES {
            each(&name, &versions);
            if listed(&name) {
                audited.versions.insert(name, versions.into_iter().map(|version| (version, Vec::new())).collect());
            }
        }
        Ok(())
    };
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let read = deserializer.deserialize_map(Bulk(&mut add)).and_then(|()| deserializer.end());
    finish(read, audited)
}

/// Parses a tree audit (`{"dependencies": {"name": {"version", "dependencies"}}}`), like [`read_bulk`].
///
/// # Errors
/// Returns the errors of [`read_bulk`].
pub fn read_tree(body: &[u8], listed: impl Fn(&str) -> bool) -> Result<Option<Audited>> {
    let mut walk = Walk { audited: Audited::default(), listed: &listed, above: Vec::new(), paths: 0 };
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let read = deserializer.deserialize_any(Node(&mut walk, Position::Package)).and_then(|_| deserializer.end());
    finish(read, walk.audited)
}

/// Prefix of limit errors, which distinguishes them from parse errors.
const TOO_MUCH: &str = "too much to audit: ";

fn too_many_versions() -> String {
    format!("{TOO_MUCH}more than {MAX_VERSIONS} versions of one package")
}

fn finish(read: Result<(), serde_json::Error>, audited: Audited) -> Result<Option<Audited>> {
    let Err(error) = read else { return Ok(Some(audited)) };
    let text = error.to_string();
    let Some(what) = text.strip_prefix(TOO_MUCH) else { return Ok(None) };
    // serde appends the position in the body.
    let what = what.split(" at line ").next().unwrap_or(what);
    Err(FirewallError::TooMuch(format!("the audit names {what}").into()))
}

/// Visits a bulk audit and passes each package to a callback.
struct Bulk<'a>(&'a mut dyn FnMut(String, Vec<String>) -> Result<(), String>);

impl<'de> Visitor<'de> for Bulk<'_> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("versions by package")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            let versions = map.next_value_seed(Versions)?;
            (self.0)(name, versions).map_err(A::Error::custom)?;
        }
        Ok(())
    }
}

struct Versions;

impl<'de> DeserializeSeed<'de> for Versions {
    type Value = Vec<String>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Vec<String>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Versions {
    type Value = Vec<String>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("versions")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Vec<String>, A::Error> {
        let mut versions = Vec::new();
        while let Some(version) = sequence.next_element::<String>()? {
            if versions.len() >= MAX_VERSIONS {
                return Err(A::Error::custom(too_many_versions()));
            }
            versions.push(version);
        }
        Ok(versions)
    }
}

struct Walk<'a> {
    audited: Audited,
    listed: &'a dyn Fn(&str) -> bool,
    /// The names on the path to the current node.
    above: Vec<String>,
    /// The total length of all paths, in bytes.
    paths: usize,
}

impl Walk<'_> {
    fn add(&mut self, version: String) -> Result<(), String> {
        self.audited.count_package()?;
        let Some(name) = self.above.last().filter(|name| name.len() <= MAX_NAME_BYTES && (self.listed)(name)) else {
            return Ok(());
        };
        let versions = self.audited.versions.entry(name.clone()).or_default();
        if versions.len() >= MAX_VERSIONS && !versions.contains_key(&version) {
            return Err(too_many_versions());
        }
        let paths = versions.entry(version).or_default();
        // A name may be as long as the body and have many descendants, so the length is checked before joining.
        let length = self.above.iter().map(|name| name.len() + 1).sum::<usize>();
        if paths.len() < MAX_PATHS && length <= MAX_PATH_BYTES && self.paths + length <= MAX_PATHS_BYTES {
            self.paths += length;
            paths.push(self.above.join(">"));
        }
        Ok(())
    }
}

/// What a value of a tree stands for.
#[derive(Clone, Copy, PartialEq)]
enum Position {
    /// The root of the tree, or one package with its version and dependencies.
    Package,
    Dependencies,
    Version,
}

/// Visits a value of a tree. Returns the text of a version, if it is a string; values of other types are skipped everywhere.
struct Node<'a, 'w>(&'a mut Walk<'w>, Position);

impl<'de> DeserializeSeed<'de> for Node<'_, '_> {
    type Value = Option<String>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Option<String>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_, '_> {
    type Value = Option<String>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Option<String>, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Option<String>, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Option<String>, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Option<String>, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Option<String>, E> {
        Ok(None)
    }

    fn visit_str<E>(self, text: &str) -> Result<Option<String>, E> {
        Ok((self.1 == Position::Version).then(|| text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Option<String>, A::Error> {
        while sequence.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<String>, A::Error> {
        let Self(walk, position) = self;
        match position {
            Position::Version => while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {},
            Position::Dependencies => {
                while let Some(name) = map.next_key::<String>()? {
                    walk.above.push(name);
                    map.next_value_seed(Node(walk, Position::Package))?;
                    walk.above.pop();
                }
            }
            Position::Package => {
                let mut version = None;
                while let Some(key) = map.next_key::<String>()? {
                    match &*key {
                        "version" => version = map.next_value_seed(Node(walk, Position::Version))?,
                        "dependencies" => drop(map.next_value_seed(Node(walk, Position::Dependencies))?),
                        _ => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                if let Some(version) = version.filter(|_| !walk.above.is_empty()) {
                    walk.add(version).map_err(A::Error::custom)?;
                }
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn describe(read: Result<Option<Audited>>) -> String {
        match read {
            Ok(Some(audited)) => format!("{} {:?}", audited.count, audited.versions),
            Ok(None) => "unreadable".to_owned(),
            Err(rejection) => rejection.to_string(),
        }
    }

    #[test]
    fn tree_audit_keeps_only_selected_packages() {
        let tree = br#"{"name":"app","version":"9.9.9","requires":{"a":"1"},"dependencies":{
            "a":{"dependencies":{"b":{"version":"2.0.0"},"c":true,"d":{"version":3,"dependencies":[1]}},"version":"1.0.0"},
            "b":{"version":"2.0.0","integrity":{"x":[null]}},"e":{"version":"1.0.0"}}}"#;
        assert_eq!(describe(read_tree(tree, |name| name != "e")), r#"4 {"a": {"1.0.0": ["a"]}, "b": {"2.0.0": ["a>b", "b"]}}"#);
        for odd in ["[]", "7", "{}", r#"{"dependencies":"none"}"#] {
            assert_eq!(describe(read_tree(odd.as_bytes(), |_| true)), "0 {}", "{odd}");
        }
        for broken in ["", "{", r#"{"dependencies":{"a":{"version":"1.0.0"}}"#, "{} {}"] {
            assert_eq!(describe(read_tree(broken.as_bytes(), |_| true)), "unreadable", "{broken}");
        }
        let deep = format!(r#"{}"1.0.0"{}"#, r#"{"dependencies":{"a":"#.repeat(10_000), "}}".repeat(10_000));
        assert_eq!(describe(read_tree(deep.as_bytes(), |_| true)), "unreadable");
    }

    #[test]
    fn long_ancestor_name_is_not_copied_for_each_descendant() {
        let mut tree = format!(r#"{{"dependencies":{{"{}":{{"version":"1.0.0","dependencies":{{"#, "x".repeat(40_000));
        for number in 0..MAX_PACKAGES - 1 {
            let _ = write!(tree, r#"{}"p{number}":{{"version":"1.0.0"}}"#, if number == 0 { "" } else { "," });
        }
        let audited = read_tree(format!("{tree}}}}}}}}}").as_bytes(), |_| true).unwrap().unwrap();
        assert_eq!((audited.count, audited.versions.len()), (MAX_PACKAGES, MAX_PACKAGES - 1));
        assert!(audited.versions.values().flat_map(BTreeMap::values).all(Vec::is_empty));
        let one_more = format!(r#"{tree},"last":{{"version":"1.0.0"}}}}}}}}}}"#);
        assert_eq!(describe(read_tree(one_more.as_bytes(), |_| true)), "the audit names more than 50000 packages");
    }

    #[test]
    fn paths_are_bounded_per_version_and_in_total() {
        let mut tree = r#"{"dependencies":{"#.to_owned();
        for number in 0..20_000 {
            let comma = if number == 0 { "" } else { "," };
            let _ = write!(
                tree,
                r#"{comma}"{}{number}":{{"dependencies":{{"p{}":{{"version":"1.0.0"}}}}}}"#,
                "y".repeat(2_000),
                number % 2_000
            );
        }
        let audited = read_tree(format!("{tree}}}}}").as_bytes(), |_| true).unwrap().unwrap();
        let bytes: usize = audited.versions.values().flat_map(BTreeMap::values).flatten().map(String::len).sum();
        assert!(audited.count == 20_000 && bytes > 1 << 20 && bytes <= MAX_PATHS_BYTES, "{bytes}");
    }

    #[test]
    fn bulk_audit_is_parsed_in_one_pass_within_limits() {
        let mut named = Vec::new();
        let body = br#"{"a":["1.0.0","2.0.0"],"b":[],"a":["3.0.0"]}"#;
        let read = read_bulk(body, |name| name == "a", |name, versions| named.push(format!("{name} {}", versions.len())));
        assert_eq!(describe(read), r#"3 {"a": {"3.0.0": []}}"#);
        assert_eq!(named, ["a 2", "b 0", "a 1"]);
        let ignore = |_: &str, _: &[String]| {};
        for odd in ["[]", r#"{"a":"1"}"#, r#"{"a":[1]}"#, r#"{"a":["1"]"#] {
            assert_eq!(describe(read_bulk(odd.as_bytes(), |_| true, ignore)), "unreadable", "{odd}");
        }
        let versions = |count: usize| format!(r#"{{"a":[{}"1.0.0"]}}"#, r#""1.0.0","#.repeat(count - 1));
        assert!(read_bulk(versions(MAX_VERSIONS).as_bytes(), |_| true, ignore).is_ok());
        assert_eq!(
            describe(read_bulk(versions(MAX_VERSIONS + 1).as_bytes(), |_| true, ignore)),
            "the audit names more than 1000 versions of one package"
        );
        let names = |count: usize| format!(r#"{{{}"a":[]}}"#, r#""a":[],"#.repeat(count - 1));
        assert!(read_bulk(names(MAX_PACKAGES).as_bytes(), |_| true, ignore).is_ok());
        assert_eq!(
            describe(read_bulk(names(MAX_PACKAGES + 1).as_bytes(), |_| true, ignore)),
            "the audit names more than 50000 packages"
        );
    }
}
