//! What the project in the working directory says that a run has to know: lines that would lead past it, and what its
//! lockfiles name. Refuses to change any of it, and to fail over a file that is broken: its client will say so.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use url::Url;

use crate::config::Surroundings;
use crate::file;
use crate::npm::Lockfile;
use crate::npm::lockfile::{Dialect, LONGEST, NAMES, Source};
use crate::upstream::npmrc;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Project {
    /// Lockfiles, by their names.
    pub(super) lockfiles: BTreeMap<String, Lockfile>,
    /// Whether a `.npmrc` has a `no-proxy` line, which pnpm 9 and 10 obey.
    pub(super) names_exceptions: bool,
}

impl Project {
    /// Looks around: in the working directory, and upwards for lockfiles, as workspaces have theirs at the root.
    pub(super) fn of(surroundings: &Surroundings) -> Self {
        let lines = npmrc::lines(&surroundings.of_npm()).unwrap_or_default();
        let mut lockfiles = BTreeMap::new();
        for path in lockfiles_of(&surroundings.working_directory) {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let read = file::read(&path, LONGEST as u64).ok();
            if let Some(lockfile) = read.and_then(|bytes| Lockfile::read(&name, &bytes).ok()) {
                lockfiles.insert(name, lockfile);
            }
        }
        Self { lockfiles, names_exceptions: lines.iter().any(|line| line.key == "no-proxy") }
    }

    /// The one host besides the registry's that npm's lockfiles name as a registry, if it is taken: npm 12 goes to no host but
    /// its registry's, and is told to take the one for the other. Of npm's default it does so by itself.
    pub(super) fn written_for(&self, registry: &Url, is_taken: impl Fn(&Url) -> bool) -> Option<String> {
        let of_npm = self.lockfiles.values().filter(|lockfile| lockfile.dialect == Dialect::Npm);
        let entries = of_npm.flat_map(|lockfile| &lockfile.entries).filter(|entry| entry.source == Source::Registry);
        let addresses = entries.filter_map(|entry| Url::parse(entry.resolved.as_deref()?).ok());
        let others = addresses.filter(|url| url.origin() != registry.origin() && is_taken(url));
        let others: BTreeSet<String> = others.filter_map(|url| url.host_str().map(str::to_owned)).collect();
        let default = npmrc::built_in();
        let only = others.iter().next().filter(|host| others.len() == 1 && default.host_str() != Some(host.as_str()));
        only.cloned()
    }

    /// What is locked of registries: name and version.
    pub(super) fn locked(&self) -> BTreeSet<(String, String)> {
        let entries = self.lockfiles.values().flat_map(|lockfile| &lockfile.entries);
        let locked = entries.filter(|entry| entry.source == Source::Registry);
        locked.map(|entry| (entry.name.to_string(), entry.version.to_string())).collect()
    }

    /// How many entries name a place that is not taken, by host and port.
    pub(super) fn elsewhere(&self, is_taken: impl Fn(&Url) -> bool) -> BTreeMap<String, usize> {
        let mut found = BTreeMap::new();
        for url in self.addresses().filter(|url| !is_taken(url)) {
            let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
            *found.entry(format!("{}{port}", url.host_str().unwrap_or_default())).or_default() += 1;
        }
        found
    }

    /// The addresses that entries were resolved to.
    fn addresses(&self) -> impl Iterator<Item = Url> {
        let entries = self.lockfiles.values().flat_map(|lockfile| &lockfile.entries);
        let addresses = entries.filter_map(|entry| Url::parse(entry.resolved.as_deref()?).ok());
        addresses.filter(|url| matches!(url.scheme(), "http" | "https"))
    }
}

/// The lockfiles of the nearest folder upwards that has any.
fn lockfiles_of(folder: &Path) -> Vec<PathBuf> {
    let inside = |folder: &Path| NAMES.iter().map(|name| folder.join(name)).filter(|path| path.is_file()).collect::<Vec<_>>();
    folder.ancestors().map(inside).find(|found| !found.is_empty()).unwrap_or_default()
}
