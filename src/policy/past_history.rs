//! The packument of a past incident, built from its known facts: a quiet history, then the malicious release. Signals are computed
//! from it as from a real one.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use crate::npm::packument::parse;
use crate::npm::{PackageName, Packument, Version};
use crate::vetting::compare::{Comparison, DatedRelease, SignalReport};
use crate::vetting::{BASELINE_AGE, NewDependency, Signals};

/// Releases before the incident: enough for each signal that needs several.
const RELEASES_BEFORE: u64 = 4;

/// The dependency that an incident added, if its name is not known.
const ADDED_DEPENDENCY: &str = "added-dependency";

/// Within the hour of a burst. The times of single versions are seldom known.
const BURST_PAUSE: SignedDuration = SignedDuration::from_mins(30);

const QUIET_BYTES: u64 = 200_000;

/// One known fact of an incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PastFact {
    NewInstallScript,
    BindingGyp,
    RemoteDependency,
    ProvenanceLost,
    PublisherChanged,
    EmailChanged,
    Dormant,
    Burst,
    SizeJump,
    VersionJump,
    ManifestConfusion,
}

/// The keys of an incident's `signals`.
const KEYS: [(&str, PastFact); 11] = [
    ("new_install_script", PastFact::NewInstallScript),
    ("binding_gyp_added", PastFact::BindingGyp),
    ("git_or_url_dep", PastFact::RemoteDependency),
    ("provenance_lost", PastFact::ProvenanceLost),
    ("publisher_changed", PastFact::PublisherChanged),
    ("maintainer_email_changed", PastFact::EmailChanged),
    ("dormant_package", PastFact::Dormant),
    ("multi_version_burst", PastFact::Burst),
    ("size_jump", PastFact::SizeJump),
    ("version_jump", PastFact::VersionJump),
    ("manifest_confusion", PastFact::ManifestConfusion),
];

/// What is known of an incident's releases.
#[derive(Debug, Clone, Default)]
pub(crate) struct PastFacts {
    facts: Vec<PastFact>,
    /// How old the added dependency was, in hours.
    dependency_hours: Option<f64>,
    adds_dependency: bool,
}

/// What a history is built around.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PastHistory<'a> {
    pub name: &'a PackageName,
    /// The malicious version.
    pub version: &'a str,
    /// Further malicious versions, which count if they came in a burst.
    pub others: &'a [String],
    pub published: Timestamp,
    /// Whether the package has no earlier releases.
    pub is_new: bool,
}

impl PastFacts {
    pub(crate) fn read(value: &Value) -> Self {
        let is_true = |name: &str| value.get(name) == Some(&Value::Bool(true));
        Self {
            facts: KEYS.iter().filter(|(key, _)| is_true(key)).map(|(_, fact)| *fact).collect(),
            dependency_hours: value.get("new_dep_age_hours").and_then(number),
            adds_dependency: is_true("new_dependency"),
        }
    }

    pub(crate) fn has(&self, fact: PastFact) -> bool {
        self.facts.contains(&fact)
    }

    /// Returns the signals that the malicious release shows an hour after it was published.
    pub(crate) fn report(&self, history: &PastHistory<'_>) -> Option<SignalReport> {
        let packument = self.packument(history)?;
        let now = history.published.checked_add(SignedDuration::from_hours(1)).ok()?;
        let entries = packument.entries.iter().filter_map(|entry| Some((entry, entry.published?)));
        let releases: Vec<_> = entries
            .map(|(entry, effective)| DatedRelease { entry, effective, is_sound: true, accepted: Signals::NONE })
            .collect();
        let release = releases.iter().find(|release| *release.entry.key == *history.version)?;
        let comparison = Comparison::new(&releases, &[], &packument, BASELINE_AGE, now);
        let mut report = comparison.compare(release, |_| false);
        for name in std::mem::take(&mut report.new_dependencies) {
            // A dependency of unknown age counts as old and harmless.
            let hours = self.dependency_hours.filter(|_| *name == *ADDED_DEPENDENCY);
            let age = hours.and_then(|hours| SignedDuration::try_from_secs_f64(hours * 3600.0).ok());
            let first_published = age.and_then(|age| history.published.checked_sub(age).ok());
            report.add_dependency(
                &name,
                NewDependency::Present { first_published, has_install_script: false },
                history.published,
            );
        }
        Some(report)
    }

    fn packument(&self, history: &PastHistory<'_>) -> Option<Packument> {
        let PastHistory { name, version, others, published, is_new } = *history;
        let (mut versions, mut times) = (Map::new(), Map::new());
        let mut add = |version: String, at: Timestamp, manifest: Value| {
            times.insert(version.clone(), at.to_string().into());
            versions.insert(version, manifest);
        };
        // The last of four is 45 days old, or far older.
        let last = if self.has(PastFact::Dormant) { 800 } else { 105 };
        for (number, earlier) in self.versions_before(version).into_iter().enumerate().filter(|_| !is_new) {
            let at = published.checked_sub(SignedDuration::from_hours(24 * (last - 20 * i64::try_from(number).ok()?))).ok()?;
            add(earlier.clone(), at, quiet_release(name, &earlier));
        }
        add(version.to_owned(), published, self.malicious_release(name, version));
        for other in others.iter().filter(|other| self.has(PastFact::Burst) && Version::parse(other).is_some()) {
            add(other.clone(), published.checked_add(BURST_PAUSE).ok()?, self.malicious_release(name, other));
        }
        let document = json!({ "name": name.as_str(), "versions": versions, "time": times }).to_string();
        parse::parse(name, document.as_bytes()).ok().map(|parsed| parsed.packument)
    }

