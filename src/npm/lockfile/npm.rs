//! `package-lock.json` and `npm-shrinkwrap.json`: version 1 nests packages, versions 2 and 3 list them by path.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::npm::lockfile::document::{DocMember, DocNode};
use crate::npm::lockfile::model::{Lockfile, LockfileEntry, LockfileError, LockfileFormat, MAX_PATH_BYTES, MAX_STEPS};
use crate::npm::lockfile::spec::{EntrySource, resolve_alias, source_of_entry};
use crate::npm::name::PackageName;

const FOLDER: &str = "node_modules/";

pub(crate) fn read(document: &DocNode) -> Result<Lockfile, LockfileError> {
    let version = document.text_of("lockfileVersion").unwrap_or("1");
    // npm 7 and later use `packages` if present, else `dependencies`, regardless of the version.
    let has = |key: &str| document.member(key).is_some_and(|member| *member != DocNode::Nothing);
    let tree = match version {
        "1" | "2" | "3" if has("packages") => InstallTree::of_paths(document)?,
        "2" | "3" if !has("dependencies") => return Err(LockfileError::at(1, "missing `packages`")),
        "1" | "2" | "3" => InstallTree::of_nested(document),
        _ => return Err(document.unsupported("lockfileVersion", "1, 2 and 3")),
    };
    Ok(Lockfile { dialect: LockfileFormat::Npm, entries: tree.with_requesters() })
}

/// The installed tree, with packages by install path.
#[derive(Default)]
struct InstallTree<'a> {
    entries: Vec<LockfileEntry>,
    /// The packages in each folder's `node_modules`, by name.
    at: Folders,
    requirements: Vec<NpmDependency<'a>>,
}

type Folders = HashMap<Box<str>, HashMap<Box<str>, usize>>;

struct NpmDependency<'a> {
    path: Box<str>,
    /// Its name; empty for the project or a workspace.
    by: Arc<str>,
    is_direct: bool,
    dependencies: &'a [DocMember],
}

impl<'a> InstallTree<'a> {
    fn of_paths(document: &'a DocNode) -> Result<Self, LockfileError> {
        let packages = document.member("packages").filter(|packages| matches!(packages, DocNode::Map(_)));
        let packages = packages.ok_or_else(|| LockfileError::at(1, "missing `packages`"))?.members();
        let mut tree = Self::default();
        let paths: HashSet<&str> = packages.iter().map(|package| &*package.key).collect();
        let links = packages.iter().filter(|package| package.value.is_true("link"));
        let targets: HashSet<&str> = links.filter_map(|link| link.value.text_of("resolved")).map(folder).collect();
        for DocMember { key: path, line, value: package } in packages {
            let installed = path.rfind(FOLDER).map(|at| &path[at + FOLDER.len()..]);
            let name = package.text_of("name").or(installed).unwrap_or_default();
            let by: Arc<str> = if installed.is_some() { name.into() } else { "".into() };
            let fields = ["dependencies", "optionalDependencies", "peerDependencies", "devDependencies"];
            // Development dependencies of installed packages are not installed.
            let fields = if installed.is_some() { &fields[..3] } else { &fields[..] };
            for field in fields {
                let (path, by, is_direct) = (path.clone(), Arc::clone(&by), installed.is_none());
                tree.requirements.push(NpmDependency { path, by, is_direct, dependencies: package.members_of(field) });
            }
            if let Some(folder) = installed {
                let above = path[..path.len() - folder.len() - FOLDER.len()].trim_end_matches('/');
                let mut entry = of_package(name, path, *line, package);
                // Only installed packages bring bundled ones in their tarball; those the project bundles are installed for it.
                if entry.source == EntrySource::Bundled && !above.contains(FOLDER) {
                    entry.source = source_of_package(package);
                }
                // npm installs under package names into `node_modules` of the project and of packages it installs or links to. A
                // folder that is only the target of a link is not installed.
                let is_linked = targets.contains(&**path) && !above.is_empty() && !paths.contains(above);
                let is_fetched = entry.resolved.as_deref().is_some_and(|resolved| resolved.starts_with("http"));
                if entry.source == EntrySource::Registry && !is_fetched && (is_linked || PackageName::parse(folder).is_err()) {
                    entry.source = EntrySource::Nothing;
                }
                file(&mut tree.at, path, tree.entries.len());
                tree.entries.push(entry);
            }
        }
        Ok(tree)
    }

