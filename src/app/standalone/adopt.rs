//! The first morning of a team whose lockfiles hold young versions: each is approved by its exact version and bytes, until it
//! would have opened anyway. Refuses to adopt what is held back for more than its age.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::app::AppError;
use crate::app::standalone::decide::may_be_approved;
use crate::app::standalone::{asker_of, firewall};
use crate::clock::Clock;
use crate::config::Config;
use crate::firewall::{Client, Firewall, FirewallError, InspectedVersion, PackageInspection};
use crate::npm::Lockfile;
use crate::npm::lockfile::EntrySource;
use crate::npm::packument::index::without_build;
use crate::npm::{DigestComparison, Integrity, PackageName};
use crate::policy::decisions::{AdoptedVersion, ApprovedVersion};

/// Packages asked for at once.
const AT_ONCE: usize = 16;

/// What of some lockfiles is adopted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adoption {
    /// Young versions, each until it would have opened anyway.
    pub versions: Vec<AdoptedVersion>,
    /// Entries that are kept back and stay so, and why: `axios@1.14.1`.
    pub left_out: Vec<(String, String)>,
    /// Entries that nothing could be said of, and why: the registry cannot be asked.
    #[serde(default)]
    pub unchecked: Vec<(String, String)>,
    /// Versions that are allowed already.
    pub allowed: usize,
    /// Entries that come from no registry: nothing here concerns them.
    pub elsewhere: usize,
}

impl Adoption {
    /// When the last of them would have opened.
    #[must_use]
    pub fn ends(&self) -> Option<Timestamp> {
        self.versions.iter().filter_map(|adopted| adopted.approved.until).max()
    }
}

/// Works out what of `lockfiles` is adopted.
///
/// # Errors
/// When upstream cannot be set up, or the data directory cannot be read.
pub async fn adopt(config: Config, clock: Arc<dyn Clock>, lockfiles: &[Lockfile]) -> Result<Adoption, AppError> {
    let (mut adoption, wanted) = wanted(lockfiles);
    let asker = asker_of(&config);
    let scratch = firewall(config, clock)?;
    adoption.add(adopt_wanted(&scratch.value, &asker, wanted).await);
    Ok(adoption)
}

/// Works out what of `wanted` is adopted.
pub(crate) async fn adopt_wanted(firewall: &Arc<Firewall>, asker: &Client, wanted: WantedVersions) -> Adoption {
    let mut adoption = Adoption::default();
    let (places, mut asked) = (Arc::new(Semaphore::new(AT_ONCE)), JoinSet::new());
    let mut names = HashMap::new();
    for (name, versions) in wanted {
        let (firewall, asker, places) = (Arc::clone(firewall), asker.clone(), Arc::clone(&places));
        let listed = name.clone();
        let task = asked.spawn(async move {
            let _place = places.acquire_owned().await;
            let inspected = match PackageName::parse(&name) {
                Ok(parsed) => firewall.inspect(&asker, &parsed).await,
                Err(wrong) => Err(FirewallError::NotFound(wrong.to_string().into())),
            };
            (name, versions, inspected)
        });
        names.insert(task.id(), listed);
    }
    while let Some(told) = asked.join_next().await {
        match told {
            Ok((name, versions, inspected)) => adoption.take(&name, &versions, &inspected),
            Err(lost) => {
                tracing::error!(error = %lost, "package not inspected");
                adoption.unchecked.extend(names.remove(&lost.id()).map(|name| (name, "coldframe failed".to_owned())));
            }
        }
    }
    adoption
}

/// The versions that lockfiles hold of each package, with the digests they state.
pub(crate) type WantedVersions = BTreeMap<String, BTreeMap<Box<str>, BTreeSet<Option<Box<str>>>>>;

/// What lockfiles hold of registries, and what is known of them without asking.
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
            Err(wrong) => adoption.left_out.push((format!("{}@{}", entry.name, entry.version), wrong.to_string())),
        }
    }
    (adoption, wanted)
}

impl Adoption {
    /// Adds another part.
    pub(crate) fn add(&mut self, other: Self) {
        self.versions.extend(other.versions);
        self.left_out.extend(other.left_out);
        self.unchecked.extend(other.unchecked);
        self.allowed += other.allowed;
        self.elsewhere += other.elsewhere;
        self.versions.sort_by(|one, other| (&one.package, &one.approved.version).cmp(&(&other.package, &other.approved.version)));
        self.left_out.sort();
        self.unchecked.sort();
    }

    fn take(
        &mut self,
        name: &str,
        versions: &BTreeMap<Box<str>, BTreeSet<Option<Box<str>>>>,
        inspected: &Result<PackageInspection, FirewallError>,
    ) {
        for (version, digests) in versions {
            let spec = format!("{name}@{version}");
            let found = match inspected {
                Ok(inspection) => same(&inspection.versions, version).ok_or("upstream does not have it".to_owned()),
                Err(FirewallError::NotFound(why)) => Err(why.to_string()),
                Err(rejection) => {
                    self.unchecked.push((spec, rejection.to_string()));
                    continue;
                }
            };
            match found.and_then(|one| judged(one, digests)) {
                Ok(None) => self.allowed += 1,
                Ok(Some(approved)) => self.versions.push(AdoptedVersion { package: name.to_owned(), approved }),
                Err(why) => self.left_out.push((spec, why)),
            }
        }
    }
}

/// The version that a lockfile names, whatever build metadata it has.
fn same<'i>(versions: &'i [InspectedVersion], wanted: &str) -> Option<&'i InspectedVersion> {
    let exact = versions.iter().find(|one| *one.key == *wanted);
    exact.or_else(|| versions.iter().find(|one| without_build(&one.key) == without_build(wanted)))
}

/// Whether a version is adopted: not when it is allowed anyway, and not when it is held back for more than its age.
fn judged(one: &InspectedVersion, digests: &BTreeSet<Option<Box<str>>>) -> Result<Option<ApprovedVersion>, String> {
    let Some(integrity) = &one.integrity else { return Err("upstream states no integrity for it".to_owned()) };
    let other = digests.iter().flatten().find(|text| {
        let stated = Integrity::parse(Some(text), None).or_else(|| Integrity::parse(None, Some(text)));
        stated.is_none_or(|stated| stated.agreement(integrity) == DigestComparison::Different)
    });
    if let Some(other) = other {
        return Err(format!("the lockfile holds other bytes than upstream: {other}"));
    }
    if one.verdict.allows() {
        return Ok(None);
    }
    let why = one.verdict.reason().map(|reason| format!("{} (rule {})", reason.detail, reason.rule)).unwrap_or_default();
    match one.verdict.opens() {
        Some(opens) if one.records.is_empty() && may_be_approved(&one.verdict) => {
            Ok(Some(ApprovedVersion { version: one.key.to_string(), integrity: integrity.to_sri(), until: Some(opens) }))
        }
        _ => Err(why),
    }
}
