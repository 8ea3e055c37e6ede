//! Adds feed advisories to an audit response, in both registry formats: bulk (`{"name": ["version"]}`) and the older tree format.
//! Adds nothing without a vulnerability feed, because a false "0 vulnerabilities" is worse than an error.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::firewall::audit::body::Audited;
use crate::firewall::components::Firewall;
use crate::firewall::package::CacheKey;
use crate::firewall::policy_state::PolicySnapshot;
use crate::firewall::request::Client;
use crate::npm::{Algorithm, AuditFormat, Digest, PackageName, Version};
use crate::policy::advisories::{AdvisoryKind, cvss};
use crate::policy::{Advisory, Severity};
use crate::upstream::PassthroughResponse;

/// Status codes of registries that do not support audits.
const NO_ENDPOINT: [u16; 3] = [404, 405, 501];

/// The largest `metadata` of an upstream response that is updated, in bytes. Its counts take about 100 bytes.
const MAX_COUNTS_BYTES: usize = 64 << 10;

/// Upstream's response. Only the members that change are parsed further.
type Theirs<'a> = BTreeMap<String, &'a RawValue>;

/// An advisory with the installed versions that it affects.
type Found<'w> = (Advisory<'w>, Vec<String>);

impl Firewall {
    /// Returns upstream's audit response with the advisories of the feeds; only those if upstream supports no audits. Blocks.
    pub(crate) fn merge_advisories(
        &self,
        client: &Client,
        passed: PassthroughResponse,
        audited: &Audited,
        format: AuditFormat,
    ) -> PassthroughResponse {
        let policy_snapshot = self.0.policy.snapshot();
        let status = passed.status.as_u16();
        let alone = NO_ENDPOINT.contains(&status);
        let theirs = serde_json::from_slice::<Theirs<'_>>(&passed.body).ok().filter(|_| status == 200);
        if !alone && theirs.is_none() {
            return passed;
        }
        let found = self.matching_advisories(client, &policy_snapshot, audited);
        if found.is_empty() && !alone {
            return passed;
        }
        let theirs = theirs.unwrap_or_default();
        let answer = match format {
            AuditFormat::Bulk => bulk_answer(&found, theirs),
            AuditFormat::Tree => tree_answer(&found, audited, theirs),
        };
        // Serialization of parsed JSON cannot fail; upstream's response is the safe fallback.
        answer.map_or(passed, |answer| PassthroughResponse::of_json(answer.into()))
    }

    /// Returns each advisory on an installed package, with the installed versions that it affects.
    fn matching_advisories<'w>(&self, client: &Client, policy_snapshot: &'w PolicySnapshot, audited: &Audited) -> Vec<Found<'w>> {
        let mut found = Vec::new();
        for (name, versions) in &audited.versions {
            let advisories = policy_snapshot.advisories.of(name);
            if advisories.is_empty() {
                continue;
            }
            let known = PackageName::parse(name).ok();
            let known =
                known.and_then(|name| self.0.cache.get(&CacheKey::of(&name, self.0.registries.of(&name), &client.authorization)));
            let dated = known.iter().flat_map(|known| known.packument.iter().flat_map(|packument| known.dated(packument)));
            let applicable = advisories.applicable_to(dated);
            // The index of each advisory in `here`, by feed and id, so that advisories are compared once and not per version.
            let (mut indexes, mut here) = (HashMap::new(), Vec::<Found<'w>>::new());
            for version in versions.keys() {
                let parsed = Version::parse(version);
                for advisory in applicable.matching(version, parsed.as_ref()) {
                    let index = *indexes.entry((advisory.feed, advisory.id)).or_insert_with(|| {
                        here.iter().position(|(other, _)| is_same(*other, advisory)).unwrap_or_else(|| {
                            here.push((advisory, Vec::new()));
                            here.len() - 1
                        })
                    });
                    let affected = &mut here[index].1;
                    // Duplicate records affect a version consecutively.
                    if affected.last() != Some(version) {
                        affected.push(version.clone());
                    }
                }
            }
            found.append(&mut here);
        }
        found
    }
}

/// Checks whether two advisories are the same record or aliases. Feeds overlap.
fn is_same(a: Advisory<'_>, b: Advisory<'_>) -> bool {
    a.package() == b.package() && (a.is_called(b.id) || b.is_called(a.id))
}

/// The advisories in upstream's response, by the last path segment of their URLs: an id or an alias.
struct UpstreamAdvisoryIds(HashSet<String>);

impl UpstreamAdvisoryIds {
    fn of<'a>(entries: impl Iterator<Item = &'a RawValue>) -> Self {
        #[derive(Deserialize)]
        struct AuditEntry {
            url: String,
        }
        let entries = entries.filter_map(|entry| serde_json::from_str::<AuditEntry>(entry.get()).ok());
        let ids = entries.filter_map(|entry| Some(entry.url.rsplit('/').next()?.to_owned()));
        Self(ids.filter(|id| !id.is_empty()).collect())
    }

    fn holds(&self, advisory: Advisory<'_>) -> bool {
        self.0.contains(advisory.id) || advisory.aliases().any(|alias| self.0.contains(alias))
    }
}

fn to_owned(theirs: Theirs<'_>) -> BTreeMap<String, Box<RawValue>> {
    theirs.into_iter().map(|(name, value)| (name, value.to_owned())).collect()
}

