//! Replays past incidents against a policy and reports which ones it would have stopped. An incident whose lifetime is unknown is
//! undecidable. Signals are computed from a packument that is built from the facts of the incident.

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::npm::packument::index::ManifestTraits;
use crate::npm::{PackageName, Version};
use crate::policy::evaluate::evaluate_without_decisions;
use crate::policy::facts::Facts;
use crate::policy::past_history::{PastFact, PastFacts, PastHistory, number};
use crate::policy::rules::Policy;
use crate::policy::verdict::{RuleId, Verdict};
use crate::text::json_error;
use crate::units::timestamp;
use crate::vetting::Finding;

/// Assumed age of an established package: old enough for every rule.
const ESTABLISHED: SignedDuration = SignedDuration::from_hours(10 * 365 * 24);

/// The most versions of an incident that are read.
const MAX_VERSIONS: usize = 16;

/// A past incident: the facts that a policy tests. Missing fields and fields of an unexpected type count as unknown.
#[derive(Debug, Clone, Default)]
pub struct PastIncident {
    pub id: String,
    packages: Vec<PastRelease>,
    published_at: Option<String>,
    hours_live: Option<f64>,
    hours_live_bound: Option<String>,
    kind: Option<String>,
    facts: PastFacts,
}

#[derive(Debug, Clone)]
struct PastRelease {
    name: String,
    version: Option<String>,
    /// Further malicious versions.
    others: Vec<String>,
}

impl PastIncident {
    /// Parses a file of incidents: a JSON list, or an object with a list `incidents`.
    pub(crate) fn read_all(text: &str) -> Result<Vec<Self>, String> {
        let whole: Value = serde_json::from_str(text).map_err(|error| json_error(&error))?;
        let listed = whole.as_array().or_else(|| whole.get("incidents")?.as_array());
        let listed = listed.ok_or("expected a list of incidents or an object with a list `incidents`")?;
        let read = |(number, value): (usize, &Value)| {
            Self::read(value).ok_or_else(|| format!("incident {number} has no `id`: {}", shortened(value)))
        };
        listed.iter().enumerate().map(read).collect()
    }

    fn read(value: &Value) -> Option<Self> {
        let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        let packages = value.get("packages").and_then(Value::as_array);
        Some(Self {
            id: text("id")?,
            packages: packages.into_iter().flatten().filter_map(PastRelease::read).collect(),
            published_at: text("published_at"),
            hours_live: value.get("hours_live").and_then(number),
            hours_live_bound: text("hours_live_bound"),
            kind: text("kind"),
            facts: value.get("signals").map(PastFacts::read).unwrap_or_default(),
        })
    }
}

impl PastRelease {
    /// Parses `{"name": …, "versions": […]}` or `name@version`.
    fn read(value: &Value) -> Option<Self> {
        if let Some(text) = value.as_str() {
            let at = text.rfind('@').filter(|at| *at > 0);
            let (name, version) = at.map_or((text, None), |at| (&text[..at], Some(text[at + 1..].to_owned())));
            return Some(Self { name: name.to_owned(), version, others: Vec::new() });
        }
        let listed = value.get("versions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let mut versions =
            listed.iter().chain(value.get("version")).take(MAX_VERSIONS).filter_map(Value::as_str).map(str::to_owned);
        let version = versions.next();
        Some(Self { name: value.get("name")?.as_str()?.to_owned(), version, others: versions.collect() })
    }
}

fn shortened(value: &Value) -> String {
    value.to_string().chars().take(60).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayOutcome {
    /// Refused permanently from the moment of publication.
    StoppedAtPublication,
    /// Held until it was removed from the registry.
    StoppedUntilDetection,
    /// Served before it was removed.
    Missed,
    /// Its lifetime is unknown.
    Undecidable,
}

impl ReplayOutcome {
    /// Returns `stopped`, `missed` or `undecidable`.
    pub(crate) fn outcome(self) -> &'static str {
        match self {
            Self::StoppedAtPublication | Self::StoppedUntilDetection => "stopped",
            Self::Missed => "missed",
            Self::Undecidable => "undecidable",
        }
    }
}

/// The outcome of one incident under a policy.
#[derive(Debug, Clone)]
pub struct ReplayResult {
    pub id: String,
    pub fate: ReplayOutcome,
    /// The rule that refused or held it, even if not for long enough.
    pub rule: Option<RuleId>,
    /// The end of the hold. `None` if it is not held, or refused permanently.
    pub until: Option<Timestamp>,
}

/// Whether the signals and findings of an incident count. If not, only ages and manifest traits do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplaySignals {
    Counted,
    Ignored,
}

/// Evaluates an incident at the instant of its publication.
pub(crate) fn replay(policy: &Policy, incident: &PastIncident, signals: ReplaySignals) -> ReplayResult {
    let published = incident.published();
    let Some((verdict, published)) = published.map(|published| (incident.judge(policy, published, signals), published)) else {
        return ReplayResult { id: incident.id.clone(), fate: ReplayOutcome::Undecidable, rule: None, until: None };
    };
    let (rule, until) = (verdict.reason().map(|reason| reason.rule.clone()), verdict.opens_at());
    let fate = match (incident.removed(published), &verdict) {
        (None, _) => ReplayOutcome::Undecidable,
        (Some(_), Verdict::Deny { .. }) => ReplayOutcome::StoppedAtPublication,
        (Some(removed), Verdict::Hold { until, .. }) if removed <= *until => ReplayOutcome::StoppedUntilDetection,
        (Some(_), _) => ReplayOutcome::Missed,
    };
    ReplayResult { id: incident.id.clone(), fate, rule, until }
}

