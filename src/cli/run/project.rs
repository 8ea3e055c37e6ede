//! Reads project files that matter to a run: settings that would bypass the gateway, and lockfiles. Changes no file. Ignores
//! invalid files, because their client reports them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::Path;

use url::Url;

use crate::cli::doctor::formats::{ConfigLine, is_scoped_registry, read_yaml, read_yarnrc};
use crate::cli::lockfiles;
use crate::cli::run::direct_hosts;
use crate::config::ProcessEnvironment;
use crate::files;
use crate::firewall::Want;
use crate::npm::lockfile::{EntrySource, LockfileFormat, MAX_LOCKFILE_BYTES};
use crate::npm::{Lockfile, PackageSpec};
use crate::upstream::npmrc;

/// Names of the requesters: the command line, and `package.json`.
const COMMAND: &str = "this command";
const PACKAGE: &str = "package.json";

/// At most this many bytes of wants are sent to a running server, in one line.
const MAX_WANTS_BYTES: usize = 600_000;

#[derive(Debug, Default)]
pub(crate) struct ProjectFiles {
    pub(crate) lockfiles: BTreeMap<String, Lockfile>,
    /// Dependencies in `package.json`: name and spec.
    pub(super) direct: Vec<(String, String)>,
    /// Whether a `.npmrc` has a `no-proxy` line, which pnpm 9 and 10 obey.
    pub(crate) names_exceptions: bool,
    /// The user's own `NO_PROXY` entries.
    pub(crate) exceptions: Vec<String>,
    /// The registries of scopes in `.npmrc` files.
    pub(crate) scoped_registries: Vec<Url>,
    /// The variables for yarn's CA file, if a file or the user sets one.
    pub(crate) yarn_authority: Vec<&'static str>,
    /// Whether yarn 1 has a registry setting that only its own variable overrides.
    pub(crate) names_yarn_registry: bool,
    /// Whether the project's yarn is yarn 2, by `packageManager` or `yarnPath`.
    pub(crate) has_yarn_2: bool,
}

const MAX_YARNRC_BYTES: u64 = 4 << 20;

/// The CA settings of yarn 4 and of yarn 2 and 3, with their variables. Each version fails on the other's name.
const YARN_AUTHORITY: [(&str, &str); 2] = [("httpsCaFilePath", "YARN_HTTPS_CA_FILE_PATH"), ("caFilePath", "YARN_CA_FILE_PATH")];

impl ProjectFiles {
    /// Reads the working directory and its parents, because workspaces keep lockfiles at their root.
    pub(crate) fn of(surroundings: &ProcessEnvironment) -> Self {
        let lines = npmrc::lines(&surroundings.npm_environment()).unwrap_or_default();
        let scoped = lines.iter().filter(|line| is_scoped_registry(&line.key));
        let (folder, home) = (&surroundings.working_directory, surroundings.home.as_deref());
        let (manifest, berry) = (manifest(folder), lines_of(surroundings, ".yarnrc.yml", read_yaml));
        // The project's yarn accepts the names of CA settings that a file or a variable already sets.
        let is_set = |key: &str, variable: &str| has_key(&berry, key) || is_variable(surroundings, variable);
        let yarn_authority = YARN_AUTHORITY.into_iter().filter(|(key, variable)| is_set(key, variable));
        // yarn 1 reads `registry` lines. A project with a `.yarnrc.yml` uses a later yarn.
        let has_yarn_registry = has_key(&lines_of(surroundings, ".yarnrc", read_yarnrc), "registry")
            && !folder.ancestors().any(|folder| folder.join(".yarnrc.yml").is_file());
        Self {
            lockfiles: lockfiles::nearest(folder).filter_map(Result::ok).collect(),
            direct: direct(&manifest),
            names_exceptions: lines.iter().any(|line| line.key == "no-proxy"),
            exceptions: direct_hosts::entries(&surroundings.variables, &lines, folder, home),
            scoped_registries: scoped.filter_map(|line| Url::parse(&line.value).ok()).collect(),
            yarn_authority: yarn_authority.map(|(_, variable)| variable).collect(),
            names_yarn_registry: is_variable(surroundings, "yarn_registry") || has_yarn_registry,
            has_yarn_2: has_yarn_2(&manifest, &berry),
        }
    }

    /// Returns the only other registry host in npm's lockfiles, if its requests are proxied. npm 12 rejects hosts other than
    /// its registry's and must be told to replace this one. It replaces npm's default registry on its own.
    pub(crate) fn lockfile_registry_host(&self, registry: &Url, is_proxied: impl Fn(&Url) -> bool) -> Option<String> {
        let of_npm = self.lockfiles.values().filter(|lockfile| lockfile.dialect == LockfileFormat::Npm);
        let entries = of_npm.flat_map(|lockfile| &lockfile.entries).filter(|entry| entry.source == EntrySource::Registry);
        let addresses = entries.filter_map(|entry| Url::parse(entry.resolved.as_deref()?).ok());
        let others = addresses.filter(|url| url.origin() != registry.origin() && is_proxied(url));
        let mut others: BTreeSet<String> = others.filter_map(|url| url.host_str().map(str::to_owned)).collect();
        let only = others.pop_first().filter(|_| others.is_empty())?;
        (npmrc::npm_default_registry().host_str() != Some(&only)).then_some(only)
    }