    /// Returns versions below the malicious one, close to it unless its number jumped.
    fn versions_before(&self, version: &str) -> Vec<String> {
        let Some(semver) = Version::parse(version).map(|version| version.parsed) else { return Vec::new() };
        let line = match (semver.major, semver.minor) {
            _ if self.has(PastFact::VersionJump) => "0.1".to_owned(),
            (major, minor @ 1..) => format!("{major}.{}", minor - 1),
            (major @ 1.., 0) if semver.patch >= RELEASES_BEFORE => format!("{major}.0"),
            (major @ 1.., 0) => format!("{}.9", major - 1),
            (0, 0) => "0.0".to_owned(),
        };
        (0..RELEASES_BEFORE).map(|patch| format!("{line}.{patch}")).collect()
    }

    fn malicious_release(&self, name: &PackageName, version: &str) -> Value {
        let mut manifest = quiet_release(name, version);
        for fact in &self.facts {
            match fact {
                PastFact::NewInstallScript => manifest["scripts"] = json!({ "postinstall": "node setup.js" }),
                PastFact::BindingGyp => manifest["gypfile"] = true.into(),
                PastFact::RemoteDependency => manifest["dependencies"]["remote"] = "https://host.example/remote.tgz".into(),
                PastFact::ProvenanceLost => manifest["dist"]["attestations"] = Value::Null,
                PastFact::PublisherChanged => manifest["_npmUser"]["name"] = "other-publisher".into(),
                PastFact::EmailChanged => manifest["_npmUser"]["email"] = "other@host.example".into(),
                PastFact::SizeJump => manifest["dist"]["unpackedSize"] = (4 * QUIET_BYTES).into(),
                PastFact::Dormant | PastFact::Burst | PastFact::VersionJump | PastFact::ManifestConfusion => {}
            }
        }
        if self.adds_dependency || self.dependency_hours.is_some() {
            manifest["dependencies"][ADDED_DEPENDENCY] = "^1.0.0".into();
        }
        manifest
    }
}

/// Returns a number, which may be quoted.
pub(crate) fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.trim().parse().ok())
}

fn quiet_release(name: &PackageName, version: &str) -> Value {
    json!({
        "name": name.as_str(),
        "version": version,
        "_npmUser": { "name": "publisher", "email": "publisher@host.example" },
        "dependencies": {},
        "dist": {
            "tarball": "https://registry.example/release.tgz",
            "unpackedSize": QUIET_BYTES,
            "signatures": [],
            "attestations": { "url": "https://registry.example/attestations" },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vetting::Signal;

    fn signals(facts: &Value, version: &str) -> Vec<&'static str> {
        let name = PackageName::parse("demo").unwrap();
        let published = "2026-03-31T00:21:00Z".parse().unwrap();
        let others = ["0.20.1".to_owned()];
        let history = PastHistory { name: &name, version, others: &others, published, is_new: false };
        PastFacts::read(facts).report(&history).unwrap().signals.iter().map(Signal::as_str).collect()
    }

    #[test]
    fn each_fact_shows_its_signal_and_no_other() {
        for (facts, signal) in [
            ("new_install_script", "first-install-script"),
            ("binding_gyp_added", "binding-gyp-added"),
            ("provenance_lost", "provenance-lost"),
            ("publisher_changed", "new-publisher"),
            ("maintainer_email_changed", "publisher-email-changed"),
            ("dormant_package", "dormant"),
            ("multi_version_burst", "release-burst"),
            ("size_jump", "size-jump"),
        ] {
            for version in ["1.14.1", "5.6.1", "20.9.0", "3.0.0", "0.30.4", "1.0.31"] {
                assert_eq!(signals(&json!({ facts: true }), version), [signal], "{version}");
            }
        }
        assert_eq!(signals(&json!({ "version_jump": true }), "99.9.9"), ["version-jump"]);
        assert_eq!(signals(&json!({ "git_or_url_dep": true }), "1.2.3"), ["remote-dependency-added", "new-dependency"]);
        assert_eq!(signals(&json!({ "new_dep_age_hours": 18 }), "1.2.3"), ["newborn-dependency", "new-dependency"]);
        assert_eq!(signals(&json!({}), "1.2.3"), [""; 0]);
    }

    #[test]
    fn new_package_shows_no_signals() {
        let name = PackageName::parse("demo").unwrap();
        let published = "2026-03-31T00:21:00Z".parse().unwrap();
        let history = PastHistory { name: &name, version: "1.0.0", others: &[], published, is_new: true };
        let report = PastFacts::read(&json!({ "new_install_script": true })).report(&history).unwrap();
        assert!(report.signals.is_empty() && !report.unobservable.is_empty());
    }
}