impl PastIncident {
    fn judge(&self, policy: &Policy, published: Timestamp, signals: ReplaySignals) -> Verdict {
        let counted = signals == ReplaySignals::Counted;
        let release = self.packages.iter().find(|release| release.version.is_some()).or(self.packages.first());
        let name = release.and_then(|release| PackageName::parse(&release.name.replace('*', "any")).ok());
        let Some(name) = name.or_else(|| PackageName::parse("incident").ok()) else { return Verdict::Allow };
        let version = release.and_then(|release| release.version.as_deref()).and_then(Version::parse);
        let version = version.or_else(|| Version::parse("1.0.1"));
        let is_new = self.kind.as_deref() == Some("new-malicious-package");
        let established = published.checked_sub(ESTABLISHED).unwrap_or(Timestamp::MIN);
        let (facts, text) = (&self.facts, version.as_ref().map_or("1.0.1", Version::as_str));
        let history = PastHistory {
            name: &name,
            version: text,
            others: release.map(|release| &*release.others).unwrap_or_default(),
            published,
            is_new,
        };
        let report = counted.then(|| facts.report(&history)).flatten().unwrap_or_default();
        let facts = Facts {
            parsed: version.as_ref(),
            first_published: Some(if is_new { published } else { established }),
            traits: ManifestTraits {
                install_script: facts.has(PastFact::NewInstallScript),
                url_dependency: facts.has(PastFact::RemoteDependency),
                ..ManifestTraits::default()
            },
            signals: report.signals,
            evidence: &report.evidence,
            findings: (counted && facts.has(PastFact::ManifestConfusion))
                .then_some(Finding::ManifestConfusion)
                .into_iter()
                .collect(),
            ..Facts::of(&name, text, published)
        };
        let policy = policy.as_of(published);
        evaluate_without_decisions(&policy.for_package(&name), &facts, published)
    }

    /// Returns the publish time. If only the day or month is known, returns its beginning.
    fn published(&self) -> Option<Timestamp> {
        let text = self.published_at.as_deref()?.trim();
        let midnight = |day: &str| timestamp::parse(&format!("{}Z", day.parse::<Date>().ok()?.at(0, 0, 0, 0)));
        timestamp::parse(text).or_else(|| midnight(text)).or_else(|| midnight(&format!("{text}-01")))
    }

    /// Returns the latest time of the removal, if it is known.
    fn removed(&self, published: Timestamp) -> Option<Timestamp> {
        // A number without a bound counts as exact.
        let bound = self.hours_live_bound.as_deref().unwrap_or("exact").to_ascii_lowercase();
        let is_known = ["exact", "approx", "upper"].iter().any(|known| bound.starts_with(known));
        let live = self.hours_live.filter(|hours| is_known && *hours >= 0.0)?;
        let live = SignedDuration::try_from_secs_f64(live * 3600.0).ok()?;
        published.checked_add(live).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn fate(incident: &str) -> ReplayOutcome {
        let policy = Policy::with_ages(Duration::from_secs(72 * 3600), &[]).unwrap();
        replay(&policy, &PastIncident::read_all(&format!("[{incident}]")).unwrap()[0], ReplaySignals::Counted).fate
    }

    #[test]
    fn outcome_depends_on_lifetime_if_it_is_known() {
        let outcome_after = |hours: &str, bound: &str| {
            fate(&format!(r#"{{"id":"a","published_at":"2026-03-31T00:21Z","hours_live":{hours},"hours_live_bound":{bound}}}"#))
        };
        for bound in [r#""exact""#, r#""approx""#, r#""approximate""#, r#""upper""#, r#""Upper bound""#, "null"] {
            assert_eq!(outcome_after("71.9", bound), ReplayOutcome::StoppedUntilDetection, "{bound}");
            // A hold that ends at the removal stops it: upstream is asked again then and no longer has the version.
            assert_eq!(outcome_after("72", bound), ReplayOutcome::StoppedUntilDetection, "{bound}");
            assert_eq!(outcome_after("72.1", bound), ReplayOutcome::Missed, "{bound}");
        }
        for bound in [r#""lower""#, r#""unknown""#, r#""not-applicable""#, r#""never-removed""#, r#""?""#] {
            assert_eq!(outcome_after("3", bound), ReplayOutcome::Undecidable, "{bound}");
        }
        for hours in ["null", r#""long""#, "-1", "1e300", "[]"] {
            assert_eq!(outcome_after(hours, r#""exact""#), ReplayOutcome::Undecidable, "{hours}");
        }
    }

    #[test]
    fn missing_and_invalid_fields_count_as_unknown() {
        let text = r#"{"incidents":[{"id":"a"},{"id":"b","published_at":7,"packages":7,"signals":7,"kind":{}},
            {"id":"c","published_at":"2031-01","hours_live":"5","hours_live_bound":"exact","packages":["@a/b@1.2.3",7,{}],"new":1}]}"#;
        let policy = Policy::with_ages(Duration::from_secs(72 * 3600), &[]).unwrap();
        let fates: Vec<_> = PastIncident::read_all(text)
            .unwrap()
            .iter()
            .map(|incident| replay(&policy, incident, ReplaySignals::Counted).fate)
            .collect();
        assert_eq!(fates, [ReplayOutcome::Undecidable, ReplayOutcome::Undecidable, ReplayOutcome::StoppedUntilDetection]);
        for (text, message) in [
            ("{}", "expected a list of incidents or an object with a list `incidents`"),
            ("[{\"name\":\"x\"}]", "incident 0 has no `id`: {\"name\":\"x\"}"),
        ] {
            assert_eq!(PastIncident::read_all(text).unwrap_err(), message);
        }
    }
}
