//! Reads the registry dependencies of one release from its manifest. Does not resolve them.

use std::borrow::Cow;

use crate::npm::name::{PackageName, split_spec};
use crate::npm::packument::dependency_source;
use crate::npm::packument::json::{decode, for_each_valid_member};
use crate::npm::packument::manifest::AbbreviatedFields;

/// Maximum number of dependencies read from one release; legitimate releases have fewer.
const MAX_DEPENDENCIES: usize = 500;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    pub name: PackageName,
    /// The range, version or dist-tag as written.
    pub wanted: Box<str>,
}

/// Returns the regular, optional and required peer dependencies of an entry. `fields` must come from the same `document`.
pub(crate) fn dependencies(document: &[u8], fields: &AbbreviatedFields, entry: usize) -> Vec<Dependency> {
    let (mut wanted, mut peers, mut optional) = (Vec::new(), Vec::new(), Vec::<String>::new());
    for span in fields.of(entry) {
        let Ok(member) = std::str::from_utf8(span.of(document)) else { continue };
        let object = format!("{{{member}}}");
        for_each_valid_member(&object, |key, value| match decode(key).as_deref() {
            Some("dependencies" | "optionalDependencies") => collect(value, &mut wanted),
            Some("peerDependencies") => collect(value, &mut peers),
            Some("peerDependenciesMeta") => {
                optional.clear();
                for_each_valid_member(value, |key, _| optional.extend(decode(key).map(Cow::into_owned)));
            }
            _ => {}
        });
    }
    peers.retain(|peer| !optional.iter().any(|name| name == peer.name.as_str()));
    wanted.append(&mut peers);
    wanted
}

fn collect(object: &str, into: &mut Vec<Dependency>) {
    for_each_valid_member(object, |key, value| {
        let (Some(name), Some(spec)) = (decode(key), decode(value)) else { return };
        if into.len() < MAX_DEPENDENCIES {
            into.extend(requirement(&name, &spec));
        }
    });
}

/// Returns the dependency if a registry serves it. An alias counts as its real package.
fn requirement(name: &str, spec: &str) -> Option<Dependency> {
    let (name, wanted) = match spec.trim().strip_prefix("npm:") {
        Some(alias) => split_spec(alias).unwrap_or((alias, "latest")),
        None if dependency_source::is_registry_spec(spec) => (name, spec.trim()),
        None => return None,
    };
    Some(Dependency { name: PackageName::parse(name).ok()?, wanted: wanted.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::npm::packument::parse::parse;

    fn of(manifest: &str) -> Vec<String> {
        let document =
            format!(r#"{{"name":"demo","versions":{{"0.9.0":{{}},"1.0.0":{{"name":"demo","version":"1.0.0",{manifest}}}}}}}"#);
        let ingested = parse(&PackageName::parse("demo").unwrap(), document.as_bytes()).unwrap();
        let found = dependencies(document.as_bytes(), &ingested.fields, 1);
        found.into_iter().map(|Dependency { name, wanted }| format!("{name}@{wanted}")).collect()
    }

    #[test]
    fn registry_dependencies_are_read_except_optional_peers() {
        let found =
            of(r#""dependencies" : {"a":"^1.0.0", "@s/b":"latest","c":"npm:@s/real@^2","d":"npm:bare","\u0065":" >=1 <2 "},
            "devDependencies":{"no":"1"},"optionalDependencies":{"f":"1.x"},
            "peerDependencies":{"g":"*","without":"1"},"peerDependenciesMeta":{"without":{"optional":true}}"#);
        assert_eq!(found, ["a@^1.0.0", "@s/b@latest", "@s/real@^2", "bare@latest", "e@>=1 <2", "f@1.x", "g@*"]);
    }

    #[test]
    fn other_sources_and_invalid_specs_are_skipped() {
        let found =
            of(r#""dependencies":{"a":"git+https://x/y","b":"file:../x","c":"o/r","d":"https://x/y.tgz","e":"workspace:*",
            "f":"catalog:","../g":"1","h":7,"i":null,"j":"npm:","k":"npm:@"},"optionalDependencies":[1],"peerDependencies":"x""#);
        assert_eq!(found, Vec::<String>::new());
        let many: Vec<_> = (0..2 * MAX_DEPENDENCIES).map(|at| format!(r#""p{at}":"1""#)).collect();
        assert_eq!(of(&format!(r#""dependencies":{{{}}}"#, many.join(","))).len(), MAX_DEPENDENCIES);
    }
}
