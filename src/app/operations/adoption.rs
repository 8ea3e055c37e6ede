//! Plans the adoption of lockfiles with young versions: each is approved by exact version and integrity until it reaches its
//! minimum age. Versions that are refused for other reasons are left out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::app::operations::approval::{is_approvable, why};
use crate::firewall::{Client, Firewall, FirewallError, InspectedVersion, PackageInspection};
use crate::npm::lockfile::EntrySource;
use crate::npm::packument::index::without_build;
use crate::npm::{DigestComparison, Integrity, Lockfile, PackageName};
use crate::policy::decisions::{AdoptedVersion, ApprovedVersion};

/// The maximum number of packages inspected in parallel.
const AT_ONCE: usize = 16;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Adoption {
    /// Versions to approve, each until it would be allowed anyway.
    pub(crate) versions: Vec<AdoptedVersion>,
    /// Entries that stay refused, with reasons: `axios@1.14.1`.
    pub(crate) left_out: Vec<(String, String)>,
    /// Entries that could not be checked, with reasons, such as an unavailable registry.
    #[serde(default)]
    pub(crate) unchecked: Vec<(String, String)>,
    pub(crate) allowed: usize,
    /// The number of entries that do not come from a registry.
    pub(crate) elsewhere: usize,
}

pub(crate) async fn adopt_wanted(firewall: &Arc<Firewall>, client: &Client, wanted: WantedVersions) -> Adoption {
    let mut adoption = Adoption::default();
    let (slots, mut asked) = (Arc::new(Semaphore::new(AT_ONCE)), JoinSet::new());
    let mut names = HashMap::new();
    for (name, versions) in wanted {
        let (firewall, client, slots) = (Arc::clone(firewall), client.clone(), Arc::clone(&slots));
        let listed = name.clone();
        let task = asked.spawn(async move {
            let _slot = slots.acquire_owned().await;
            let inspected = match PackageName::parse(&name) {
                Ok(parsed) => firewall.inspect(&client, &parsed).await,
                Err(error) => Err(FirewallError::NotFound(error.to_string().into())),
            };
            (name, versions, inspected)
        });
        names.insert(task.id(), listed);
    }
    while let Some(joined) = asked.join_next().await {
        match joined {
            Ok((name, versions, inspected)) => adoption.take(&name, &versions, &inspected),
            Err(lost) => {
                tracing::error!(error = %lost, "package not inspected");
                adoption.unchecked.extend(names.remove(&lost.id()).map(|name| (name, "coldframe failed".to_owned())));
            }
        }
    }
    adoption
}

/// The integrity values of each version.
type IntegrityValues = BTreeMap<Box<str>, BTreeSet<Option<Box<str>>>>;

/// The versions in lockfiles by package, with their integrity values.
pub(crate) type WantedVersions = BTreeMap<String, IntegrityValues>;

/// Collects the registry entries of lockfiles. Other entries go to the plan directly.
pub(crate) fn wanted(lockfiles: &[Lockfile]) -> (Adoption, WantedVersions) {
    let (mut adoption, mut wanted) = (Adoption::default(), WantedVersions::new());
    for entry in lockfiles.iter().flat_map(|lockfile| &lockfile.entries) {
        if entry.source != EntrySource::Registry {
            adoption.elsewhere += 1;
            continue;
        }
        match PackageName::parse(&entry.name) {
            Ok(name) => {
                let versions = wanted.entry(name.as_str().to_owned()).or_default();
                versions.entry(entry.version.clone()).or_default().insert(entry.integrity.clone());
            }
            Err(error) => adoption.left_out.push((format!("{}@{}", entry.name, entry.version), error.to_string())),
        }
    }
    (adoption, wanted)
}

impl Adoption {
    pub(crate) fn ends(&self) -> Option<Timestamp> {
        self.versions.iter().filter_map(|adopted| adopted.approved.until).max()
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.versions.extend(other.versions);
        self.left_out.extend(other.left_out);
        self.unchecked.extend(other.unchecked);
        self.allowed += other.allowed;
        self.elsewhere += other.elsewhere;
        self.versions
            .sort_by(|left, right| (&left.package, &left.approved.version).cmp(&(&right.package, &right.approved.version)));
        self.left_out.sort();
        self.unchecked.sort();
    }

    fn take(&mut self, name: &str, versions: &IntegrityValues, inspected: &Result<PackageInspection, FirewallError>) {
        for (version, digests) in versions {
            let spec = format!("{name}@{version}");
            let found = match inspected {
                Ok(inspection) => same(&inspection.versions, version).ok_or("unknown to upstream".to_owned()),
                Err(FirewallError::NotFound(why)) => Err(why.to_string()),
                Err(rejection) => {
                    self.unchecked.push((spec, rejection.to_string()));
                    continue;
                }
            };
            match found.and_then(|candidate| is_adoptable(candidate, digests)) {
                Ok(None) => self.allowed += 1,
                Ok(Some(approved)) => self.versions.push(AdoptedVersion { package: name.to_owned(), approved }),
                Err(why) => self.left_out.push((spec, why)),
            }
        }
    }
}

/// Finds the version of a lockfile entry. Build metadata is ignored if there is no exact match.
fn same<'i>(versions: &'i [InspectedVersion], wanted: &str) -> Option<&'i InspectedVersion> {
    let exact = versions.iter().find(|candidate| *candidate.key == *wanted);
    exact.or_else(|| versions.iter().find(|candidate| without_build(&candidate.key) == without_build(wanted)))
}

/// Checks whether a version is adopted: `None` if it is already allowed, an error if it is refused for more than its age.
fn is_adoptable(candidate: &InspectedVersion, digests: &BTreeSet<Option<Box<str>>>) -> Result<Option<ApprovedVersion>, String> {
    let Some(integrity) = &candidate.integrity else { return Err("upstream has no integrity for this version".to_owned()) };
    let other = digests.iter().flatten().find(|text| {
        let stated = Integrity::parse(Some(text), None).or_else(|| Integrity::parse(None, Some(text)));
        stated.is_none_or(|stated| stated.compare(integrity) == DigestComparison::Different)
    });
    if let Some(other) = other {
        return Err(format!("the lockfile's integrity differs from upstream's: {other}"));
    }
    if candidate.verdict.is_allowed() {
        return Ok(None);
    }
    match candidate.verdict.opens_at() {
        Some(opens) if candidate.records.is_empty() && is_approvable(&candidate.verdict) => {
            Ok(Some(ApprovedVersion { version: candidate.key.to_string(), integrity: integrity.to_sri(), until: Some(opens) }))
        }
        _ => Err(why(&candidate.verdict)),
    }
}
