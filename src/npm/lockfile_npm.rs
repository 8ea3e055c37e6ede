//! `package-lock.json` and `npm-shrinkwrap.json`: version 1 nests what 2 and 3 write as one list of paths.

use std::collections::HashMap;
use std::sync::Arc;

use super::lockfile::{Dialect, Entry, LONGEST_PATH, Lockfile, LockfileError, Source};
use super::lockfile_node::{Member, Node};
use super::lockfile_spec::{address, source_of_entry, unalias};

/// Steps from a package up to the project: as deep as any tree is.
const STEPS: usize = 64;

const FOLDER: &str = "node_modules/";

pub(super) fn read(document: &Node) -> Result<Lockfile, LockfileError> {
    let version = document.text_of("lockfileVersion").unwrap_or("1");
    let tree = match version {
        "1" => Tree::of_nested(document),
        "2" | "3" => Tree::of_paths(document)?,
        _ => return Err(LockfileError::version(document, "lockfileVersion", "1, 2 and 3")),
    };
    Ok(Lockfile { dialect: Dialect::Npm, entries: tree.asked() })
}

/// The installed tree: each package by the path it is installed at.
#[derive(Default)]
struct Tree<'a> {
    entries: Vec<Entry>,
    at: HashMap<Box<str>, usize>,
    wishes: Vec<Wish<'a>>,
}

/// What a package asks for.
struct Wish<'a> {
    /// Where it is installed.
    path: Box<str>,
    /// Its name; empty for a project.
    by: Arc<str>,
    is_direct: bool,
    /// Names and specs.
    dependencies: &'a [Member],
}

impl<'a> Tree<'a> {
    fn of_paths(document: &'a Node) -> Result<Self, LockfileError> {
        let packages = document.member("packages").filter(|packages| matches!(packages, Node::Map(_)));
        let packages = packages.ok_or_else(|| LockfileError::at(1, "it has no `packages`"))?.members();
        let mut tree = Self::default();
        for Member { key: path, line, value: package } in packages {
            let installed = path.rfind(FOLDER).map(|at| &path[at + FOLDER.len()..]);
            let name = package.text_of("name").or(installed).unwrap_or_default();
            let by: Arc<str> = if installed.is_some() { name.into() } else { "".into() };
            let fields = ["dependencies", "optionalDependencies", "peerDependencies", "devDependencies"];
            // What a package needs to be developed is not installed.
            let fields = if installed.is_some() { &fields[..3] } else { &fields[..] };
            for field in fields {
                let dependencies = package.members_of(field);
                tree.wishes.push(Wish { path: path.clone(), by: Arc::clone(&by), is_direct: installed.is_none(), dependencies });
            }
            if installed.is_some() {
                tree.add(path.clone(), of_package(name, path, *line, package));
            }
        }
        Ok(tree)
    }

    fn of_nested(document: &'a Node) -> Self {
        let mut tree = Self::default();
        // The project's own ranges are in `package.json` alone.
        let mut open = vec![(String::new(), document.members_of("dependencies"))];
        while let Some((folder, packages)) = open.pop() {
            for Member { key: name, line, value: package } in packages {
                let path = format!("{folder}{FOLDER}{name}");
                let entry = of_nested_package(name, &path, *line, package);
                let by = Arc::from(&*entry.name);
                let dependencies = package.members_of("requires");
                tree.wishes.push(Wish { path: path.as_str().into(), by, is_direct: false, dependencies });
                tree.add(path.as_str().into(), entry);
                open.push((format!("{path}/"), package.members_of("dependencies")));
            }
        }
        tree.entries.sort_by_key(|entry| entry.line);
        tree.at = tree.entries.iter().enumerate().map(|(at, entry)| (entry.place.clone(), at)).collect();
        tree
    }

    fn add(&mut self, path: Box<str>, entry: Entry) {
        self.at.insert(path, self.entries.len());
        self.entries.push(entry);
    }

    /// The entries, each with who asked for it.
    fn asked(mut self) -> Vec<Entry> {
        for Wish { path, by, is_direct, dependencies } in std::mem::take(&mut self.wishes) {
            for Member { key: name, value, .. } in dependencies {
                let (Some(spec), Some(at)) = (value.text(), self.find(&path, name)) else { continue };
                self.entries[at].ask(&by, is_direct, name, Some(spec));
            }
        }
        self.entries
    }

    /// The package that node finds for `name` from the folder `from`.
    fn find(&self, from: &str, name: &str) -> Option<usize> {
        let mut from = from;
        if from.len() + name.len() > LONGEST_PATH {
            return None;
        }
        for _ in 0..STEPS {
            let path = if from.is_empty() { format!("{FOLDER}{name}") } else { format!("{from}/{FOLDER}{name}") };
            if let Some(at) = self.at.get(path.as_str()) {
                return Some(*at);
            }
            if from.is_empty() {
                return None;
            }
            // A workspace's folder lies below the project's, whatever is between.
            from = from.rfind(FOLDER).map_or("", |at| from[..at].trim_end_matches('/'));
        }
        None
    }
}

