//! `pnpm-lock.yaml`, versions 5, 6 and 9: installed packages are in `packages`, the requirements of projects in `importers`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use crate::npm::lockfile::document::{DocMember, DocNode};
use crate::npm::lockfile::model::{Lockfile, LockfileEntry, LockfileError, LockfileFormat};
use crate::npm::lockfile::spec::{EntrySource, source_of_entry};
use crate::npm::name::split_spec;
use crate::npm::semver::version::Version;

const FIELDS: [&str; 3] = ["dependencies", "devDependencies", "optionalDependencies"];

pub(crate) fn read(documents: &[DocNode]) -> Result<Lockfile, LockfileError> {
    // pnpm writes a document for itself and its configuration dependencies before the project's.
    let project = documents.last().ok_or_else(|| LockfileError::at(1, "the file is empty"))?;
    let version = project.text_of("lockfileVersion").unwrap_or_default();
    let dialect = match version.split('.').next() {
        Some("5" | "6") => LockfileFormat::Pnpm6,
        Some("9") => LockfileFormat::Pnpm9,
        _ => return Err(project.unsupported("lockfileVersion", "5.x, 6.x and 9.x")),
    };
    let mut locked = PnpmPackages { has_slashes: version.starts_with('5'), ..PnpmPackages::default() };
    for document in documents {
        for DocMember { key, line, value } in document.members_of("packages") {
            locked.add(key, *line, value);
        }
        locked.ask(document);
    }
    Ok(Lockfile { dialect, entries: locked.entries })
}

#[derive(Default)]
struct PnpmPackages {
    entries: Vec<LockfileEntry>,
    at: HashMap<Box<str>, usize>,
    /// Whether keys have the form `/name/version_peers` of version 5.
    has_slashes: bool,
}

impl PnpmPackages {
    fn add(&mut self, key: &str, line: u32, package: &DocNode) {
        let bare = &*self.bare(key);
        // Versions 5 and 6 have one entry per set of peers, with the same tarball.
        if self.at.contains_key(bare) {
            return;
        }
        self.at.insert(bare.into(), self.entries.len());
        self.entries.push(of_package(bare, line, package));
    }

    fn ask(&mut self, document: &DocNode) {
        // Without workspaces, version 6 has the project's fields at the top level.
        let importers = document.members_of("importers").iter().map(|importer| &importer.value);
        for importer in importers.chain(std::iter::once(document)) {
            // Version 5 has only versions here, and all specifiers in a separate map.
            let specifiers: HashMap<&str, &str> = importer.texts_in(&["specifiers"]).collect();
            for DocMember { key: name, value, .. } in FIELDS.iter().flat_map(|field| importer.members_of(field)) {
                let specifier = value.text_of("specifier").or_else(|| specifiers.get(&**name).copied());
                let (Some(specifier), Some(version)) = (specifier, value.text_of("version").or(value.text())) else { continue };
                self.note(name, version, &Arc::default(), Some(specifier));
            }
        }
        let snapshots = document.members_of("snapshots").iter().chain(document.members_of("packages"));
        for DocMember { key, value, .. } in snapshots {
            let by: Arc<str> = split_spec(&self.bare(key)).map_or_else(Arc::default, |(name, _)| name.into());
            for (name, version) in value.texts_in(&FIELDS) {
                self.note(name, version, &by, None);
            }
        }
    }

    /// Records a requirement of `name`. `version` is a version, or the whole key of another package.
    fn note(&mut self, name: &str, version: &str, by: &Arc<str>, specifier: Option<&str>) {
        let version = &*self.bare(version);
        let at = self.at.get(format!("{name}@{version}").as_str()).or_else(|| self.at.get(version));
        if let Some(at) = at {
            match specifier {
                Some(specifier) => self.entries[*at].add_direct(name, specifier),
                None => self.entries[*at].add_dependent(by, name, None),
            }
        }
    }

    /// Returns a key without its peers and the leading slash of versions before 9. Keys of version 5 get the newer form.
    fn bare<'k>(&self, key: &'k str) -> Cow<'k, str> {
        if self.has_slashes {
            return of_slashes(key);
        }
        let key = key.split('(').next().unwrap_or(key);
        Cow::Borrowed(key.strip_prefix('/').unwrap_or(key))
    }
}

