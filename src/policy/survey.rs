//! The price of a policy: judges the stable updates of real packages as of their publication, and counts how many its signals
//! would have held, and for how long. Pure.

use std::collections::{BTreeMap, HashMap};

use jiff::{SignedDuration, Timestamp};

use crate::npm::Packument;
use crate::npm::packument::index::VersionEntry;
use crate::policy::evaluate::evaluate_without_decisions;
use crate::policy::facts::Facts;
use crate::policy::rules::Policy;
use crate::policy::verdict::Verdict;
use crate::units::timestamp;
use crate::vetting::compare::{Comparison, DatedRelease, SignalReport};
use crate::vetting::{BASELINE_AGE, NewDependency, Signal, SignalStrength, Signals};

/// How long after its publication an update is judged. Releases of other lines may follow within an hour.
const JUDGED_AFTER: SignedDuration = SignedDuration::from_hours(1);

/// Which publish times count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimePrecision {
    Any,
    /// Only those without a fraction of a second. Some mirrors state their own time of a copy with one.
    WholeSeconds,
}

impl TimePrecision {
    fn counts(self, time: Timestamp) -> bool {
        self == Self::Any || time.subsec_nanosecond() == 0
    }
}

/// Which updates are judged.
#[derive(Debug, Clone, Copy)]
pub struct SurveyedSpan {
    pub since: Timestamp,
    pub until: Timestamp,
    pub precision: TimePrecision,
}

/// What one policy does with the updates.
#[derive(Debug, Clone, Default)]
pub struct PolicyPrice {
    pub name: String,
    /// Updates that a rule holds for longer than ages alone, by rule.
    pub holds: BTreeMap<String, usize>,
    /// How much longer each of them is held.
    pub extra_waits: Vec<SignedDuration>,
    /// Updates that are denied, by rule.
    pub denials: BTreeMap<String, usize>,
    /// Updates held for longer, by the signals that they show.
    pub by_signals: BTreeMap<String, usize>,
    /// Updates held for longer, by package.
    pub by_package: BTreeMap<String, usize>,
}

impl PolicyPrice {
    pub(crate) fn held(&self) -> usize {
        self.extra_waits.len()
    }

    pub(crate) fn median_wait(&self) -> Option<SignedDuration> {
        let mut waits = self.extra_waits.clone();
        waits.sort_unstable();
        waits.get(waits.len() / 2).copied()
    }
}

/// The result of a survey.
#[derive(Debug, Clone, Default)]
pub struct UpdateSurvey {
    pub packages: usize,
    /// Packages without an update in the span.
    pub without_updates: usize,
    pub updates: usize,
    /// Updates that show each signal.
    pub by_signal: BTreeMap<Signal, usize>,
    /// Updates that show a strong signal.
    pub strong: usize,
    /// Updates for which each signal is not observable.
    pub unobservable: BTreeMap<Signal, usize>,
    /// Never-seen dependencies, and those of them whose packuments are not in the survey.
    pub dependencies: (usize, usize),
    pub policies: Vec<PolicyPrice>,
}

/// The packages of a survey, to look up new dependencies in.
pub struct SurveyedPackages<'p> {
    packuments: &'p [Packument],
    by_name: HashMap<&'p str, NewDependency>,
}

impl<'p> SurveyedPackages<'p> {
    pub fn new(packuments: &'p [Packument], precision: TimePrecision) -> Self {
        let describe = |packument: &Packument| {
            let latest = packument.dist_tag("latest").and_then(|version| packument.find(version));
            NewDependency::Present {
                first_published: packument.oldest.filter(|oldest| precision.counts(*oldest)),
                has_install_script: latest.is_some_and(|(_, entry)| entry.traits.install_script),
            }
        };
        Self { packuments, by_name: packuments.iter().map(|known| (known.name.as_str(), describe(known))).collect() }
    }

