//! Removes packages of other registries from an audit, so that no registry learns the names of packages that another one serves.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::npm::AuditFormat;

/// The members of a tree audit that name packages.
const MAPS: [&str; 2] = ["requires", "dependencies"];
const LISTS: [&str; 2] = ["install", "remove"];

/// An audit without the packages of other registries.
pub(crate) struct RoutedAudit {
    pub(crate) body: Bytes,
    /// How many names were left out.
    pub(crate) dropped: usize,
}

/// Keeps the packages of an audit that `is_kept` accepts. The rest of the body is not passed on, nor is a body that cannot be read.
/// Blocks.
pub(crate) fn keep(body: &[u8], format: AuditFormat, is_kept: impl Fn(&str) -> bool) -> RoutedAudit {
    let mut filter = Filter { is_kept: &is_kept, dropped: 0 };
    let kept = match format {
        AuditFormat::Bulk => {
            let read: BTreeMap<String, Vec<String>> = serde_json::from_slice(body).unwrap_or_default();
            let kept: BTreeMap<_, _> = read.into_iter().filter(|(name, _)| filter.keeps(name)).collect();
            serde_json::to_value(kept).unwrap_or_default()
        }
        AuditFormat::Tree => match serde_json::from_slice(body) {
            Ok(Value::Object(tree)) => filter.tree(tree),
            Ok(_) | Err(_) => json!({}),
        },
    };
    RoutedAudit { body: kept.to_string().into(), dropped: filter.dropped }
}

struct Filter<'a> {
    is_kept: &'a dyn Fn(&str) -> bool,
    dropped: usize,
}

impl Filter<'_> {
    fn keeps(&mut self, name: &str) -> bool {
        let is_kept = (self.is_kept)(name);
        self.dropped += usize::from(!is_kept);
        is_kept
    }

    /// Returns a tree of known members. The depth is limited by that of the parsed JSON.
    fn tree(&mut self, tree: Map<String, Value>) -> Value {
        let mut kept = Map::new();
        for (member, value) in tree {
            let value = match value {
                Value::Object(packages) if MAPS.contains(&member.as_str()) => Value::Object(self.packages(packages)),
                Value::Array(specs) if LISTS.contains(&member.as_str()) => Value::Array(self.specs(specs)),
                Value::String(text) if member == "version" || member == "integrity" => Value::String(text),
                Value::Bool(flag) => Value::Bool(flag),
                _ => continue,
            };
            kept.insert(member, value);
        }
        Value::Object(kept)
    }

    fn packages(&mut self, packages: Map<String, Value>) -> Map<String, Value> {
        let mut kept = Map::new();
        for (name, value) in packages {
            if !self.keeps(&name) {
                continue;
            }
            let value = match value {
                Value::Object(tree) => self.tree(tree),
                // A range in `requires`. An alias there names another package.
                Value::String(range) => match range.strip_prefix("npm:") {
                    Some(spec) if !self.keeps(name_of(spec)) => continue,
                    _ => Value::String(range),
                },
                _ => continue,
            };
            kept.insert(name, value);
        }
        kept
    }

    fn specs(&mut self, specs: Vec<Value>) -> Vec<Value> {
        specs.into_iter().filter(|spec| spec.as_str().is_some_and(|spec| self.keeps(name_of(spec)))).collect()
    }
}

/// Returns the name in `name@range`.
fn name_of(spec: &str) -> &str {
    let at = spec.char_indices().skip(1).find(|(_, letter)| *letter == '@').map_or(spec.len(), |(at, _)| at);
    &spec[..at]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(body: &Value, format: AuditFormat) -> (Value, usize) {
        let routed = keep(body.to_string().as_bytes(), format, |name| !name.starts_with("@acme/"));
        (serde_json::from_slice(&routed.body).unwrap(), routed.dropped)
    }

    #[test]
    fn names_of_other_registries_are_left_out() {
        let bulk = json!({ "left-pad": ["1.0.0"], "@acme/ui": ["1.0.0"] });
        assert_eq!(kept(&bulk, AuditFormat::Bulk), (json!({ "left-pad": ["1.0.0"] }), 1));
        let tree = json!({
            "name": "@acme/site",
            "requires": { "left-pad": "^1.0.0", "@acme/ui": "1", "ui": "npm:@acme/ui@1", "pad": "npm:left-pad@1" },
            "dependencies": {
                "left-pad": { "version": "1.0.0", "resolved": "https://acme.example/x", "dependencies": { "@acme/a": {} } },
                "@acme/ui": { "version": "1.0.0", "dependencies": { "secret": { "version": "1.0.0" } } },
            },
            "install": ["@acme/ui@1.0.0", "left-pad@1.0.0"],
            "metadata": { "node_version": "v22" },
        });
        let expected = json!({
            "requires": { "left-pad": "^1.0.0", "pad": "npm:left-pad@1" },
            "dependencies": { "left-pad": { "version": "1.0.0", "dependencies": {} } },
            "install": ["left-pad@1.0.0"],
        });
        assert_eq!(kept(&tree, AuditFormat::Tree), (expected, 5));
    }

    #[test]
    fn body_that_cannot_be_read_is_not_passed_on() {
        for format in [AuditFormat::Bulk, AuditFormat::Tree] {
            for body in [&b"@acme/ui"[..], b"[\"@acme/ui\"]", b"{\"@acme/ui\":", b""] {
                assert_eq!(keep(body, format, |_| true).body, "{}", "{body:?}");
            }
        }
    }
}
