//! The first morning of a team whose lockfiles hold young versions: each is approved by its exact version and bytes, until it
//! would have opened anyway. Refuses to adopt what is held back for more than its age.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::AppError;
use super::deciding::may_be_approved;
use super::question::{asker, firewall};
use crate::config::Config;
use crate::firewall::{Inspected, Inspection, Rejection};
use crate::npm::lockfile::{Lockfile, Source};
use crate::npm::{Agreement, Integrity, PackageName};
use crate::policy::decision::{Adopted, Approved};
use crate::telemetry::Clock;

/// Packages asked for at once.
const AT_ONCE: usize = 16;

/// What of some lockfiles is adopted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Adoption {
    /// Young versions, each until it would have opened anyway.
    pub versions: Vec<Adopted>,
    /// Entries that are kept back and stay so, and why: `axios@1.14.1`.
    pub left_out: Vec<(String, String)>,
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
    let mut adoption = Adoption::default();
    let wanted = wanted(lockfiles, &mut adoption);
    let scratch = Arc::new(firewall(config, clock)?);
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut asked = JoinSet::new();
    for (name, versions) in wanted {
        let (scratch, places) = (Arc::clone(&scratch), Arc::clone(&places));
        asked.spawn(async move {
            let _place = places.acquire_owned().await;
            let inspected = scratch.value.inspect(&asker(), &name).await;
            (name, versions, inspected)
        });
    }
    while let Some(told) = asked.join_next().await {
        // A task that was lost left its entries out of what is adopted.
        let Ok((name, versions, inspected)) = told else { continue };
        adoption.take(&name, &versions, &inspected);
    }
    adoption.versions.sort_by(|one, other| (&one.package, &one.approved.version).cmp(&(&other.package, &other.approved.version)));
    adoption.left_out.sort();
    Ok(adoption)
}

/// The versions that lockfiles hold of each package, with the digests they state.
type Wanted = BTreeMap<PackageName, BTreeMap<Box<str>, BTreeSet<Option<Box<str>>>>>;

fn wanted(lockfiles: &[Lockfile], adoption: &mut Adoption) -> Wanted {
    let mut wanted = Wanted::new();
    for entry in lockfiles.iter().flat_map(|lockfile| &lockfile.entries) {
        if entry.source != Source::Registry {
            adoption.elsewhere += 1;
            continue;
        }
        match PackageName::parse(&entry.name) {
            Ok(name) => {
                wanted.entry(name).or_default().entry(entry.version.clone()).or_default().insert(entry.integrity.clone());
            }
            Err(wrong) => adoption.left_out.push((format!("{}@{}", entry.name, entry.version), wrong.to_string())),
        }
    }
    wanted
}

impl Adoption {
    fn take(
        &mut self,
        name: &PackageName,
        versions: &BTreeMap<Box<str>, BTreeSet<Option<Box<str>>>>,
        inspected: &Result<Inspection, Rejection>,
    ) {
        for (version, digests) in versions {
            let spec = format!("{name}@{version}");
            let found = match inspected {
                Ok(inspection) => {
                    inspection.versions.iter().find(|one| *one.key == **version).ok_or("upstream does not have it".to_owned())
                }
                Err(rejection) => Err(rejection.to_string()),
            };
            match found.and_then(|one| judged(one, digests)) {
                Ok(None) => self.allowed += 1,
                Ok(Some(approved)) => self.versions.push(Adopted { package: name.as_str().to_owned(), approved }),
                Err(why) => self.left_out.push((spec, why)),
            }
        }
    }
}

/// Whether a version is adopted: not when it is allowed anyway, and not when it is held back for more than its age.
fn judged(one: &Inspected, digests: &BTreeSet<Option<Box<str>>>) -> Result<Option<Approved>, String> {
    let Some(integrity) = &one.integrity else { return Err("upstream states no integrity for it".to_owned()) };
    let other = digests.iter().flatten().find(|text| {
        let stated = Integrity::parse(Some(text), None).or_else(|| Integrity::parse(None, Some(text)));
        stated.is_none_or(|stated| stated.agreement(integrity) == Agreement::Different)
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
            Ok(Some(Approved { version: one.key.to_string(), integrity: integrity.to_sri(), until: Some(opens) }))
        }
        _ => Err(why),
    }
}
