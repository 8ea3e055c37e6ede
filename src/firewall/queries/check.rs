//! Checks the locked versions of a lockfile, many packages at once: whether each would be served, when it opens, and which
//! version could replace it. The lockfile format does not matter here.

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::firewall::client_scope;
use crate::firewall::components::Firewall;
use crate::firewall::error::FirewallError;
use crate::firewall::packages::request::{DocumentNeed, PackageLookup};
use crate::firewall::policy_state::Profile;
use crate::firewall::request::Client;
use crate::firewall::tarballs::admission::evaluate_removed;
use crate::firewall::verdicts::VerdictTable;
use crate::firewall::workers::task_failed;
use crate::npm::packument::index::without_build;
use crate::npm::semver::range_matching::highest_in_all;
use crate::npm::{DigestComparison, Integrity, PackageName, Packument, Range};
use crate::policy::Verdict;

/// Packages checked concurrently. Concurrent upstream requests are limited separately.
const MAX_CONCURRENT: usize = 64;

/// One locked version of a lockfile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LockedVersion {
    pub name: String,
    pub version: String,
    /// The integrity that the lockfile states, as SRI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub integrity: Option<String>,
    /// The ranges of all packages that require it; a replacement satisfies all of them. Invalid ranges are ignored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<String>,
}

/// The result for one version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckedVersion {
    pub name: String,
    pub version: String,
    /// What a request for it would get.
    pub outcome: CheckOutcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it opens; `None` if it does not open automatically.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opens: Option<Timestamp>,
    /// The highest allowed version that satisfies every range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fits: Option<String>,
    /// The nearest allowed version, regardless of the ranges.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nearest: Option<String>,
}

/// What a request for a version would get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckOutcome {
    Allow,
    /// Refused until it opens: waiting is sufficient.
    Hold,
    Deny,
    /// Served, but the lockfile expects different bytes, so the install would fail.
    OtherBytes,
    /// The package or version does not exist.
    Missing,
    /// The verdict could not be determined.
    Undecided,
}

impl Firewall {
    /// Returns one outcome for each of `locked`, in their order.
    pub(crate) async fn check(&self, client: &Client, locked: &[LockedVersion]) -> Vec<CheckedVersion> {
        let mut by_name: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (at, version) in locked.iter().enumerate() {
            by_name.entry(&version.name).or_default().push(at);
        }
        let mut judged: Vec<Option<CheckedVersion>> = vec![None; locked.len()];
        let permits = Arc::new(Semaphore::new(MAX_CONCURRENT));
        let mut tasks = JoinSet::new();
        for (_, places) in by_name {
            let these: Vec<_> = places.into_iter().map(|at| (at, locked[at].clone())).collect();
            let (inner, client, permits) = (self.clone(), client.clone(), Arc::clone(&permits));
            tasks.spawn(async move {
                // The semaphore is never closed; if it were, nothing would wait.
                let _turn = permits.acquire().await;
                inner.check_package(&client, these).await
            });
        }
        while let Some(done) = tasks.join_next().await {
            // Missing results are reported as undecided.
            for (at, result) in done.unwrap_or_else(|error| {
                self.0.workers.task_failed(&error);
                Vec::new()
            }) {
                judged[at] = Some(result);
            }
        }
        let or_lost = |(result, locked): (Option<CheckedVersion>, &LockedVersion)| {
            result.unwrap_or_else(|| CheckedVersion::failed(locked, &task_failed()))
        };
        judged.into_iter().zip(locked).map(or_lost).collect()
    }

    async fn check_package(&self, client: &Client, locked: Vec<(usize, LockedVersion)>) -> Vec<(usize, CheckedVersion)> {
        let Some((_, first)) = locked.first() else { return Vec::new() };
        let lookup = match PackageName::parse(&first.name) {
            Ok(name) => match client_scope::check(client, &name) {
                Ok(()) => self.0.packages.lookup(client, &name, DocumentNeed::Index, None).await,
                Err(error) => Err(error),
            },
            Err(error) => Err(FirewallError::NotFound(error.to_string().into())),
        };
        let lookup = match lookup {
            Ok(lookup) => self.with_unknown(client, lookup, &locked).await,
            Err(rejection) => {
                return locked.iter().map(|(at, version)| (*at, CheckedVersion::failed(version, &rejection))).collect();
            }
        };
        // Matches untrusted ranges against untrusted versions, so it counts as heavy work.
        let _permit = self.0.workers.heavy.acquire(client.address).await;
        let (inner, profile) = (self.clone(), client.profile);
        let judging = self.0.workers.run(move || {
            locked.iter().map(|(at, version)| (*at, inner.check_version(&lookup, profile, version))).collect::<Vec<_>>()
        });
        judging.await.unwrap_or_default()
    }

    /// Returns `reading`, or a newer lookup if a locked version is missing from it.
    async fn with_unknown(&self, client: &Client, lookup: PackageLookup, locked: &[(usize, LockedVersion)]) -> PackageLookup {
        let is_known =
            |version: &str| lookup.package.packument.as_ref().is_some_and(|packument| packument.find(version).is_some());
        for (_, unknown) in locked.iter().filter(|(_, locked)| !is_known(&locked.version)) {
            if let Some(again) = self.0.packages.recheck(client, &lookup, &unknown.version, DocumentNeed::Index).await {
                return again;
            }
        }
        lookup
    }