    /// Judges the updates of all packages in `span`.
    pub fn survey(&self, span: SurveyedSpan, policies: &[(String, Policy)]) -> UpdateSurvey {
        let price = |(name, _): &(String, Policy)| PolicyPrice { name: name.clone(), ..PolicyPrice::default() };
        let mut survey = UpdateSurvey { policies: policies.iter().map(price).collect(), ..UpdateSurvey::default() };
        for packument in self.packuments {
            let before = survey.updates;
            for (at, entry) in packument.entries.iter().enumerate() {
                if let Some(published) = update_time(entry, span) {
                    self.judge(packument, (at, published), policies, &mut survey);
                }
            }
            survey.packages += 1;
            survey.without_updates += usize::from(survey.updates == before);
        }
        survey
    }

    fn judge(
        &self,
        packument: &Packument,
        (at, published): (usize, Timestamp),
        policies: &[(String, Policy)],
        survey: &mut UpdateSurvey,
    ) {
        let now = published.saturating_add(JUDGED_AFTER).unwrap_or(published);
        let Some(report) = self.report(packument, at, now, survey) else { return };
        survey.updates += 1;
        survey.strong += usize::from(!report.signals.and(Signals::of_strength(SignalStrength::Strong)).is_empty());
        for signal in report.signals.iter() {
            *survey.by_signal.entry(signal).or_default() += 1;
        }
        for signal in report.unobservable.iter() {
            *survey.unobservable.entry(signal).or_default() += 1;
        }
        let facts = Facts {
            signals: report.signals,
            unobservable: report.unobservable,
            evidence: &report.evidence,
            ..Facts::of_entry(packument, &packument.entries[at], published)
        };
        for ((_, policy), price) in policies.iter().zip(&mut survey.policies) {
            add_verdict(policy, &facts, now, price);
        }
    }

    /// Compares an entry with what existed at `now`. Returns `None` if there was nothing to compare with.
    fn report(&self, packument: &Packument, at: usize, now: Timestamp, survey: &mut UpdateSurvey) -> Option<SignalReport> {
        let releases: Vec<_> = packument
            .entries
            .iter()
            .filter_map(|entry| Some((entry, entry.published.filter(|published| *published <= now)?)))
            .map(|(entry, effective)| DatedRelease {
                entry,
                effective,
                is_sound: entry.inconsistency.is_none(),
                accepted: Signals::NONE,
            })
            .collect();
        let entry = &packument.entries[at];
        let release = releases.iter().find(|release| release.entry.key == entry.key)?;
        let comparison = Comparison::new(&releases, &[], packument, BASELINE_AGE, now);
        let mut report = comparison.compare(release, |name| packument.siblings.pins_part(at, name));
        if report.unobservable.contains(Signal::NewDependency) {
            return None;
        }
        for name in std::mem::take(&mut report.new_dependencies) {
            let known = self.by_name.get(&*name);
            survey.dependencies.0 += 1;
            survey.dependencies.1 += usize::from(known.is_none());
            if let Some(known) = known {
                report.add_dependency(&name, *known, release.effective);
            }
        }
        // Most were deprecated years later, and documents do not say when.
        report.remove(Signal::DeprecatedYoung);
        Some(report)
    }
}

/// Returns when a stable version was published, if it counts.
fn update_time(entry: &VersionEntry, span: SurveyedSpan) -> Option<Timestamp> {
    let is_stable = entry.version.as_ref().is_some_and(|version| !version.is_prerelease()) && entry.inconsistency.is_none();
    let is_within = |published: &Timestamp| *published >= span.since && *published < span.until;
    entry.published.filter(is_within).filter(|published| is_stable && span.precision.counts(*published))
}