/// Converts `/@acme/ui/1.0.0_peers` to `@acme/ui@1.0.0` and `files.example/ui/1.0.0` to `files.example/ui@1.0.0`. A bare version,
/// and keys of other sources (`github.com/a/b/01`, `file:local`), keep their form.
fn of_slashes(key: &str) -> Cow<'_, str> {
    let parts: Vec<&str> = key.split('/').collect();
    let is_version =
        |part: &&str| part.starts_with(|ch: char| ch.is_ascii_digit()) && Version::parse(without_peers(part)).is_some();
    match parts.iter().skip(1).position(is_version) {
        Some(before) if !key.contains(':') => {
            let name = parts[..=before].join("/");
            format!("{}@{}", name.trim_start_matches('/'), without_peers(parts[before + 1])).into()
        }
        _ if parts.len() == 1 && !key.contains(':') => Cow::Borrowed(without_peers(key)),
        _ => Cow::Borrowed(key.strip_prefix('/').unwrap_or(key)),
    }
}

fn without_peers(version: &str) -> &str {
    version.split(['_', '(']).next().unwrap_or(version)
}

fn of_package(key: &str, line: u32, package: &DocNode) -> LockfileEntry {
    let resolution = package.member("resolution").unwrap_or(&DocNode::Nothing);
    let (host, key) = match split_spec(key) {
        // Versions before 9 prefix the name with the host of another registry.
        Some((name, _)) if !name.starts_with('@') && name.contains('/') && !key.contains(':') => {
            key.split_once('/').unwrap_or(("", key))
        }
        _ => ("", key),
    };
    let (name, version) = split_spec(key).unwrap_or((package.text_of("name").unwrap_or(key), key));
    let tarball = resolution.text_of("tarball").or_else(|| resolution.text_of("repo"));
    let source = match resolution.text_of("type") {
        Some("directory") => EntrySource::File,
        Some("git") => EntrySource::Git,
        _ if resolution.is_true("gitHosted") => EntrySource::Git,
        _ => source_of_entry(version).with_address(tarball),
    };
    let host = (!host.is_empty()).then(|| format!("https://{host}/"));
    let resolved = tarball.or(host.as_deref());
    LockfileEntry::new(name, version, source, key, line).with_tarball(resolution.text_of("integrity"), resolved)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::npm::lockfile::tests::summary;

    #[test]
    fn importers_are_direct_and_peers_are_ignored() {
        let text = "lockfileVersion: '9.0'

importers:

  .:
    dependencies:
      axios:
        specifier: ^1.0.0
        version: 1.14.1(debug@4.4.3)
      local:
        specifier: file:./local
        version: file:local
      lodash4:
        specifier: npm:lodash@^4
        version: lodash@4.18.1
      ui:
        specifier: workspace:*
        version: link:packages/ui

  packages/ui:
    devDependencies:
      '@acme/follow':
        specifier: 'catalog:'
        version: 2.0.0

packages:

  '@acme/follow@2.0.0':
    resolution: {integrity: sha512-f, tarball: https://files.example/follow-2.0.0.tgz}

  axios@1.14.1:
    resolution: {integrity: sha512-a}
    engines: {node: '>=6'}

  forked@https://codeload.github.com/a/b/tar.gz/01:
    resolution: {tarball: https://codeload.github.com/a/b/tar.gz/01}
    version: 1.0.0

  local@file:local:
    resolution: {directory: local, type: directory}

  lodash@4.18.1:
    resolution: {integrity: sha512-l}

snapshots:

  axios@1.14.1(debug@4.4.3):
    dependencies:
      '@acme/follow': 2.0.0
      forked: https://codeload.github.com/a/b/tar.gz/01
";
        expect![[r#"
            28 Registry @acme/follow@2.0.0 sha512-f https://files.example/follow-2.0.0.tgz [project:? axios:?] at @acme/follow@2.0.0
            31 Registry axios@1.14.1 sha512-a - [project:^1.0.0] at axios@1.14.1
            35 Git forked@https://codeload.github.com/a/b/tar.gz/01 - https://codeload.github.com/a/b/tar.gz/01 [axios:?] at forked@https://codeload.github.com/a/b/tar.gz/01
            39 File local@file:local - - [project:?] at local@file:local
            42 Registry lodash@4.18.1 sha512-l - [project:^4=lodash4] at lodash@4.18.1
        "#]].assert_eq(&summary("pnpm-lock.yaml", text));
    }

    #[test]
    fn version_6_has_a_leading_slash_and_one_entry_per_set_of_peers() {
        let text = "lockfileVersion: '6.0'

dependencies:
  axios:
    specifier: ^1.0.0
    version: 1.14.1(debug@4.4.3)

packages:

  /axios@1.14.1(debug@4.4.3):
    resolution: {integrity: sha512-a}
    dependencies:
      follow: 2.0.0

  /axios@1.14.1(debug@4.4.4):
    resolution: {integrity: sha512-a}

  /follow@2.0.0:
    resolution: {integrity: sha512-f}

  files.example/@acme/ui@1.0.0:
    resolution: {integrity: sha512-u}

  github.com/a/b/01:
    resolution: {tarball: https://codeload.github.com/a/b/tar.gz/01}
    name: forked
    version: 1.0.0
";
        expect![[r#"
            10 Registry axios@1.14.1 sha512-a - [project:^1.0.0] at axios@1.14.1
            18 Registry follow@2.0.0 sha512-f - [axios:?] at follow@2.0.0
            21 Registry @acme/ui@1.0.0 sha512-u https://files.example/ [] at @acme/ui@1.0.0
            24 Git forked@github.com/a/b/01 - https://codeload.github.com/a/b/tar.gz/01 [] at github.com/a/b/01
        "#]]
        .assert_eq(&summary("pnpm-lock.yaml", text));
    }

    #[test]
    fn version_5_has_slashes_and_separate_specifiers() {
        let text = "lockfileVersion: 5.4

importers:

  .:
    specifiers:
      '@acme/ui': ^1.0.0
      axios: ^1.0.0
      lodash4: npm:lodash@^4
      local: file:local
    dependencies:
      '@acme/ui': 1.0.0_axios@1.14.1
      axios: 1.14.1
      lodash4: /lodash/4.18.1
      local: file:local

packages:

  /@acme/ui/1.0.0_axios@1.14.1:
    resolution: {integrity: sha512-u}
    dependencies:
      axios: 1.14.1
      react: registry.node.example/react/19.0.0

  /@acme/ui/1.0.0_axios@1.14.0:
    resolution: {integrity: sha512-u}

  /axios/1.14.1:
    resolution: {integrity: sha512-a}

  /lodash/4.18.1:
    resolution: {integrity: sha512-l}

  file:local:
    resolution: {directory: local, type: directory}
    name: local

  github.com/a/b/01:
    resolution: {tarball: https://codeload.github.com/a/b/tar.gz/01}
    name: forked
    version: 1.0.0

  registry.node.example/react/19.0.0:
    resolution: {integrity: sha512-r, registry: https://registry.node.example/}
";
        expect![[r#"
            19 Registry @acme/ui@1.0.0 sha512-u - [project:^1.0.0] at @acme/ui@1.0.0
            28 Registry axios@1.14.1 sha512-a - [project:^1.0.0 @acme/ui:?] at axios@1.14.1
            31 Registry lodash@4.18.1 sha512-l - [project:^4=lodash4] at lodash@4.18.1
            34 File local@file:local - - [project:?] at file:local
            38 Git forked@github.com/a/b/01 - https://codeload.github.com/a/b/tar.gz/01 [] at github.com/a/b/01
            43 Registry react@19.0.0 sha512-r https://registry.node.example/ [@acme/ui:?] at react@19.0.0
        "#]]
        .assert_eq(&summary("pnpm-lock.yaml", text));
    }

    #[test]
    fn version_5_without_workspaces_has_top_level_fields() {
        let text = "lockfileVersion: 5.3\nspecifiers:\n  axios: ^1.0.0\ndevDependencies:\n  axios: 1.14.1\npackages:\n  /axios/1.14.1/debug@4.4.3:\n    resolution: {integrity: sha512-a}\n";
        assert_eq!(summary("pnpm-lock.yaml", text), "7 Registry axios@1.14.1 sha512-a - [project:^1.0.0] at axios@1.14.1\n");
    }
}