/// Builds `{"name": [advisory]}` from upstream's advisories and those of the feeds.
fn bulk_answer(found: &[Found<'_>], theirs: Theirs<'_>) -> Result<String, serde_json::Error> {
    let mut by_package: BTreeMap<&str, Vec<Advisory<'_>>> = BTreeMap::new();
    for (advisory, _) in found {
        by_package.entry(advisory.package()).or_default().push(*advisory);
    }
    let mut answer = to_owned(theirs);
    for (name, ours) in by_package {
        let mut entries = match answer.get(name) {
            None => Vec::new(),
            Some(listed) => match serde_json::from_str::<Vec<Box<RawValue>>>(listed.get()) {
                Ok(listed) => listed,
                // Anything but a list is passed on unchanged.
                Err(_) => continue,
            },
        };
        let named = UpstreamAdvisoryIds::of(entries.iter().map(|entry| &**entry));
        for advisory in ours.into_iter().filter(|advisory| !named.holds(*advisory)) {
            entries.push(serde_json::value::to_raw_value(&advisory_json(advisory))?);
        }
        answer.insert(name.to_owned(), serde_json::value::to_raw_value(&entries)?);
    }
    serde_json::to_string(&answer)
}

/// Builds the response to a tree audit: advisories with their paths, and the count per severity.
fn tree_answer(found: &[Found<'_>], audited: &Audited, mut theirs: Theirs<'_>) -> Result<String, serde_json::Error> {
    let listed = theirs.remove("advisories").and_then(|listed| serde_json::from_str::<Theirs<'_>>(listed.get()).ok());
    let (mut answer, mut advisories, mut metadata) = if let Some(listed) = listed {
        let metadata = theirs.remove("metadata").filter(|metadata| metadata.get().len() <= MAX_COUNTS_BYTES);
        let metadata = metadata.and_then(|metadata| serde_json::from_str(metadata.get()).ok()).unwrap_or_else(|| json!({}));
        (to_owned(theirs), to_owned(listed), metadata)
    } else {
        let empty = serde_json::value::to_raw_value(&[(); 0])?;
        let answer = BTreeMap::from([("actions".to_owned(), empty.clone()), ("muted".to_owned(), empty)]);
        let metadata = json!({ "vulnerabilities": { "info": 0, "low": 0, "moderate": 0, "high": 0, "critical": 0 },
                "dependencies": audited.count, "devDependencies": 0, "optionalDependencies": 0,
                "totalDependencies": audited.count });
        (answer, BTreeMap::new(), metadata)
    };
    let named = UpstreamAdvisoryIds::of(advisories.values().map(|entry| &**entry));
    for (advisory, versions) in found.iter().filter(|(advisory, _)| !named.holds(*advisory)) {
        let paths = |version: &String| {
            let paths = audited.versions.get(advisory.package()).and_then(|versions| versions.get(version));
            json!({ "version": version, "paths": paths.cloned().unwrap_or_default() })
        };
        let fix = patched(*advisory);
        let mut entry = advisory_json(*advisory);
        entry["findings"] = versions.iter().map(paths).collect();
        entry["module_name"] = advisory.package().into();
        entry["patched_versions"] = (&*fix).into();
        entry["access"] = "public".into();
        entry["overview"] = advisory.summary.into();
        entry["recommendation"] = match &*fix {
            "<0.0.0" => "Remove this package: no fixed version is known".into(),
            fix => format!("Upgrade to {fix}").into(),
        };
        advisories.insert(number(*advisory).to_string(), serde_json::value::to_raw_value(&entry)?);
        if let Some(metadata) = metadata.as_object_mut()
            && let Some(counts) = metadata.entry("vulnerabilities").or_insert_with(|| json!({})).as_object_mut()
        {
            let count = counts.entry(severity(*advisory)).or_insert_with(|| 0.into());
            *count = (count.as_u64().unwrap_or(0) + 1).into();
        }
    }
    answer.insert("advisories".to_owned(), serde_json::value::to_raw_value(&advisories)?);
    answer.insert("metadata".to_owned(), serde_json::value::to_raw_value(&metadata)?);
    serde_json::to_string(&answer)
}

fn advisory_json(advisory: Advisory<'_>) -> Value {
    let title = if advisory.summary.is_empty() { advisory.id } else { advisory.summary };
    let vector = Some(advisory.cvss()).filter(|vector| !vector.is_empty());
    json!({
        "id": number(advisory),
        "url": url(advisory),
        "title": title,
        "severity": severity(advisory),
        "vulnerable_versions": advisory.vulnerable_versions(),
        "cwe": advisory.cwes().collect::<Vec<_>>(),
        "cvss": { "score": vector.and_then(cvss::base_score).unwrap_or(0.0), "vectorString": vector },
    })
}

fn severity(advisory: Advisory<'_>) -> &'static str {
    let scored = || cvss::base_score(advisory.cvss()).map(Severity::of_score);
    match advisory.kind {
        AdvisoryKind::Malware => Severity::Critical.as_str(),
        AdvisoryKind::Vulnerability => advisory.severity.or_else(scored).unwrap_or(Severity::Moderate).as_str(),
    }
}

fn url(advisory: Advisory<'_>) -> String {
    match std::iter::once(advisory.id).chain(advisory.aliases()).find(|id| id.starts_with("GHSA-")) {
        Some(id) => format!("https://github.com/advisories/{id}"),
        None => format!("https://osv.dev/vulnerability/{}", advisory.id),
    }
}

/// Derives the numeric id that the registry format requires from the advisory's id.
fn number(advisory: Advisory<'_>) -> u32 {
    let digest = Digest::of(Algorithm::Sha256, advisory.id.as_bytes());
    digest.as_bytes().first_chunk::<4>().map_or(0, |bytes| u32::from_be_bytes(*bytes) >> 1)
}

/// Returns the fixed versions in the registry's range syntax.
fn patched(advisory: Advisory<'_>) -> String {
    let fixed: BTreeSet<String> = advisory.fixed_versions().map(|version| format!(">={version}")).collect();
    if fixed.is_empty() { "<0.0.0".to_owned() } else { fixed.into_iter().collect::<Vec<_>>().join(" || ") }
}
