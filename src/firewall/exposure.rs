//! Re-evaluates served and stored versions against new advisories: removes malicious tarballs and names the clients that received
//! them. The policy decides what is malicious.

use std::collections::{BTreeMap, HashMap, HashSet};

use jiff::Timestamp;

use crate::firewall::policy_state::{PolicySnapshot, Profile};
use crate::npm::{Algorithm, Digest, Integrity, PackageName, Version};
use crate::policy::advisories::AdvisoryKind;
use crate::policy::{Advisory, ApplicableAdvisories, Facts, FeedTrust, Verdict};
use crate::store::{
    BlobStore, DownloadOutcome, Exposure, InspectedTarball, Ledger, LedgerEvent, PackageKey, Release, StoreError, TarballSource,
};
use crate::telemetry::{ClientExposed, Metrics};
use crate::vetting::{Finding, FindingEvidence};

/// A version that was served or stored and that an advisory affects.
#[derive(Debug, Clone)]
pub struct ExposedVersion {
    pub name: PackageName,
    pub version: Box<str>,
    /// The id of the advisory.
    pub advisory: Box<str>,
    /// The feed that lists the advisory.
    pub feed: Box<str>,
    /// Every integrity that was stated, downloaded or served.
    pub integrities: Vec<Integrity>,
    /// The effective publish time of its first known release.
    pub published: Option<Timestamp>,
    /// The clients that received it.
    pub clients: Vec<Exposure>,
    /// Whether it is denied as malware and no decision approves it by the advisory's id.
    pub is_condemned: bool,
}

impl ExposedVersion {
    /// Keeps only what is about these bytes. A client whose digest was not recorded may have received them.
    fn of_bytes(self, digests: &Integrity) -> Self {
        let received = |client: &Exposure| {
            let sent = client.integrity.as_deref().and_then(|sri| Integrity::parse(Some(sri), None));
            sent.is_none_or(|sent| sent.is_covered_by(digests))
        };
        Self { integrities: vec![digests.clone()], clients: self.clients.into_iter().filter(received).collect(), ..self }
    }
}

/// The result of a [`purge`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PurgeResult {
    /// Tarballs removed from the store.
    pub removed: u64,
    /// Clients reported for the first time.
    pub named: u64,
}

