//! `deno.lock`, versions 2 to 5: npm packages and modules by URL. JSR packages are skipped: npm clients do not use that registry.

use std::collections::HashMap;

use crate::npm::lockfile::document::{DocMember, DocNode};
use crate::npm::lockfile::model::{Lockfile, LockfileEntry, LockfileError, LockfileFormat};
use crate::npm::lockfile::spec::EntrySource;
use crate::npm::name::split_spec;

pub(crate) fn read(document: &DocNode) -> Result<Lockfile, LockfileError> {
    let (packages, of_npm) = match document.text_of("version") {
        // Versions 2 and 3 have both maps one level deeper; version 2 supports only npm's registry.
        Some("2") => (document.member("npm").unwrap_or(&DocNode::Nothing), "packages"),
        Some("3") => (document.member("packages").unwrap_or(&DocNode::Nothing), "npm"),
        Some("4" | "5") => (document, "npm"),
        _ => return Err(document.unsupported("version", "2, 3, 4 and 5")),
    };
    let mut entries = Vec::new();
    let mut at: HashMap<&str, usize> = HashMap::new();
    for member in packages.members_of(of_npm) {
        let entry = of_package(member)?;
        at.insert(&member.key, entries.len());
        entries.push(entry);
    }
    for (key, target) in packages.texts_in(&["specifiers"]) {
        let spec = if of_npm == "packages" { Some(key) } else { key.strip_prefix("npm:") };
        let Some(spec) = spec else { continue };
        let (name, range) = split_spec(spec).unwrap_or((spec, "*"));
        let target = if of_npm == "packages" { format!("npm:{target}") } else { target.to_owned() };
        let target = target.strip_prefix("npm:").map_or_else(|| format!("{name}@{target}"), str::to_owned);
        if let Some(at) = at.get(target.as_str()) {
            entries[*at].add_direct(name, range);
        }
    }
    entries.extend(document.members_of("remote").iter().map(of_remote));
    Ok(Lockfile { dialect: LockfileFormat::Deno, entries })
}

/// Parses `name@version`, followed by `_` and its resolved peers.
fn of_package(member: &DocMember) -> Result<LockfileEntry, LockfileError> {
    let invalid = || LockfileError::at(member.line, "a package key must be `name@version`");
    let (name, version) = split_spec(&member.key).ok_or_else(invalid)?;
    let version = version.split('_').next().unwrap_or(version);
    let entry = LockfileEntry::new(name, version, EntrySource::Registry, &member.key, member.line);
    Ok(entry.with_tarball(member.value.text_of("integrity"), member.value.text_of("tarball")))
}

fn of_remote(DocMember { key, line, .. }: &DocMember) -> LockfileEntry {
    LockfileEntry::new(key, "", EntrySource::Http, key, *line).with_tarball(None, Some(key))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::npm::lockfile::tests::summary;

    #[test]
    fn peers_after_an_underscore_are_ignored() {
        let text = r#"{
  "version": "5",
  "specifiers": { "jsr:@std/fs@1": "1.0.0", "npm:@acme/ui@^1": "1.14.1_react@19.0.0", "npm:lodash_x@4": "4.18.1" },
  "jsr": { "@std/fs@1.0.0": { "integrity": "0123" } },
  "npm": {
    "@acme/ui@1.14.1_react@19.0.0": { "integrity": "sha512-a", "dependencies": ["react"] },
    "lodash_x@4.18.1": { "integrity": "sha512-l", "tarball": "https://files.example/lodash_x-4.18.1.tgz" }
  },
  "remote": { "https://files.example/mod.ts": "0123" }
}"#;
        expect![[r#"
            6 Registry @acme/ui@1.14.1 sha512-a - [project:^1] at @acme/ui@1.14.1_react@19.0.0
            7 Registry lodash_x@4.18.1 sha512-l https://files.example/lodash_x-4.18.1.tgz [project:4] at lodash_x@4.18.1
            9 Http https://files.example/mod.ts@ - https://files.example/mod.ts [] at https://files.example/mod.ts
        "#]]
        .assert_eq(&summary("deno.lock", text));
    }

    #[test]
    fn version_2_has_only_npm_packages() {
        let text = r#"{
  "version": "2",
  "remote": { "https://files.example/mod.ts": "0123" },
  "npm": {
    "specifiers": { "chalk@5": "chalk@5.3.0", "@acme/ui": "@acme/ui@1.0.0_chalk@5.3.0" },
    "packages": {
      "@acme/ui@1.0.0_chalk@5.3.0": { "integrity": "sha512-u", "dependencies": { "chalk": "chalk@5.3.0" } },
      "chalk@5.3.0": { "integrity": "sha512-c", "dependencies": {} }
    }
  }
}"#;
        expect![[r#"
            7 Registry @acme/ui@1.0.0 sha512-u - [project:*] at @acme/ui@1.0.0_chalk@5.3.0
            8 Registry chalk@5.3.0 sha512-c - [project:5] at chalk@5.3.0
            3 Http https://files.example/mod.ts@ - https://files.example/mod.ts [] at https://files.example/mod.ts
        "#]]
        .assert_eq(&summary("deno.lock", text));
    }

    #[test]
    fn version_3_nests_its_maps() {
        let text = r#"{
  "version": "3",
  "packages": {
    "specifiers": { "npm:chalk@5": "npm:chalk@5.3.0" },
    "npm": { "chalk@5.3.0": { "integrity": "sha512-c", "dependencies": {} } }
  }
}"#;
        expect![[r#"
            5 Registry chalk@5.3.0 sha512-c - [project:5] at chalk@5.3.0
        "#]]
        .assert_eq(&summary("deno.lock", text));
    }
}