    /// Returns the packages that a command wants: from its arguments, `package.json`, and lockfiles.
    pub(crate) fn wants(&self, command: &[OsString]) -> Vec<(String, Want)> {
        let words = command.iter().skip(1).filter_map(|word| word.to_str()).filter(|word| !word.starts_with(['-', '.', '/']));
        let named = words.filter_map(|word| {
            let PackageSpec { name, wanted } = PackageSpec::parse(word).ok()?;
            Some((name.to_string(), wanted?, COMMAND))
        });
        let direct = self.direct.iter().map(|(name, spec)| (name.clone(), spec.clone(), PACKAGE));
        let locked = self.lockfiles.iter().flat_map(|(file, lockfile)| {
            let entries = lockfile.entries.iter().filter(|entry| entry.source == EntrySource::Registry);
            entries.map(|entry| (entry.name.to_string(), entry.version.to_string(), file.as_str()))
        });
        let mut left = MAX_WANTS_BYTES;
        let all = named.chain(direct).chain(locked).take_while(|(name, spec, by)| {
            left = left.saturating_sub(name.len() + spec.len() + by.len() + 32);
            left > 0
        });
        all.map(|(name, spec, by)| (name, Want { is_direct: by == COMMAND || by == PACKAGE, by: by.into(), spec: spec.into() }))
            .collect()
    }

    pub(crate) fn locked(&self) -> BTreeSet<(String, String)> {
        let entries = self.lockfiles.values().flat_map(|lockfile| &lockfile.entries);
        let locked = entries.filter(|entry| entry.source == EntrySource::Registry);
        locked.map(|entry| (entry.name.to_string(), entry.version.to_string())).collect()
    }

    /// Counts lockfile entries per host whose requests are not proxied.
    pub(crate) fn unproxied_hosts(&self, is_proxied: impl Fn(&Url) -> bool) -> BTreeMap<String, usize> {
        let mut found = BTreeMap::new();
        for url in self.addresses().filter(|url| !is_proxied(url)) {
            let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
            *found.entry(format!("{}{port}", url.host_str().unwrap_or_default())).or_default() += 1;
        }
        found
    }

    pub(crate) fn addresses(&self) -> impl Iterator<Item = Url> {
        let entries = self.lockfiles.values().flat_map(|lockfile| &lockfile.entries);
        let addresses = entries.filter_map(|entry| Url::parse(entry.resolved.as_deref()?).ok());
        addresses.filter(|url| matches!(url.scheme(), "http" | "https"))
    }
}

fn has_yarn_2(manifest: &serde_json::Value, lines: &[ConfigLine]) -> bool {
    let path = lines.iter().find(|(key, ..)| key == "yarnPath").map(|(_, value, ..)| value);
    manifest["packageManager"].as_str().is_some_and(|manager| manager.starts_with("yarn@2."))
        || path.is_some_and(|path| path.rsplit('/').next().unwrap_or_default().starts_with("yarn-2."))
}

/// Reads the files with this name in the working directory, its parents, and the home directory.
fn lines_of(surroundings: &ProcessEnvironment, name: &str, read: fn(&str) -> Vec<ConfigLine>) -> Vec<ConfigLine> {
    let folders = surroundings.working_directory.ancestors().chain(surroundings.home.as_deref());
    let text = |folder: &Path| files::read_bounded(&folder.join(name), MAX_YARNRC_BYTES).and_then(files::into_text).ok();
    folders.filter_map(text).flat_map(|text| read(&text)).collect()
}

fn has_key(lines: &[ConfigLine], key: &str) -> bool {
    lines.iter().any(|(known, ..)| known == key)
}

fn is_variable(surroundings: &ProcessEnvironment, wanted: &str) -> bool {
    surroundings.variables.iter().any(|(name, _)| name.to_str().is_some_and(|name| name.eq_ignore_ascii_case(wanted)))
}

/// Returns name and spec of the dependencies that may come from a registry.
fn direct(manifest: &serde_json::Value) -> Vec<(String, String)> {
    const KINDS: [&str; 4] = ["dependencies", "devDependencies", "optionalDependencies", "peerDependencies"];
    let kinds = KINDS.iter().filter_map(|kind| manifest.get(kind)?.as_object());
    let specs = kinds.flatten().filter_map(|(name, spec)| Some((name.clone(), spec.as_str()?.to_owned())));
    specs.filter(|(_, spec)| !spec.contains(['/', ':'])).collect()
}

/// Reads the nearest `package.json`.
fn manifest(folder: &Path) -> serde_json::Value {
    let file = folder.ancestors().map(|folder| folder.join("package.json")).find(|file| file.is_file());
    let read = file.and_then(|file| files::read_bounded(&file, MAX_LOCKFILE_BYTES as u64).ok());
    read.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}
