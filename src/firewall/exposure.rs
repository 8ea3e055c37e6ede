//! What was already served or cached, judged again by new advisories: what turns bad leaves the store, and who got it is named.
//! Refuses to decide what is bad: the policy says so.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;

use crate::firewall::policy_state::{PolicySnapshot, Profile};
use crate::npm::{Integrity, PackageName, Version};
use crate::policy::advisories::AdvisoryKind;
use crate::policy::{Advisory, ApplicableAdvisories, Facts, FeedTrust, judge};
use crate::store::{BlobStore, DownloadOutcome, Exposure, Ledger, LedgerEvent, Release, StoreError, TarballSource};
use crate::telemetry::{ClientExposed, Metrics};

/// A version that was seen here and is bad.
#[derive(Debug, Clone)]
pub struct ExposedVersion {
    /// The package.
    pub name: PackageName,
    /// The version.
    pub version: Box<str>,
    /// The advisory that says so.
    pub advisory: Box<str>,
    /// The feed it stands in.
    pub feed: Box<str>,
    /// Every integrity it was seen with.
    pub integrities: Vec<Integrity>,
    /// When it counts as published, by what was seen first.
    pub published: Option<Timestamp>,
    /// Who got it.
    pub clients: Vec<Exposure>,
    /// Whether it is refused now: denied as malware, and nobody approved it by the record's name.
    pub is_condemned: bool,
}

/// What became of the findings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PurgeResult {
    /// Tarballs that left the store.
    pub removed: u64,
    /// Clients that were named for the first time.
    pub named: u64,
}