fn add_verdict(policy: &Policy, facts: &Facts<'_>, now: Timestamp, price: &mut PolicyPrice) {
    let rules = policy.for_package(facts.name);
    let aged = evaluate_without_decisions(&rules, &Facts { signals: Signals::NONE, ..*facts }, now);
    let verdict = evaluate_without_decisions(&rules, facts, now);
    let rule = verdict.reason().map(|reason| reason.rule.to_string()).unwrap_or_default();
    match (&verdict, aged.opens_at().unwrap_or(now)) {
        (Verdict::Deny { .. }, _) => *price.denials.entry(rule).or_default() += 1,
        (Verdict::Hold { until, .. }, opens) if *until > opens => {
            *price.holds.entry(rule).or_default() += 1;
            *price.by_signals.entry(facts.signals.describe()).or_default() += 1;
            *price.by_package.entry(facts.name.to_string()).or_default() += 1;
            price.extra_waits.push(until.duration_since(opens));
        }
        _ => {}
    }
}

/// Returns the start of a span of `years` before `until`.
pub fn years_before(until: Timestamp, years: u32) -> Timestamp {
    timestamp::saturating_sub(until, std::time::Duration::from_secs(u64::from(years) * 365 * 24 * 3600))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostics::SourceFile;
    use crate::npm::PackageName;
    use crate::npm::packument::parse;
    use crate::policy::presets;
    use crate::policy::rules::compose::compile;

    fn packument(name: &str, versions: &[(&str, &str, &str)]) -> Packument {
        let entries: Vec<_> = versions
            .iter()
            .map(|(version, _, more)| {
                format!(
                    r#""{version}":{{"name":"{name}","version":"{version}","dist":{{"tarball":"x","shasum":"{}"}}{more}}}"#,
                    "0".repeat(40)
                )
            })
            .collect();
        let times: Vec<_> = versions.iter().map(|(version, time, _)| format!(r#""{version}":"{time}""#)).collect();
        let text = format!(r#"{{"name":"{name}","versions":{{{}}},"time":{{{}}}}}"#, entries.join(","), times.join(","));
        parse::parse(&PackageName::parse(name).unwrap(), text.as_bytes()).unwrap().packument
    }

    fn default_policy() -> (String, Policy) {
        let find = |_: &SourceFile, name: &str| presets::policy_file(name).ok_or_else(|| "not found".to_owned());
        let compiled = compile(&[presets::policy_file("default").unwrap()], &find).unwrap_or_else(|errors| panic!("{errors}"));
        ("default".to_owned(), compiled.policy)
    }

    #[test]
    fn updates_are_judged_as_of_their_publication() {
        let script = r#","scripts":{"postinstall":"x"}"#;
        let packuments = [
            packument("quiet", &[("1.0.0", "2025-01-01T00:00:00Z", ""), ("1.1.0", "2025-06-01T00:00:00Z", "")]),
            packument("scripted", &[("1.0.0", "2025-01-01T00:00:00Z", ""), ("1.1.0", "2025-06-01T00:00:00Z", script)]),
            packument("mirrored", &[("1.0.0", "2025-01-01T00:00:00Z", ""), ("1.1.0", "2025-06-01T00:00:00.250Z", script)]),
        ];
        let until = "2026-01-01T00:00:00Z".parse().unwrap();
        let span = SurveyedSpan { since: years_before(until, 3), until, precision: TimePrecision::WholeSeconds };
        let surveyed = SurveyedPackages::new(&packuments, span.precision).survey(span, &[default_policy()]);
        assert_eq!((surveyed.packages, surveyed.updates, surveyed.without_updates, surveyed.strong), (3, 2, 1, 1));
        assert_eq!(surveyed.by_signal.get(&Signal::FirstInstallScript), Some(&1));
        let price = &surveyed.policies[0];
        assert_eq!((price.held(), price.holds.get("strong-signal"), price.denials.len()), (1, Some(&1), 0));
        assert_eq!(price.median_wait(), Some(SignedDuration::from_hours(11 * 24)));
        let any = SurveyedSpan { precision: TimePrecision::Any, ..span };
        assert_eq!(SurveyedPackages::new(&packuments, any.precision).survey(any, &[]).strong, 2);
    }
}