/// Returns every version in the ledger that a `wanted` advisory affects, by its name, by a digest of its tarball, or by a file that
/// was found in its tarball. Blocks.
pub(crate) fn find_exposed(
    policy_snapshot: &PolicySnapshot,
    ledger: &dyn Ledger,
    now: Timestamp,
    wanted: impl Fn(Advisory<'_>) -> bool,
) -> Result<Vec<ExposedVersion>, StoreError> {
    let mut findings = find_by_name(policy_snapshot, ledger, now, &wanted)?;
    // A finding by name is about all bytes of the version.
    for more in [find_by_digest(policy_snapshot, ledger, now, &wanted)?, find_by_file(policy_snapshot, ledger, now, &wanted)?] {
        let key = |finding: &ExposedVersion| (finding.name.clone(), finding.version.clone(), finding.advisory.clone());
        let known: HashSet<_> = findings.iter().map(key).collect();
        findings.extend(more.into_iter().filter(|finding| !known.contains(&key(finding))));
    }
    Ok(findings)
}

/// Reads only the releases of packages with advisories.
fn find_by_name(
    policy_snapshot: &PolicySnapshot,
    ledger: &dyn Ledger,
    now: Timestamp,
    wanted: &dyn Fn(Advisory<'_>) -> bool,
) -> Result<Vec<ExposedVersion>, StoreError> {
    let mut findings = Vec::new();
    for name in ledger.names()? {
        let advisories = policy_snapshot.advisories.of(name.as_str());
        if !advisories.iter().any(wanted) {
            continue;
        }
        let rows = LedgerRows::load(ledger, &name)?;
        let mut dates: HashMap<&str, Timestamp> = HashMap::new();
        for release in rows.releases() {
            let date = dates.entry(&*release.version).or_insert(release.counts_from());
            *date = release.counts_from().max(*date);
        }
        // A version without a recorded release counts from now.
        let dated = |key: &str| dates.get(key).copied().unwrap_or(now);
        let versions: Vec<_> = rows.versions().map(|key| (key, Version::parse(key))).collect();
        let applicable = advisories.applicable_to(versions.iter().map(|(key, version)| (*key, version.as_ref(), dated(key))));
        for (key, version) in &versions {
            let Some(advisory) = applicable.matching(key, version.as_ref()).find(|advisory| wanted(*advisory)) else { continue };
            let mut finding = rows.exposed(&name, key, advisory.id, advisory.feed);
            finding.is_condemned =
                denies(advisory) && !is_approved(policy_snapshot, &finding, &applicable, version.as_ref(), now);
            findings.push(finding);
        }
    }
    Ok(findings)
}

/// Finds tarballs whose digests an advisory lists, whatever package they were downloaded as. Reads the digests of all tarballs.
fn find_by_digest(
    policy_snapshot: &PolicySnapshot,
    ledger: &dyn Ledger,
    now: Timestamp,
    wanted: &dyn Fn(Advisory<'_>) -> bool,
) -> Result<Vec<ExposedVersion>, StoreError> {
    let advisories = &policy_snapshot.advisories;
    if !advisories.lists_tarballs() {
        return Ok(Vec::new());
    }
    let find = |digests: &Integrity| advisories.listing(digests).any(wanted);
    let (mut findings, mut seen, mut last) = (Vec::new(), HashSet::new(), LastRows::default());
    let mut found = ledger.downloaded_with(&find)?;
    found.sort_by(|(left, _), (right, _)| left.cmp(right));
    for (name, source) in found {
        // One row per address.
        if !seen.insert((name.clone(), source.version.clone(), source.digests.clone())) {
            continue;
        }
        let rows = last.of(ledger, &name)?;
        let parsed = Version::parse(&source.version);
        let applicable = advisories.of(name.as_str()).applicable_to(std::iter::empty());
        for advisory in advisories.listing(&source.digests).filter(|advisory| wanted(*advisory)) {
            let mut finding = rows.exposed(&name, &source.version, advisory.id, advisory.feed).of_bytes(&source.digests);
            finding.is_condemned = denies(advisory) && !is_approved(policy_snapshot, &finding, &applicable, parsed.as_ref(), now);
            findings.push(finding);
        }
    }
    Ok(findings)
}

/// Finds tarballs in which a file was found that an advisory lists.
fn find_by_file(
    policy_snapshot: &PolicySnapshot,
    ledger: &dyn Ledger,
    now: Timestamp,
    wanted: &dyn Fn(Advisory<'_>) -> bool,
) -> Result<Vec<ExposedVersion>, StoreError> {
    let advisories = &policy_snapshot.advisories;
    let (mut findings, mut seen, mut last) = (Vec::new(), HashSet::new(), LastRows::default());
    for (PackageKey { name, .. }, inspected) in ledger.inspected_with_listed_files()? {
        // One row per view.
        if !seen.insert((name.clone(), inspected.version.clone(), inspected.sha512.clone())) {
            continue;
        }
        let listed: Vec<Digest> = inspected.evidence.iter().filter_map(FindingEvidence::listed_file).collect();
        let by_id: BTreeMap<(&str, &str), Advisory<'_>> = listed
            .iter()
            .flat_map(|digest| advisories.listing_file(digest))
            .filter(|advisory| wanted(*advisory))
            .map(|advisory| ((advisory.id, advisory.feed), advisory))
            .collect();
        if by_id.is_empty() {
            continue;
        }
        let rows = last.of(ledger, &name)?;
        let digests = rows.digests_of(&inspected);
        for ((id, feed), advisory) in by_id {
            let mut finding = rows.exposed(&name, &inspected.version, id, feed).of_bytes(&digests);
            finding.is_condemned = denies(advisory) && is_denied_for_files(policy_snapshot, &finding, &inspected, now);
            findings.push(finding);
        }
    }
    Ok(findings)
}

/// Checks whether the policy denies a version for the files that were found in its tarball, at any age.
fn is_denied_for_files(
    policy_snapshot: &PolicySnapshot,
    finding: &ExposedVersion,
    inspected: &InspectedTarball,
    now: Timestamp,
) -> bool {
    let rules = policy_snapshot.policy(Profile::default()).for_package(&finding.name);
    let parsed = Version::parse(&finding.version);
    let advisories = policy_snapshot.advisories.of(finding.name.as_str()).applicable_to(std::iter::empty());
    let facts = Facts {
        published: None,
        integrity: finding.integrities.first(),
        parsed: parsed.as_ref(),
        advisories: &advisories,
        findings: Finding::AdvisedFile.into(),
        finding_evidence: &inspected.evidence,
        ..Facts::of(&finding.name, &finding.version, finding.published.unwrap_or(now))
    };
    matches!(policy_snapshot.evaluate(&rules, &facts, now, &mut ()), Verdict::Deny { .. })
}

/// Returns what was served or stored of these versions of a package, regardless of advisories. `reason` replaces the advisory id.
/// Blocks.
pub(crate) fn find_versions(
    ledger: &dyn Ledger,
    name: &PackageName,
    versions: &[String],
    reason: &str,
) -> Result<Vec<ExposedVersion>, StoreError> {
    let rows = LedgerRows::load(ledger, name)?;
    let seen: HashSet<&str> = rows.versions().collect();
    let known = versions.iter().filter(|version| seen.contains(version.as_str()));
    Ok(known.map(|version| rows.exposed(name, version, reason, "")).collect())
}

/// Removes the findings from the store and reports each client that received one. Each client is reported once, even if this is
/// repeated. Blocks.
pub(crate) fn purge(
    findings: &[ExposedVersion],
    ledger: &dyn Ledger,
    blobs: &dyn BlobStore,
    metrics: &Metrics,
    now: Timestamp,
) -> Result<PurgeResult, StoreError> {
    let (mut purge, mut reported) = (PurgeResult::default(), HashSet::new());
    for finding in findings {
        for integrity in &finding.integrities {
            match blobs.remove(integrity.strongest()) {
                Ok(removed) => purge.removed += u64::from(removed),
                Err(error) => tracing::error!(
                    package.name = %finding.name,
                    package.version = &*finding.version,
                    error = &error as &dyn std::error::Error,
                    "malicious tarball removal failed"
                ),
            }
        }
        for client in &finding.clients {
            let incident = incident(finding, client);
            // A client that received two integrities of one version has two rows.
            if ledger.has_event(&incident)? || !reported.insert(incident.clone()) {
                continue;
            }
            purge.named += 1;
            ClientExposed {
                name: &finding.name,
                version: &finding.version,
                advisory: &finding.advisory,
                feed: &finding.feed,
                client: &describe_client(client),
                times: client.times,
            }
            .emit(metrics);
            ledger.record_event(incident, now);
        }
    }
    if purge.named > 0 {
        ledger.flush();
    }
    Ok(purge)
}

/// Re-evaluates all versions in the ledger and purges malware. Blocks.
pub(crate) fn rescan(
    policy_snapshot: &PolicySnapshot,
    ledger: &dyn Ledger,
    blobs: &dyn BlobStore,
    metrics: &Metrics,
    now: Timestamp,
) -> Result<PurgeResult, StoreError> {
    let mut findings = find_exposed(policy_snapshot, ledger, now, denies)?;
    // Versions approved by the advisory's id are kept.
    findings.retain(|finding| finding.is_condemned);
    let purge = purge(&findings, ledger, blobs, metrics, now)?;
    if purge != PurgeResult::default() {
        tracing::warn!(blobs.removed = purge.removed, clients.named = purge.named, "exposed versions purged");
    }
    Ok(purge)
}

/// Returns a one-line description of a client that received a version.
pub(crate) fn describe_client(client: &Exposure) -> String {
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
        detail: format!("{} of the feed `{}`: {}", finding.advisory, finding.feed, describe_client(client)),
    }
}

fn denies(advisory: Advisory<'_>) -> bool {
    advisory.kind == AdvisoryKind::Malware && advisory.trust == FeedTrust::Deny
}

/// Checks whether decisions allow the version with any of its known integrities.
fn is_approved(
    policy_snapshot: &PolicySnapshot,
    finding: &ExposedVersion,
    advisories: &ApplicableAdvisories<'_>,
    version: Option<&Version>,
    now: Timestamp,
) -> bool {
    let rules = policy_snapshot.policy(Profile::default()).for_package(&finding.name);
    finding.integrities.iter().any(|integrity| {
        let facts = Facts {
            published: None,
            integrity: Some(integrity),
            parsed: version,
            advisories,
            ..Facts::of(&finding.name, &finding.version, now)
        };
        policy_snapshot.evaluate(&rules, &facts, now, &mut ()).is_allowed()
    })
}

/// What the ledger records of a package, by version.
struct LedgerRows {
    by_version: BTreeMap<Box<str>, VersionRows>,
}

#[derive(Default)]
struct VersionRows {
    releases: Vec<Release>,
    served: Vec<Exposure>,
    downloaded: Vec<TarballSource>,
}

impl LedgerRows {
    fn load(ledger: &dyn Ledger, name: &PackageName) -> Result<Self, StoreError> {
        let mut by_version: BTreeMap<Box<str>, VersionRows> = BTreeMap::new();
        for release in ledger.releases(name)? {
            by_version.entry(release.version.clone()).or_default().releases.push(release);
        }
        for row in ledger.exposure(name, None)?.into_iter().filter(|row| row.outcome == DownloadOutcome::Served) {
            by_version.entry(row.version.as_str().into()).or_default().served.push(row);
        }
        for source in ledger.downloaded(name)? {
            by_version.entry(source.version.clone()).or_default().downloaded.push(source);
        }
        Ok(Self { by_version })
    }

    fn releases(&self) -> impl Iterator<Item = &Release> {
        self.by_version.values().flat_map(|rows| &rows.releases)
    }

    /// Returns the versions that were seen upstream or served.
    fn versions(&self) -> impl Iterator<Item = &str> {
        let is_known = |rows: &VersionRows| !rows.releases.is_empty() || !rows.served.is_empty();
        self.by_version.iter().filter(move |(_, rows)| is_known(rows)).map(|(version, _)| &**version)
    }

    /// Returns all digests of the bytes that were inspected.
    fn digests_of(&self, inspected: &InspectedTarball) -> Integrity {
        let is_it = |source: &&TarballSource| source.digests.digest(Algorithm::Sha512) == Some(&inspected.sha512);
        let found = self.by_version.get(&inspected.version).and_then(|rows| rows.downloaded.iter().find(is_it));
        found.map_or_else(|| Integrity::single(inspected.sha512.clone()), |source| source.digests.clone())
    }

    fn exposed(&self, name: &PackageName, version: &str, advisory: &str, feed: &str) -> ExposedVersion {
        let rows = self.by_version.get(version);
        let releases = || rows.into_iter().flat_map(|rows| &rows.releases);
        let clients = rows.map(|rows| rows.served.clone()).unwrap_or_default();
        // Stored blobs are named by the downloaded digests, which may differ from the stated ones.
        let mut integrities: Vec<Integrity> = releases().filter_map(Release::known_digests).collect();
        let kept = rows.into_iter().flat_map(|rows| &rows.downloaded).map(|tarball| tarball.digests.clone());
        let sent = clients.iter().filter_map(|client| Integrity::parse(Some(client.integrity.as_deref()?), None));
        for integrity in kept.chain(sent) {
            if !integrities.iter().any(|known| known.digests().contains(integrity.strongest())) {
                integrities.push(integrity);
            }
        }
        ExposedVersion {
            name: name.clone(),
            version: version.into(),
            advisory: advisory.into(),
            feed: feed.into(),
            integrities,
            published: releases().map(Release::counts_from).min(),
            clients,
            is_condemned: false,
        }
    }
}

/// Loads the rows of packages, and keeps those of the last one.
#[derive(Default)]
struct LastRows(Option<(PackageName, LedgerRows)>);

impl LastRows {
    fn of(&mut self, ledger: &dyn Ledger, name: &PackageName) -> Result<&LedgerRows, StoreError> {
        if self.0.as_ref().is_none_or(|(known, _)| known != name) {
            self.0 = None;
        }
        let loaded = match self.0.take() {
            Some(loaded) => loaded,
            None => (name.clone(), LedgerRows::load(ledger, name)?),
        };
        Ok(&self.0.insert(loaded).1)
    }
}