/// Every version in the ledger that an advisory affects which is `wanted`. Blocks; reads the releases of packages with advisories
/// alone.
///
/// # Errors
/// When the ledger cannot be read.
pub fn find(
    world: &PolicySnapshot,
    ledger: &dyn Ledger,
    now: Timestamp,
    wanted: impl Fn(Advisory<'_>) -> bool,
) -> Result<Vec<ExposedVersion>, StoreError> {
    let mut findings = Vec::new();
    for name in ledger.names()? {
        let advisories = world.advisories.of(name.as_str());
        if !advisories.iter().any(&wanted) {
            continue;
        }
        let (releases, served, downloaded) = (ledger.releases(&name)?, served(ledger, &name)?, ledger.downloaded(&name)?);
        let keys = releases.iter().map(|release| &*release.version).chain(served.iter().map(|one| &*one.version));
        let keys: BTreeSet<&str> = keys.collect();
        let mut dates: HashMap<&str, Timestamp> = HashMap::new();
        for release in &releases {
            let date = dates.entry(&*release.version).or_insert(release.counts_from());
            *date = release.counts_from().max(*date);
        }
        // One that is not in the ledger is as young as can be.
        let dated = |key: &str| dates.get(key).copied().unwrap_or(now);
        let versions: Vec<_> = keys.into_iter().map(|key| (key, Version::parse(key))).collect();
        let applicable = advisories.among(versions.iter().map(|(key, version)| (*key, version.as_ref(), dated(key))));
        for (key, version) in &versions {
            let Some(advisory) = applicable.matching(key, version.as_ref()).find(|one| wanted(*one)) else { continue };
            let mut finding = finding(&name, key, advisory, (&releases, &served, &downloaded));
            let denied = advisory.kind == AdvisoryKind::Malware && advisory.trust == FeedTrust::Deny;
            finding.is_condemned = denied && !is_approved(world, &finding, &applicable, version.as_ref(), now);
            findings.push(finding);
        }
    }
    Ok(findings)
}

/// What was seen here of these versions of a package, whatever any advisory says; `reason` stands for the advisory. Blocks.
///
/// # Errors
/// When the ledger cannot be read.
pub fn find_versions(
    ledger: &dyn Ledger,
    name: &PackageName,
    versions: &[String],
    reason: &str,
) -> Result<Vec<ExposedVersion>, StoreError> {
    let (releases, served, downloaded) = (ledger.releases(name)?, served(ledger, name)?, ledger.downloaded(name)?);
    let is_seen = |version: &&String| {
        releases.iter().any(|release| *release.version == **version) || served.iter().any(|one| one.version == **version)
    };
    let found = versions.iter().filter(is_seen).map(|version| ExposedVersion {
        name: name.clone(),
        version: version.as_str().into(),
        advisory: reason.into(),
        feed: "".into(),
        integrities: integrities(version, (&releases, &served, &downloaded)),
        published: published(version, &releases),
        clients: served.iter().filter(|one| one.version == *version).cloned().collect(),
        is_condemned: false,
    });
    Ok(found.collect())
}

/// Takes what was found out of the store, and names each client that got it: once, however often this is done. Blocks.
///
/// # Errors
/// When the ledger cannot be read.
pub fn purge(
    findings: &[ExposedVersion],
    ledger: &dyn Ledger,
    blobs: &dyn BlobStore,
    metrics: &Metrics,
    now: Timestamp,
) -> Result<PurgeResult, StoreError> {
    let (mut purge, mut told) = (PurgeResult::default(), HashSet::new());
    for finding in findings {
        for integrity in &finding.integrities {
            match blobs.remove(integrity.strongest()) {
                Ok(removed) => purge.removed += u64::from(removed),
                Err(error) => tracing::error!(
                    package.name = %finding.name,
                    package.version = &*finding.version,
                    error = &error as &dyn std::error::Error,
                    "a tarball that turned out to be bad cannot be removed"
                ),
            }
        }
        for client in &finding.clients {
            let incident = incident(finding, client);
            // Two integrities of one version are two rows of one client.
            if ledger.has_incident(&incident)? || !told.insert(incident.clone()) {
                continue;
            }
            purge.named += 1;
            name_client(finding, client, metrics);
            ledger.record_incident(incident, now);
        }
    }
    if purge.named > 0 {
        ledger.flush();
    }
    Ok(purge)
}

/// Judges everything again and purges what is bad. Blocks.
///
/// # Errors
/// When the ledger cannot be read.
pub fn judge_again(
    world: &PolicySnapshot,
    ledger: &Arc<dyn Ledger>,
    blobs: &Arc<dyn BlobStore>,
    metrics: &Metrics,
    now: Timestamp,
) -> Result<PurgeResult, StoreError> {
    let denies = |advisory: Advisory<'_>| advisory.kind == AdvisoryKind::Malware && advisory.trust == FeedTrust::Deny;
    let mut findings = find(world, ledger.as_ref(), now, denies)?;
    // What somebody approved by the record's name stays.
    findings.retain(|finding| finding.is_condemned);
    let purge = purge(&findings, ledger.as_ref(), blobs.as_ref(), metrics, now)?;
    if purge != PurgeResult::default() {
        tracing::warn!(blobs.removed = purge.removed, clients.named = purge.named, "what was served turned out to be bad");
    }
    Ok(purge)
}

/// Who got a version, in words: one line.
#[must_use]
pub fn tell_client(client: &Exposure) -> String {
    let tool = match (&*client.tool, &*client.tool_version) {
        ("other", "") => "unknown".to_owned(),
        ("other", product) => product.to_owned(),
        (tool, "") => tool.to_owned(),
        (tool, version) => format!("{tool}/{version}"),
    };
    format!("{} ({tool})", client.client)
}

fn incident(finding: &ExposedVersion, client: &Exposure) -> LedgerEvent {
    LedgerEvent {
        kind: "exposure",
        name: Some(finding.name.clone()),
        version: Some(finding.version.clone()),
        detail: format!("{} of the feed `{}`: {}", finding.advisory, finding.feed, tell_client(client)),
    }
}

fn name_client(finding: &ExposedVersion, client: &Exposure, metrics: &Metrics) {
    ClientExposed {
        name: &finding.name,
        version: &finding.version,
        advisory: &finding.advisory,
        feed: &finding.feed,
        client: &tell_client(client),
        times: client.times,
    }
    .emit(metrics);
}

/// Whether the version may be served all the same, in any of the bytes it was seen with.
fn is_approved(
    world: &PolicySnapshot,
    finding: &ExposedVersion,
    advisories: &ApplicableAdvisories<'_>,
    version: Option<&Version>,
    now: Timestamp,
) -> bool {
    let rules = world.policy(Profile::default()).about(&finding.name);
    finding.integrities.iter().any(|integrity| {
        let facts = Facts {
            published: None,
            integrity: Some(integrity),
            parsed: version,
            advisories,
            ..Facts::of(&finding.name, &finding.version, now)
        };
        judge(&rules, &world.standing, &facts, now).allows()
    })
}

fn served(ledger: &dyn Ledger, name: &PackageName) -> Result<Vec<Exposure>, StoreError> {
    let mut served = ledger.exposure(name, None)?;
    served.retain(|one| one.outcome == DownloadOutcome::Served);
    Ok(served)
}

/// What the ledger has of a package: its releases, who got which of them, and what was downloaded.
type Noted<'a> = (&'a [Release], &'a [Exposure], &'a [TarballSource]);

fn finding(name: &PackageName, key: &str, advisory: Advisory<'_>, noted: Noted<'_>) -> ExposedVersion {
    let (releases, served, _) = noted;
    ExposedVersion {
        name: name.clone(),
        version: key.into(),
        advisory: advisory.id.into(),
        feed: advisory.feed.into(),
        integrities: integrities(key, noted),
        published: published(key, releases),
        clients: served.iter().filter(|one| one.version == key).cloned().collect(),
        is_condemned: false,
    }
}

/// Every integrity that a version was seen, downloaded or served with. What was downloaded names the blobs, whatever was stated.
fn integrities(version: &str, (releases, served, downloaded): Noted<'_>) -> Vec<Integrity> {
    let of_version = releases.iter().filter(|release| *release.version == *version);
    let mut found: Vec<Integrity> = of_version.filter_map(Release::known_digests).collect();
    let kept = downloaded.iter().filter(|tarball| *tarball.version == *version).map(|tarball| tarball.digests.clone());
    let sent = served.iter().filter(|one| one.version == version).filter_map(|client| client.integrity.as_deref());
    for integrity in kept.chain(sent.filter_map(|sri| Integrity::parse(Some(sri), None))) {
        if !found.iter().any(|known| known.digests().contains(integrity.strongest())) {
            found.push(integrity);
        }
    }
    found
}

/// When a version counts as published, by what was seen first.
fn published(version: &str, releases: &[Release]) -> Option<Timestamp> {
    releases.iter().filter(|release| *release.version == *version).map(Release::counts_from).min()
}
