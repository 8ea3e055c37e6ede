//! What the feeds say of an audit, in the registry's own shape: bulk (`{"name": ["version"]}`), and the older one of a whole tree.
//! Refuses to fetch, and to answer where no feed knows vulnerabilities: a false "0 vulnerabilities" is worse than an error.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::known::Slot;
use super::world::World;
use super::{Asker, Inner};
use crate::npm::{Algorithm, Digest, PackageName, Version};
use crate::policy::advisory::Kind;
use crate::policy::{Advisory, Severity};
use crate::upstream::Passed;

/// Trees deeper than this are not walked: nobody installs one.
const DEEPEST: usize = 200;

/// The most places of one version that an answer names.
const MOST_PATHS: usize = 100;

/// Statuses by which a registry says that it answers no audits.
const NO_ENDPOINT: [u16; 3] = [404, 405, 501];

/// What is installed: names, versions, and where in the tree each lies.
#[derive(Debug, Default)]
struct Installed {
    versions: BTreeMap<String, BTreeMap<String, Vec<String>>>,
    count: usize,
}

impl Inner {
    /// Upstream's answer to an audit with what the feeds add, or theirs alone where upstream answers no audits. Where no feed holds
    /// vulnerabilities, upstream's as it is.
    pub(super) fn advise(&self, asker: &Asker, passed: Passed, body: &Bytes, bulk: bool) -> Passed {
        let world = self.world();
        // Feeds of malware alone know nothing of what an audit asks.
        if !world.advisories.has_vulnerabilities() {
            return passed;
        }
        let status = passed.status.as_u16();
        let alone = NO_ENDPOINT.contains(&status);
        let theirs = serde_json::from_slice::<Value>(&passed.body).ok().filter(|answer| status == 200 && answer.is_object());
        if !alone && theirs.is_none() {
            return passed;
        }
        let Some(installed) = Installed::read(body, bulk) else { return passed };
        let found = self.found(asker, &world, &installed);
        if found.is_empty() && !alone {
            return passed;
        }
        let answer = match (bulk, theirs) {
            (true, theirs) => bulk_answer(&found, theirs),
            (false, theirs) => tree_answer(&found, &installed, theirs),
        };
        Passed::of_json(answer.to_string().into())
    }

    /// Each advisory on something installed, with the versions of it that it affects.
    fn found<'w>(&self, asker: &Asker, world: &'w World, installed: &Installed) -> Vec<(Advisory<'w>, Vec<String>)> {
        let mut found: Vec<(Advisory<'w>, Vec<String>)> = Vec::new();
        for (name, versions) in &installed.versions {
            let advisories = world.advisories.of(name);
            if advisories.is_empty() {
                continue;
            }
            let known = PackageName::parse(name).ok();
            let known =
                known.and_then(|name| self.documents.get(&Slot::of(&name, self.registries.of(&name), &asker.authorization)));
            let dated = known.iter().flat_map(|known| known.packument.iter().flat_map(|packument| known.dated(packument)));
            let applicable = advisories.among(dated);
            for version in versions.keys() {
                let parsed = Version::parse(version);
                for advisory in applicable.matching(version, parsed.as_ref()) {
                    match found.iter_mut().find(|(other, _)| is_same(*other, advisory)) {
                        Some((_, affected)) if !affected.contains(version) => affected.push(version.clone()),
                        Some(_) => {}
                        None => found.push((advisory, vec![version.clone()])),
                    }
                }
            }
        }
        found
    }
}

/// Two feeds may hold one record, and one record may be another's alias.
fn is_same(one: Advisory<'_>, other: Advisory<'_>) -> bool {
    one.package() == other.package() && (one.is_called(other.id) || other.is_called(one.id))
}

impl Installed {
    fn read(body: &[u8], bulk: bool) -> Option<Self> {
        let mut installed = Self::default();
        if bulk {
            let versions: BTreeMap<String, Vec<String>> = serde_json::from_slice(body).ok()?;
            for (name, versions) in versions {
                installed.count += versions.len();
                installed.versions.insert(name, versions.into_iter().map(|version| (version, Vec::new())).collect());
            }
            return Some(installed);
        }
        let tree: Value = serde_json::from_slice(body).ok()?;
        installed.walk(tree.get("dependencies")?, "", 0);
        Some(installed)
    }

    fn walk(&mut self, dependencies: &Value, above: &str, depth: usize) {
        for (name, dependency) in dependencies.as_object().into_iter().flatten().filter(|_| depth < DEEPEST) {
            let path = if above.is_empty() { name.clone() } else { format!("{above}>{name}") };
            if let Some(version) = dependency.get("version").and_then(Value::as_str) {
                self.count += 1;
                let paths = self.versions.entry(name.clone()).or_default().entry(version.to_owned()).or_default();
                if paths.len() < MOST_PATHS {
                    paths.push(path.clone());
                }
            }
            if let Some(below) = dependency.get("dependencies") {
                self.walk(below, &path, depth + 1);
            }
        }
    }
}