    fn of_nested(document: &'a DocNode) -> Self {
        let mut tree = Self::default();
        // The project's own ranges are only in `package.json`.
        let mut open = vec![(String::new(), document.members_of("dependencies"))];
        while let Some((folder, packages)) = open.pop() {
            for DocMember { key: name, line, value: package } in packages {
                let path = format!("{folder}{FOLDER}{name}");
                let entry = of_nested_package(name, &path, *line, package);
                let by = Arc::from(&*entry.name);
                let dependencies = package.members_of("requires");
                tree.requirements.push(NpmDependency { path: path.as_str().into(), by, is_direct: false, dependencies });
                tree.entries.push(entry);
                open.push((format!("{path}/"), package.members_of("dependencies")));
            }
        }
        tree.entries.sort_by_key(|entry| entry.line);
        for (position, entry) in tree.entries.iter().enumerate() {
            file(&mut tree.at, &entry.place, position);
        }
        tree
    }

    fn with_requesters(mut self) -> Vec<LockfileEntry> {
        for NpmDependency { path, by, is_direct, dependencies } in std::mem::take(&mut self.requirements) {
            if dependencies.is_empty() {
                continue;
            }
            let folders = above(&self.at, &path);
            for DocMember { key: name, value, .. } in dependencies {
                let at = folders.iter().find_map(|folder| folder.get(name));
                let (Some(spec), Some(at)) = (value.text(), at) else { continue };
                if is_direct {
                    self.entries[*at].add_direct(name, spec);
                } else {
                    self.entries[*at].add_dependent(&by, name, Some(spec));
                }
            }
        }
        self.entries
    }
}

fn file(folders: &mut Folders, path: &str, position: usize) {
    if let Some((folder, name)) = path.rsplit_once(FOLDER) {
        folders.entry(folder.trim_end_matches('/').into()).or_default().insert(name.into(), position);
    }
}

/// Returns the `node_modules` folders that node searches from `from`, nearest first. Computed once per requiring package.
fn above<'t>(at: &'t Folders, mut from: &str) -> Vec<&'t HashMap<Box<str>, usize>> {
    let mut found = Vec::new();
    if from.len() > MAX_PATH_BYTES {
        return found;
    }
    for _ in 0..MAX_STEPS {
        found.extend(at.get(from));
        if from.is_empty() {
            break;
        }
        // A workspace's folder is below the project's; other parts of the path do not count.
        from = from.rfind(FOLDER).map_or("", |at| from[..at].trim_end_matches('/'));
    }
    found
}

fn of_package(name: &str, path: &str, line: u32, package: &DocNode) -> LockfileEntry {
    let source = match package {
        _ if package.is_true("link") => EntrySource::Link,
        _ if package.is_true("inBundle") => EntrySource::Bundled,
        _ => source_of_package(package),
    };
    let version = package.text_of("version").unwrap_or_default();
    LockfileEntry::new(name, version, source, path, line).with_tarball(package.text_of("integrity"), package.text_of("resolved"))
}

/// Returns the source of a package that is neither a link nor bundled.
fn source_of_package(package: &DocNode) -> EntrySource {
    match package.text_of("resolved") {
        Some(resolved) if !resolved.starts_with("http") => source_of_entry(resolved),
        resolved => EntrySource::Registry.with_address(resolved),
    }
}

/// Returns a link's target in the form of keys in `packages`.
fn folder(path: &str) -> &str {
    let path = path.strip_prefix("file:").unwrap_or(path);
    path.strip_prefix("./").unwrap_or(path).trim_end_matches('/')
}

