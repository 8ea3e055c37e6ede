//! Incidents that happened, put before a policy: what it would have stopped. Refuses to guess: an incident whose life is not known is
//! undecidable.

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use super::facts::Facts;
use super::judge::Policy;
use super::verdict::{RuleId, Verdict};
use crate::npm::packument::Traits;
use crate::npm::{PackageName, Version, instant};
use crate::vet::{Finding, Signal};

/// How old an established package is taken to be: old enough for every rule.
const ESTABLISHED: SignedDuration = SignedDuration::from_hours(10 * 365 * 24);

/// A dependency younger than this counts as newborn.
const NEWBORN_HOURS: f64 = 14.0 * 24.0;

/// An incident, as far as a policy asks about it.
#[derive(Debug, Clone, Deserialize)]
pub struct Incident {
    /// What it is called.
    pub id: String,
    #[serde(default)]
    packages: Vec<Release>,
    published_at: Option<String>,
    hours_live: Option<f64>,
    hours_live_bound: Option<String>,
    kind: Option<String>,
    #[serde(default)]
    signals: Seen,
}

#[derive(Debug, Clone, Deserialize)]
struct Release {
    name: String,
    #[serde(default)]
    versions: Vec<String>,
}

/// What the releases of an incident showed.
#[derive(Debug, Clone, Default, Deserialize)]
struct Seen {
    new_install_script: Option<bool>,
    new_dep_age_hours: Option<f64>,
    git_or_url_dep: Option<bool>,
    binding_gyp_added: Option<bool>,
    publisher_changed: Option<bool>,
    maintainer_email_changed: Option<bool>,
    provenance_lost: Option<bool>,
    dormant_package: Option<bool>,
    version_jump: Option<bool>,
    multi_version_burst: Option<bool>,
    size_jump: Option<bool>,
    manifest_confusion: Option<bool>,
}

/// A file of incidents: a list, or an object that holds one.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Incidents {
    /// A list.
    List(Vec<Incident>),
    /// An object that holds one.
    Held {
        /// The list.
        incidents: Vec<Incident>,
    },
}

impl Incidents {
    /// The incidents.
    #[must_use]
    pub fn into_list(self) -> Vec<Incident> {
        match self {
            Self::List(incidents) | Self::Held { incidents } => incidents,
        }
    }
}

/// What became of an incident under a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Refused when it was published, and for good.
    StoppedAtPublication,
    /// Held until after it was gone.
    StoppedUntilDetection,
    /// Served while it lived.
    Missed,
    /// Nobody knows how long it lived.
    Undecidable,
}

impl Fate {
    /// `stopped`, `missed` or `undecidable`.
    #[must_use]
    pub fn outcome(self) -> &'static str {
        match self {
            Self::StoppedAtPublication | Self::StoppedUntilDetection => "stopped",
            Self::Missed => "missed",
            Self::Undecidable => "undecidable",
        }
    }
}

/// An incident under a policy.
#[derive(Debug, Clone)]
pub struct Replayed {
    /// The incident.
    pub id: String,
    /// What became of it.
    pub fate: Fate,
    /// The rule that held it, for long enough or not.
    pub rule: Option<RuleId>,
    /// Until when; `None` where it is not held, or for good.
    pub until: Option<Timestamp>,
}

/// Puts an incident before a policy at the instant at which it was published. Without `signals` only ages and what a manifest says
/// of itself count.
#[must_use]
pub fn replay(policy: &Policy, incident: &Incident, signals: bool) -> Replayed {
    let published = incident.published();
    let Some((verdict, published)) = published.map(|published| (incident.judge(policy, published, signals), published)) else {
        return Replayed { id: incident.id.clone(), fate: Fate::Undecidable, rule: None, until: None };
    };
    let (rule, until) = (verdict.reason().map(|reason| reason.rule.clone()), verdict.opens());
    let fate = match (incident.removed(published), &verdict) {
        (None, _) => Fate::Undecidable,
        (Some(_), Verdict::Deny { .. }) => Fate::StoppedAtPublication,
        (Some(removed), Verdict::Hold { until, .. }) if removed < *until => Fate::StoppedUntilDetection,
        (Some(_), _) => Fate::Missed,
    };
    Replayed { id: incident.id.clone(), fate, rule, until }
}

impl Incident {
    fn judge(&self, policy: &Policy, published: Timestamp, signals: bool) -> Verdict {
        let release = self.packages.iter().find(|release| !release.versions.is_empty()).or(self.packages.first());
        let name = release.and_then(|release| PackageName::parse(&release.name.replace('*', "any")).ok());
        let Some(name) = name.or_else(|| PackageName::parse("incident").ok()) else { return Verdict::Allow };
        let version = release.and_then(|release| release.versions.first()).and_then(|text| Version::parse(text));
        let version = version.or_else(|| Version::parse("1.0.1"));
        let is_new = self.kind.as_deref() == Some("new-malicious-package");
        let established = published.checked_sub(ESTABLISHED).unwrap_or(Timestamp::MIN);
        let seen = &self.signals;
        let facts = Facts {
            parsed: version.as_ref(),
            born: Some(if is_new { published } else { established }),
            traits: Traits {
                install_script: seen.new_install_script == Some(true),
                url_dependency: seen.git_or_url_dep == Some(true),
                ..Traits::default()
            },
            signals: if signals { seen.signals().collect() } else { crate::vet::Signals::NONE },
            findings: (signals && seen.manifest_confusion == Some(true))
                .then_some(Finding::ManifestConfusion)
                .into_iter()
                .collect(),
            ..Facts::of(&name, version.as_ref().map_or("1.0.1", Version::as_str), published)
        };
        policy.as_of(published).judge(&facts, published)
    }

    /// When it was published, as exactly as is known: the beginning of a day or a month where no more is.
    fn published(&self) -> Option<Timestamp> {
        let text = self.published_at.as_deref()?.trim();
        let midnight = |day: &str| instant::parse(&format!("{}Z", day.parse::<Date>().ok()?.at(0, 0, 0, 0)));
        instant::parse(text).or_else(|| midnight(text)).or_else(|| midnight(&format!("{text}-01")))
    }

    /// When it was gone, at the latest, if that is known.
    fn removed(&self, published: Timestamp) -> Option<Timestamp> {
        if !matches!(self.hours_live_bound.as_deref(), Some("exact" | "approx" | "approximate" | "upper")) {
            return None;
        }
        let live = SignedDuration::try_from_secs_f64(self.hours_live? * 3600.0).ok()?;
        published.checked_add(live).ok()
    }
}

impl Seen {
    fn signals(&self) -> impl Iterator<Item = Signal> {
        let newborn = self.new_dep_age_hours.is_some_and(|hours| hours < NEWBORN_HOURS);
        [
            (self.new_install_script, Signal::FirstInstallScript),
            (self.binding_gyp_added, Signal::BindingGypAdded),
            (self.git_or_url_dep, Signal::RemoteDependencyAdded),
            (self.provenance_lost, Signal::ProvenanceLost),
            (self.publisher_changed, Signal::NewPublisher),
            (Some(newborn), Signal::NewbornDependency),
            (self.maintainer_email_changed, Signal::PublisherEmailChanged),
            (self.dormant_package, Signal::Dormant),
            (self.multi_version_burst, Signal::ReleaseBurst),
            (self.size_jump, Signal::SizeJump),
            (self.version_jump, Signal::VersionJump),
        ]
        .into_iter()
        .filter(|(seen, _)| *seen == Some(true))
        .map(|(_, signal)| signal)
    }
}