/// `{"name": [advisory]}`, with what upstream says already.
fn bulk_answer(found: &[(Advisory<'_>, Vec<String>)], theirs: Option<Value>) -> Value {
    let mut answer = theirs.unwrap_or_else(|| json!({}));
    for (advisory, _) in found {
        let Some(packages) = answer.as_object_mut() else { continue };
        let Some(listed) = packages.entry(advisory.package()).or_insert_with(|| json!([])).as_array_mut() else { continue };
        if listed.iter().all(|other| !is_told(other, *advisory)) {
            listed.push(tell(*advisory));
        }
    }
    answer
}

/// The answer for a whole tree: advisories with where they were found, and how many of each severity.
fn tree_answer(found: &[(Advisory<'_>, Vec<String>)], installed: &Installed, theirs: Option<Value>) -> Value {
    let mut answer = theirs.filter(|theirs| theirs.get("advisories").is_some_and(Value::is_object)).unwrap_or_else(|| {
        json!({ "actions": [], "advisories": {}, "muted": [], "metadata": { "vulnerabilities":
            { "info": 0, "low": 0, "moderate": 0, "high": 0, "critical": 0 }, "dependencies": installed.count,
            "devDependencies": 0, "optionalDependencies": 0, "totalDependencies": installed.count } })
    });
    for (advisory, versions) in found {
        let told = answer.get("advisories").and_then(Value::as_object);
        if told.into_iter().flat_map(Map::values).any(|other| is_told(other, *advisory)) {
            continue;
        }
        let paths = |version: &String| {
            let paths = installed.versions.get(advisory.package()).and_then(|versions| versions.get(version));
            json!({ "version": version, "paths": paths.cloned().unwrap_or_default() })
        };
        let mut entry = tell(*advisory);
        entry["findings"] = versions.iter().map(paths).collect();
        entry["module_name"] = advisory.package().into();
        entry["patched_versions"] = patched(*advisory).into();
        entry["access"] = "public".into();
        entry["overview"] = advisory.summary.into();
        let fix = patched(*advisory);
        let advice =
            if fix == "<0.0.0" { "Remove it: no version is known to be good".to_owned() } else { format!("Upgrade to {fix}") };
        entry["recommendation"] = advice.into();
        answer["advisories"][number(*advisory).to_string()] = entry;
        let count = &mut answer["metadata"]["vulnerabilities"][severity(*advisory)];
        *count = (count.as_u64().unwrap_or(0) + 1).into();
    }
    answer
}

fn tell(advisory: Advisory<'_>) -> Value {
    let title = if advisory.summary.is_empty() { advisory.id } else { advisory.summary };
    let vector = Some(advisory.cvss()).filter(|vector| !vector.is_empty());
    json!({
        "id": number(advisory),
        "url": url(advisory),
        "title": title,
        "severity": severity(advisory),
        "vulnerable_versions": advisory.vulnerable_versions(),
        "cwe": advisory.cwes().collect::<Vec<_>>(),
        "cvss": { "score": vector.and_then(crate::policy::cvss::base_score).unwrap_or(0.0), "vectorString": vector },
    })
}

/// Whether upstream tells of it already: by its id or an alias in the address.
fn is_told(other: &Value, advisory: Advisory<'_>) -> bool {
    let url = other.get("url").and_then(Value::as_str).unwrap_or_default();
    let last = url.rsplit('/').next().unwrap_or_default();
    !last.is_empty() && advisory.is_called(last)
}

fn severity(advisory: Advisory<'_>) -> &'static str {
    let scored = || crate::policy::cvss::base_score(advisory.cvss()).map(Severity::of_score);
    match advisory.kind {
        Kind::Malware => Severity::Critical.as_str(),
        Kind::Vulnerability => advisory.severity.or_else(scored).unwrap_or(Severity::Moderate).as_str(),
    }
}

fn url(advisory: Advisory<'_>) -> String {
    let ghsa = std::iter::once(advisory.id).chain(advisory.aliases()).find(|id| id.starts_with("GHSA-"));
    match ghsa {
        Some(id) => format!("https://github.com/advisories/{id}"),
        None => format!("https://osv.dev/vulnerability/{}", advisory.id),
    }
}

/// The registry numbers its advisories; ours have names, so the number is made of the name.
fn number(advisory: Advisory<'_>) -> u32 {
    let digest = Digest::of(Algorithm::Sha256, advisory.id.as_bytes());
    digest.as_bytes().first_chunk::<4>().map_or(0, |bytes| u32::from_be_bytes(*bytes) >> 1)
}

/// The versions from which on it is fixed, as the registry writes them.
fn patched(advisory: Advisory<'_>) -> String {
    let fixed: BTreeSet<String> = advisory.fixed_versions().map(|version| format!(">={version}")).collect();
    if fixed.is_empty() { "<0.0.0".to_owned() } else { fixed.into_iter().collect::<Vec<_>>().join(" || ") }
}