fn of_nested_package(name: &str, path: &str, line: u32, package: &DocNode) -> LockfileEntry {
    let written = package.text_of("version").unwrap_or_default();
    let (real, version) = resolve_alias(name, written);
    let resolved = package.text_of("resolved");
    let source = match source_of_entry(version) {
        // Packages that the project itself bundles are installed for it.
        _ if package.is_true("bundled") && path.matches(FOLDER).count() > 1 => EntrySource::Bundled,
        // For a tarball at an explicit address, the lockfile does not state the real package, so its name is trusted.
        found => found.with_address(resolved),
    };
    let resolved = resolved.or_else(|| matches!(source, EntrySource::Git | EntrySource::Http).then_some(version));
    LockfileEntry::new(real, version, source, path, line).with_tarball(package.text_of("integrity"), resolved)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::npm::lockfile::tests::summary;

    #[test]
    fn requirements_are_resolved_by_path() {
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
        "#]].assert_eq(&summary("package-lock.json", text));
    }

    #[test]
    fn entries_that_install_nothing_have_no_source() {
        let text = r#"{
  "lockfileVersion": 3,
  "packages": {
    "": { "name": "app" },
    "../m": { "version": "1.0.0" },
    "../m/node_modules/deep": { "version": "1.0.0" },
    "../m/node_modules/n/o": { "version": "1.0.0" },
    "../o/node_modules/linked": { "version": "1.0.0" },
    "node_modules/.pnpm/axios": { "version": "1.14.1" },
    "node_modules/addressed": { "resolved": "https://registry.example/evil/-/evil-6.6.6.tgz" },
    "node_modules/bundled": { "version": "1.0.0", "inBundle": true },
    "node_modules/elsewhere": { "resolved": "https://files.example/evil.tgz" },
    "node_modules/linked": { "resolved": "../o/node_modules/linked", "link": true },
    "node_modules/m": { "resolved": "../m", "link": true },
    "node_modules/n/p": { "version": "1.0.0", "resolved": "https://registry.example/evil/-/evil-6.6.6.tgz" },
    "node_modules/optional": { "optional": true },
    "node_modules/target": { "version": "1.0.0" },
    "node_modules/to-target": { "resolved": "node_modules/target", "link": true }
  }
}"#;
        expect![[r#"
            6 Registry deep@1.0.0 - - [] at ../m/node_modules/deep
            7 Nothing n/o@1.0.0 - - [] at ../m/node_modules/n/o
            8 Nothing linked@1.0.0 - - [] at ../o/node_modules/linked
            9 Nothing .pnpm/axios@1.14.1 - - [] at node_modules/.pnpm/axios
            10 Registry evil@6.6.6 - https://registry.example/evil/-/evil-6.6.6.tgz [] at node_modules/addressed
            11 Registry bundled@1.0.0 - - [] at node_modules/bundled
            12 Http elsewhere@ - https://files.example/evil.tgz [] at node_modules/elsewhere
            13 Link linked@ - ../o/node_modules/linked [] at node_modules/linked
            14 Link m@ - ../m [] at node_modules/m
            15 Registry evil@6.6.6 - https://registry.example/evil/-/evil-6.6.6.tgz [] at node_modules/n/p
            16 Nothing optional@ - - [] at node_modules/optional
            17 Registry target@1.0.0 - - [] at node_modules/target
            18 Link to-target@ - node_modules/target [] at node_modules/to-target
        "#]]
        .assert_eq(&summary("package-lock.json", text));
    }

    #[test]
    fn packages_take_precedence_over_dependencies() {
        let nested = r#""dependencies": { "axios": { "version": "1.14.1" } }"#;
        let paths = r#""packages": { "node_modules/axios": { "version": "1.14.0" } }"#;
        for version in ["1", "2", "3"] {
            let of = |members: &str| summary("package-lock.json", &format!("{{ \"lockfileVersion\": {version}, {members} }}"));
            assert_eq!(of(nested), "1 Registry axios@1.14.1 - - [] at node_modules/axios\n", "{version}");
            assert_eq!(of(&format!("{nested}, \"packages\": null")), of(nested), "{version}");
            assert_eq!(of(&format!("{nested}, {paths}")), "1 Registry axios@1.14.0 - - [] at node_modules/axios\n", "{version}");
        }
    }

    #[test]
    fn version_1_nests_packages() {
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
        "#]].assert_eq(&summary("package-lock.json", text));
    }
}
