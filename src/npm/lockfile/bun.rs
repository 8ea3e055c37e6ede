//! `bun.lock`: packages keyed by their resolution path, each as a list of fields.

use std::collections::HashMap;
use std::sync::Arc;

use crate::npm::lockfile::document::{DocMember, DocNode};
use crate::npm::lockfile::model::{Lockfile, LockfileEntry, LockfileError, LockfileFormat, MAX_PATH_BYTES, MAX_STEPS};
use crate::npm::lockfile::spec::{EntrySource, resolve_alias, source};
use crate::npm::name::split_spec;

const FIELDS: [&str; 4] = ["dependencies", "devDependencies", "optionalDependencies", "peerDependencies"];

pub(crate) fn read(document: &DocNode) -> Result<Lockfile, LockfileError> {
    if !matches!(document.text_of("lockfileVersion"), Some("0" | "1" | "2")) {
        return Err(document.unsupported("lockfileVersion", "0, 1 and 2"));
    }
    let packages = document.members_of("packages");
    let mut entries = packages.iter().map(of_package).collect::<Result<Vec<_>, _>>()?;
    let at: HashMap<&str, usize> = packages.iter().zip(0..).map(|(member, at)| (&*member.key, at)).collect();
    for workspace in document.members_of("workspaces") {
        // The project itself has the path "" and resolves from the top level, regardless of its name.
        let from = if workspace.key.is_empty() { "" } else { workspace.value.text_of("name").unwrap_or_default() };
        for (name, spec) in workspace.value.texts_in(&FIELDS) {
            let Some(at) = find(&at, from, name) else { continue };
            entries[at].add_direct(name, spec);
        }
    }
    for package in packages {
        let facts =
            package.value.elements().iter().find(|element| matches!(element, DocNode::Map(_))).unwrap_or(&DocNode::Nothing);
        let Some(number) = at.get(&*package.key) else { continue };
        let by: Arc<str> = (*entries[*number].name).into();
        for (name, spec) in facts.texts_in(&FIELDS) {
            let Some(at) = find(&at, &package.key, name) else { continue };
            entries[at].add_dependent(&by, name, Some(spec));
        }
    }
    entries.retain(|entry| entry.source != EntrySource::Workspace);
    Ok(Lockfile { dialect: LockfileFormat::Bun, entries })
}

/// Resolves `name` from `from`: the nearest package on the way up.
fn find(at: &HashMap<&str, usize>, from: &str, name: &str) -> Option<usize> {
    let mut from = from;
    if from.len() + name.len() > MAX_PATH_BYTES {
        return None;
    }
    for _ in 0..MAX_STEPS {
        let path = if from.is_empty() { name.to_owned() } else { format!("{from}/{name}") };
        if let Some(found) = at.get(path.as_str()) {
            return Some(*found);
        }
        if from.is_empty() {
            return None;
        }
        let (above, last) = from.rsplit_once('/').unwrap_or(("", from));
        // `…/@scope/name` counts as one step.
        from = match above.rsplit_once('/').unwrap_or(("", above)) {
            (higher, scope) if scope.starts_with('@') && !last.starts_with('@') => higher,
            _ => above,
        };
    }
    None
}

/// Parses `[name@version, tarball address, metadata, integrity]`. Packages from other sources lack some of these.
fn of_package(member: &DocMember) -> Result<LockfileEntry, LockfileError> {
    let elements = member.value.elements();
    let what = elements.first().and_then(DocNode::text).and_then(split_spec);
    let (name, version) =
        what.ok_or_else(|| LockfileError::at(member.line, "a package must be a list that starts with `name@version`"))?;
    let (name, version) = resolve_alias(name, version);
    let source = source(version);
    let texts = || elements.iter().skip(1).filter_map(DocNode::text).filter(|text| !text.is_empty());
    let written = texts().find(|text| text.starts_with("http"));
    let resolved = written.or_else(|| matches!(source, EntrySource::Git | EntrySource::Http).then_some(version));
    let integrity = texts().find(|text| text.starts_with("sha"));
    Ok(LockfileEntry::new(name, version, source, &member.key, member.line).with_tarball(integrity, resolved))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::npm::lockfile::tests::summary;

    #[test]
    fn dependencies_resolve_to_the_nearest_path() {
        let text = r#"{
  "lockfileVersion": 1,
  // A comment.
  "workspaces": {
    "": { "name": "app", "dependencies": { "axios": "^1.0.0", "lodash4": "npm:lodash@^4", }, },
    "packages/ui": { "name": "@acme/ui", "devDependencies": { "follow": "^2.0.0", }, },
  },
  "packages": {
    "@acme/ui": ["@acme/ui@workspace:packages/ui"],
    "@acme/ui/follow": ["follow@2.0.0", "https://files.example/follow-2.0.0.tgz", {}, "sha512-f"],
    "axios": ["axios@1.14.1", "", { "dependencies": { "follow": "^1.0.0" } }, "sha512-a"],
    "follow": ["follow@1.1.0", "", {}, "sha512-g"],
    "forked": ["forked@github:a/b#01", {}, "a-b-01"],
    "local": ["local@file:local", {}],
    "lodash4": ["lodash@4.18.1", "", { "peerDependencies": { "follow": "*" } }, "sha512-l"],
  }
}"#;
        expect![[r#"
            10 Registry follow@2.0.0 sha512-f https://files.example/follow-2.0.0.tgz [project:^2.0.0] at @acme/ui/follow
            11 Registry axios@1.14.1 sha512-a - [project:^1.0.0] at axios
            12 Registry follow@1.1.0 sha512-g - [axios:^1.0.0 lodash:*] at follow
            13 Git forked@github:a/b#01 - github:a/b#01 [] at forked
            14 File local@file:local - - [] at local
            15 Registry lodash@4.18.1 sha512-l - [project:^4=lodash4] at lodash4
        "#]]
        .assert_eq(&summary("bun.lock", text));
    }
}