    fn check_version(&self, lookup: &PackageLookup, profile: Profile, locked: &LockedVersion) -> CheckedVersion {
        let package = &lookup.package;
        let packument = package.packument.as_ref();
        let policy_snapshot = self.0.policy.snapshot();
        let table = package.verdicts(&policy_snapshot, profile);
        let entry = packument.and_then(|packument| packument.find_same(&locked.version));
        let removed = |version| evaluate_removed(package, version, &policy_snapshot, profile);
        let (verdict, stated) = match entry {
            Some((at, entry)) => (table.verdict(at).clone(), entry.integrity.clone()),
            None => match removed(&locked.version).or_else(|| removed(without_build(&locked.version))) {
                Some((verdict, first, _)) => (verdict, first.and_then(|release| release.integrity.clone())),
                None => return CheckedVersion::missing(locked, format!("{} has no version {}", locked.name, locked.version)),
            },
        };
        let mut judged = CheckedVersion::of_verdict(locked, &verdict);
        if let Some((expected, stated)) = integrity_conflict(locked, stated.as_ref()) {
            judged.outcome = CheckOutcome::OtherBytes;
            judged.rule = Some(LOCKFILE_INTEGRITY.to_owned());
            judged.opens = None;
            judged.reason = Some(format!("the lockfile expects {expected}, the registry has {stated}"));
        }
        if let Some(packument) = packument.filter(|_| judged.outcome != CheckOutcome::Allow) {
            judged.nearest = table.nearest_allowed(packument, &locked.version).map(str::to_owned);
            judged.fits = best_replacement(packument, &table, &locked.ranges).map(str::to_owned);
        }
        judged
    }
}

/// The rule id for a lockfile integrity that differs from the registry's. It is not a policy rule and cannot be waived.
const LOCKFILE_INTEGRITY: &str = "lockfile-integrity";

/// The rule ids for a missing package or version, and for an undetermined verdict.
const NOT_FOUND: &str = "not-found";
const UNDECIDED: &str = "undecided";

impl CheckedVersion {
    fn of_verdict(locked: &LockedVersion, verdict: &Verdict) -> Self {
        let outcome = match (verdict.is_allowed(), verdict.opens_at()) {
            (true, _) => CheckOutcome::Allow,
            (false, Some(_)) => CheckOutcome::Hold,
            (false, None) => CheckOutcome::Deny,
        };
        let (rule, reason) = verdict.reason().map(|reason| (reason.rule.to_string(), reason.detail.clone())).unzip();
        Self { opens: verdict.opens_at(), ..Self::new(locked, outcome, rule, reason) }
    }

    fn missing(locked: &LockedVersion, reason: String) -> Self {
        Self::new(locked, CheckOutcome::Missing, Some(NOT_FOUND.to_owned()), Some(reason))
    }

    fn failed(locked: &LockedVersion, rejection: &FirewallError) -> Self {
        match rejection {
            FirewallError::NotFound(text) => Self::missing(locked, text.to_string()),
            other => Self::new(locked, CheckOutcome::Undecided, Some(UNDECIDED.to_owned()), Some(other.to_string())),
        }
    }

    fn new(locked: &LockedVersion, outcome: CheckOutcome, rule: Option<String>, reason: Option<String>) -> Self {
        let (name, version) = (locked.name.clone(), locked.version.clone());
        Self { name, version, outcome, rule, reason, opens: None, fits: None, nearest: None }
    }
}

/// Returns the integrities of lockfile and registry if they contradict each other.
fn integrity_conflict(locked: &LockedVersion, stated: Option<&Integrity>) -> Option<(String, String)> {
    // yarn 1 writes two digests of one algorithm if it found two. Such an integrity cannot be compared.
    let expected = Integrity::parse(locked.integrity.as_deref(), None)?;
    let stated = stated?;
    (expected.compare(stated) == DigestComparison::Different).then(|| (expected.to_sri(), stated.to_sri()))
}

/// Returns the highest visible version that satisfies every range, a deprecated one only if there is no other. A dist-tag means
/// its visible target.
fn best_replacement<'a>(packument: &'a Packument, table: &VerdictTable, ranges: &[String]) -> Option<&'a str> {
    // Built only if a text is not a range: a packument may have many tags, and a request many texts.
    let tags = LazyCell::new(|| {
        let tags = table.tags.as_ref().unwrap_or(&packument.dist_tags);
        tags.iter().map(|(tag, version)| (&**tag, &**version)).collect::<HashMap<&str, &str>>()
    });
    let read = |text: &String| Range::parse(text).or_else(|| Range::parse(tags.get(text.as_str())?));
    let distinct: BTreeSet<&String> = ranges.iter().collect();
    let ranges: Vec<Range> = distinct.into_iter().filter_map(read).collect();
    if ranges.is_empty() {
        return None;
    }
    let highest = |deprecated: bool| {
        let shown = packument.entries.iter().zip(&table.shown).filter(|(_, shown)| **shown).map(|(entry, _)| entry);
        let versions = shown.filter(|entry| entry.traits.deprecated == deprecated);
        let versions: Vec<_> = versions.filter_map(|entry| Some((entry.version.as_ref()?, &*entry.key))).collect();
        highest_in_all(&ranges, versions)
    };
    highest(false).or_else(|| highest(true))
}