fn of_package(name: &str, path: &str, line: u32, package: &Node) -> Entry {
    let resolved = package.text_of("resolved");
    let source = match resolved {
        _ if package.says("link") => Source::Link,
        _ if package.says("inBundle") => Source::Bundled,
        Some(resolved) if !resolved.starts_with("http") => source_of_entry(resolved),
        Some(resolved) if address(resolved) == Source::Git => Source::Git,
        _ => Source::Registry,
    };
    Entry {
        name: name.into(),
        version: package.text_of("version").unwrap_or_default().into(),
        source,
        integrity: package.text_of("integrity").map(Into::into),
        resolved: resolved.map(Into::into),
        asks: Vec::new(),
        place: path.into(),
        line,
    }
}

fn of_nested_package(name: &str, path: &str, line: u32, package: &Node) -> Entry {
    let written = package.text_of("version").unwrap_or_default();
    let (real, version) = unalias(name, written);
    let resolved = package.text_of("resolved");
    let source = match source_of_entry(version) {
        _ if package.says("bundled") => Source::Bundled,
        Source::Registry if resolved.is_some_and(|resolved| address(resolved) == Source::Git) => Source::Git,
        // A tarball whose address somebody wrote down; which package it is nobody says, so its name is believed.
        found => found,
    };
    let resolved = resolved.or_else(|| matches!(source, Source::Git | Source::Http).then_some(version));
    Entry {
        name: real.into(),
        version: version.into(),
        source,
        integrity: package.text_of("integrity").map(Into::into),
        resolved: resolved.map(Into::into),
        asks: Vec::new(),
        place: path.into(),
        line,
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::super::lockfile::tests::told;

    #[test]
    fn paths_tell_who_asked_for_what() {
        let text = r#"{
  "lockfileVersion": 3,
  "packages": {
    "": { "name": "app", "workspaces": ["packages/*"], "dependencies": { "axios": "^1.0.0", "lodash4": "npm:lodash@^4", "ui": "*" } },
    "node_modules/axios": {
      "version": "1.14.1", "resolved": "https://registry.example/axios/-/axios-1.14.1.tgz", "integrity": "sha512-a",
      "dependencies": { "follow": "^1.1.0" }, "devDependencies": { "lodash4": "1" }
    },
    "node_modules/axios/node_modules/follow": { "version": "1.1.0", "inBundle": true },
    "node_modules/follow": { "version": "2.0.0" },
    "node_modules/forked": { "version": "1.0.0", "resolved": "git+ssh://git@git.example/a/b.git#01" },
    "node_modules/lodash4": { "name": "lodash", "version": "4.18.1", "peerDependencies": { "follow": ">=1" } },
    "node_modules/ui": { "resolved": "packages/ui", "link": true },
    "packages/ui": { "version": "1.0.0", "devDependencies": { "follow": "^2.0.0" } }
  }
}"#;
        expect![[r#"
            5 Registry axios@1.14.1 sha512-a https://registry.example/axios/-/axios-1.14.1.tgz [project:^1.0.0] at node_modules/axios
            9 Bundled follow@1.1.0 - - [axios:^1.1.0] at node_modules/axios/node_modules/follow
            10 Registry follow@2.0.0 - - [lodash:>=1 project:^2.0.0] at node_modules/follow
            11 Git forked@1.0.0 - git+ssh://git@git.example/a/b.git#01 [] at node_modules/forked
            12 Registry lodash@4.18.1 - - [project:^4=lodash4] at node_modules/lodash4
            13 Link ui@ - packages/ui [project:*] at node_modules/ui
        "#]].assert_eq(&told("package-lock.json", text));
    }

    #[test]
    fn the_old_format_nests() {
        let text = r#"{
  "lockfileVersion": 1,
  "dependencies": {
    "axios": {
      "version": "1.14.1", "integrity": "sha512-a", "requires": { "follow": "^1.1.0" },
      "dependencies": {
        "follow": { "version": "1.1.0", "bundled": true }
      }
    },
    "follow": { "version": "2.0.0", "resolved": "https://registry.example/follow/-/follow-2.0.0.tgz" },
    "forked": { "version": "github:a/b#01", "from": "github:a/b" },
    "local": { "version": "file:local" },
    "lodash4": { "version": "npm:lodash@4.18.1", "requires": { "follow": ">=1" } },
    "tarred": { "version": "https://files.example/is-number-7.0.0.tgz", "integrity": "sha512-b" }
  }
}"#;
        expect![[r#"
            4 Registry axios@1.14.1 sha512-a - [] at node_modules/axios
            7 Bundled follow@1.1.0 - - [axios:^1.1.0] at node_modules/axios/node_modules/follow
            10 Registry follow@2.0.0 - https://registry.example/follow/-/follow-2.0.0.tgz [lodash:>=1] at node_modules/follow
            11 Git forked@github:a/b#01 - github:a/b#01 [] at node_modules/forked
            12 File local@file:local - - [] at node_modules/local
            13 Registry lodash@4.18.1 - - [] at node_modules/lodash4
            14 Http tarred@https://files.example/is-number-7.0.0.tgz sha512-b https://files.example/is-number-7.0.0.tgz [] at node_modules/tarred
        "#]].assert_eq(&told("package-lock.json", text));
    }
}
