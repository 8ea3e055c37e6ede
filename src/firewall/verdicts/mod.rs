//! Evaluates a packument against a policy snapshot: which versions are visible, where dist-tags point, and when that changes. The
//! result does not depend on the client. Pure.

pub(crate) mod cache;
pub(crate) mod resolve;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::firewall::error;
use crate::firewall::package::{LinkedFacts, PackageSnapshot};
use crate::firewall::policy_state::{PolicySnapshot, Profile};
use crate::firewall::request::BaseUrl;
use crate::npm::packument::dist_tags::{self, Retargets};
use crate::npm::{Algorithm, Digest, PackageName, Packument, PackumentForm};
use crate::policy::{Advisory, Policy, UnknownFacts, Verdict, Warning};
use crate::store::TagSighting;
use crate::text::single_line;
use crate::units::timestamp;

/// Hidden versions listed in one message. Further ones are counted.
const MAX_LISTED: usize = 8;

/// The most dist-tags with hidden targets that are moved; further ones are left out. Packages have dozens.
const MAX_MOVED_TAGS: usize = 1_000;

/// How far back a dist-tag's history is used if no minimum release age applies.
const DEFAULT_TAG_WINDOW: Duration = Duration::from_secs(72 * 3600);

/// How long a dist-tag must have pointed to a version before it may be moved back to it. An attacker who moves a tag briefly
/// cannot choose where it falls back to.
const MIN_SIGHTING: Duration = Duration::from_secs(3600);

/// The verdicts of one packument, as of the instant when upstream last confirmed it.
#[derive(Debug)]
pub(crate) struct VerdictTable {
    pub inputs: VerdictInputs,
    /// Whether each entry is visible.
    pub shown: Vec<bool>,
    /// The verdict of each hidden entry, and the warnings of each visible one, ordered by entry.
    pub verdicts: Vec<(usize, Verdict)>,
    pub notes: Vec<(usize, Vec<Warning>)>,
    /// Dist-tags as clients see them, if they differ from upstream's.
    pub tags: Option<Vec<(Box<str>, Box<str>)>>,
    /// The keys of the hidden versions.
    pub hidden: Arc<[Box<str>]>,
    /// The earliest instant at which a held version may open after a revalidation.
    pub next_opening: Option<Timestamp>,
    /// Set if a version is hidden.
    pub restrictions: Option<PolicyRestrictions>,
    /// Advisories that mark every version and are not fully applied.
    pub overbroad: Vec<OverbroadAdvisory>,
    /// The withheld versions that known requirements need, computed on first use.
    pub withheld: ArcSwapOption<WithheldVersions>,
    /// Whether a verdict depends on a fact that the document lacks, so that the full form is needed.
    pub lacks: bool,
    /// Changes whenever a response made from these verdicts changes.
    pub identity: Digest,
}

/// What a table was made from, besides the package: the policy revision, and which other packages were known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct VerdictInputs {
    pub revision: u64,
    pub has_parent: bool,
    /// The revision of what is known of new dependencies.
    pub dependencies: u64,
    /// The revision of what opening tarballs showed.
    pub vetted: u64,
    /// The generation of what is known of siblings; `None` before their look-up.
    pub cohorts: Option<u64>,
}

/// The contents of `policyRestrictions`.
#[derive(Debug)]
pub(crate) struct PolicyRestrictions {
    /// The message for users, one line per version.
    message: String,
    pub newest: Box<str>,
    /// The hidden versions as JSON.
    versions: String,
}

impl PolicyRestrictions {
    /// Returns the JSON value of `policyRestrictions` for a client that used `base`, with one link for all hidden versions.
    pub(crate) fn to_json(&self, base: &BaseUrl, name: &PackageName) -> String {
        let link = error::explain_link(base, name, Some(&self.newest)).map(|link| format!("\nwhy: {link}")).unwrap_or_default();
        let message = serde_json::Value::from(format!("{}{link}", self.message));
        format!("{{\"message\":{message},\"versions\":{}}}", self.versions)
    }
}

/// An advisory that marks every version of an established package. It is applied only to the versions it lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OverbroadAdvisory {
    pub feed: Box<str>,
    pub id: Box<str>,
}

/// A version requirement of a package or a project on another package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// The package, or the file of the project, that states it.
    pub by: Box<str>,
    /// A version, a dist-tag or a range, as written.
    pub spec: Box<str>,
    /// Whether the project itself states it.
    #[serde(default)]
    pub is_direct: bool,
}

/// The withheld versions of a package, with the requirements they were computed from.
#[derive(Debug)]
pub(crate) struct WithheldVersions {
    pub wants: Arc<[Want]>,
    /// Each hidden entry, with the requirement that no visible version satisfies.
    pub found: Box<[(usize, Want)]>,
}

impl VerdictTable {
    /// Creates the verdicts of a package without versions.
    pub(crate) fn empty(inputs: VerdictInputs) -> Self {
        Self {
            inputs,
            shown: Vec::new(),
            verdicts: Vec::new(),
            notes: Vec::new(),
            tags: None,
            hidden: Arc::default(),
            next_opening: None,
            restrictions: None,
            overbroad: Vec::new(),
            withheld: ArcSwapOption::empty(),
            lacks: false,
            identity: Digest::of(Algorithm::Sha256, b""),
        }
    }

    pub(crate) fn of(
        package: &PackageSnapshot,
        linked: LinkedFacts<'_>,
        policy_snapshot: &PolicySnapshot,
        profile: Profile,
    ) -> Self {
        let mut table = Self::empty(VerdictInputs {
            revision: policy_snapshot.revision,
            has_parent: linked.parent.is_some(),
            dependencies: linked.signals.dependencies,
            vetted: linked.signals.vetted,
            cohorts: linked.cohorts.map(|cohorts| cohorts.generation),
        });
        let Some(packument) = &package.packument else { return table };
        table.judge(package, linked, packument, policy_snapshot, profile);
        table.tags = visible_dist_tags(package, packument, &table.shown, policy_snapshot.policy(profile));
        table.restrictions = (!table.verdicts.is_empty()).then(|| table.build_restrictions(packument));
        table.identity = table.fingerprint();
        table
    }

    pub(crate) fn verdict(&self, at: usize) -> &Verdict {
        self.verdicts.binary_search_by_key(&at, |(at, _)| *at).map_or(&Verdict::Allow, |index| &self.verdicts[index].1)
    }

    pub(crate) fn notes(&self, at: usize) -> &[Warning] {
        self.notes.binary_search_by_key(&at, |(at, _)| *at).map_or(&[], |index| &self.notes[index].1)
    }

    pub(crate) fn any_visible(&self) -> bool {
        self.verdicts.len() < self.shown.len()
    }

    /// Returns the version that `tag` points to for clients.
    pub(crate) fn tag<'a>(&'a self, packument: &'a Packument, tag: &str) -> Option<&'a str> {
        let tags = self.tags.as_ref().unwrap_or(&packument.dist_tags);
        tags.iter().find(|(name, _)| **name == *tag).map(|(_, version)| &**version)
    }

    /// Returns each upstream dist-tag with its upstream and its visible target, in upstream's order.
    pub(crate) fn each_tag<'a>(&'a self, packument: &'a Packument) -> impl Iterator<Item = (&'a str, &'a str, Option<&'a str>)> {
        let moved = self.tags.as_ref().unwrap_or(&packument.dist_tags);
        let shown: HashMap<&str, &str> = moved.iter().map(|(tag, version)| (&**tag, &**version)).collect();
        packument.dist_tags.iter().map(move |(tag, target)| (&**tag, &**target, shown.get(&**tag).copied()))
    }

    /// Returns the "newest allowed" version of messages: the highest allowed at or below `version`, else the visible `latest`.
    pub(crate) fn nearest_allowed<'a>(&self, packument: &'a Packument, version: &str) -> Option<&'a str> {
        dist_tags::retarget(packument, &self.shown, "latest", version, &[])
    }

    fn judge(
        &mut self,
        package: &PackageSnapshot,
        linked: LinkedFacts<'_>,
        packument: &Packument,
        policy_snapshot: &PolicySnapshot,
        profile: Profile,
    ) {
        self.shown.reserve(packument.entries.len());
        let advisories = policy_snapshot.advisories.of(packument.name.as_str()).applicable_to(package.dated(packument));
        let overbroad = advisories.overbroad();
        self.overbroad =
            overbroad.map(|Advisory { feed, id, .. }| OverbroadAdvisory { feed: feed.into(), id: id.into() }).collect();
        let every = (0..packument.entries.len()).map(|at| package.facts_with(linked, packument, at, &advisories));
        let policy = policy_snapshot.policy(profile);
        let rules = policy.for_package(&packument.name).prefiltered(every);
        let takes_notes = rules.may_warn() || policy_snapshot.active_decisions.may_waive(&packument.name);
        let may_lack = package.form == PackumentForm::Abbreviated && rules.hangs_on(UnknownFacts::ALL);
        for at in 0..packument.entries.len() {
            let facts = package.facts_with(linked, packument, at, &advisories);
            self.lacks |= may_lack && !self.lacks && rules.is_undecided(&facts, package.confirmed.validated);
            let mut notes = Vec::new();
            let mut verdict = if takes_notes {
                policy_snapshot.evaluate(&rules, &facts, package.confirmed.validated, &mut notes)
            } else {
                policy_snapshot.evaluate(&rules, &facts, package.confirmed.validated, &mut ())
            };
            if let (Some(behind), Verdict::Hold { reason, .. }) = (package.confirmed.behind, &mut verdict) {
                let hours = behind.as_hours();
                let _ = write!(reason.detail, "; no version opens while the registry's clock is {hours} h behind");
            }
            self.shown.push(verdict.is_allowed());
            self.next_opening = self.next_opening.into_iter().chain(verdict.opens_at()).min();
            if !verdict.is_allowed() {
                self.verdicts.push((at, verdict));
            } else if !notes.is_empty() {
                self.notes.push((at, notes));
            }
        }
        self.hidden = self.verdicts.iter().map(|(at, _)| packument.entries[*at].key.clone()).collect();
    }

    /// Builds the list of hidden versions, each exactly `{name, version}`, and one message for all of them.
    fn build_restrictions(&self, packument: &Packument) -> PolicyRestrictions {
        let quote = |text: &str| serde_json::Value::from(text).to_string();
        let name = quote(packument.name.as_str());
        let version = |key: String| format!("{key}:{{\"name\":{name},\"version\":{key}}}");
        let versions: Vec<_> = self.hidden.iter().map(|key| version(quote(key))).collect();
        let newest = self.newest_first(packument).next().map(|(at, _)| packument.entries[at].key.clone());
        PolicyRestrictions {
            message: self.message(packument),
            newest: newest.unwrap_or_default(),
            versions: format!("{{{}}}", versions.join(",")),
        }
    }

    /// Returns the message for users, the newest hidden version first.
    fn message(&self, packument: &Packument) -> String {
        let versions = if self.verdicts.len() == 1 { "version" } else { "versions" };
        let mut message = format!("coldframe holds back {} {versions} of {}:", self.verdicts.len(), packument.name);
        for (at, verdict) in self.newest_first(packument).take(MAX_LISTED) {
            let entry = &packument.entries[at];
            let detail = verdict.reason().map(|reason| format!("{} (rule {})", reason.detail, reason.rule)).unwrap_or_default();
            let _ = write!(message, "\n{}@{}: {}", packument.name, single_line(&entry.key), single_line(&detail));
            if let Some(opens) = verdict.opens_at() {
                let _ = write!(message, ", opens {}", timestamp::format_utc_ceil(opens));
            }
            if let Some(nearest) = self.nearest_allowed(packument, &entry.key) {
                let _ = write!(message, ", newest allowed: {}", single_line(nearest));
            }
        }
        if self.verdicts.len() > MAX_LISTED {
            let _ = write!(message, "\nand {} more", self.verdicts.len() - MAX_LISTED);
        }
        message.lines().map(error::one_line).collect::<Vec<_>>().join("\n")
    }

    /// Returns the hidden entries with their verdicts, the highest version first.
    pub(crate) fn newest_first<'a>(&'a self, packument: &'a Packument) -> impl Iterator<Item = (usize, &'a Verdict)> {
        let mut hidden: Vec<_> = self.verdicts.iter().map(|(at, verdict)| (*at, verdict)).collect();
        hidden.sort_by(|a, b| packument.entries[b.0].version.cmp(&packument.entries[a.0].version));
        hidden.into_iter()
    }

    fn fingerprint(&self) -> Digest {
        let mut bytes: Vec<u8> = self.shown.iter().map(|shown| u8::from(*shown)).collect();
        for (tag, version) in self.tags.iter().flatten() {
            bytes.extend_from_slice(format!("\0{tag}\0{version}").as_bytes());
        }
        if let Some(restrictions) = &self.restrictions {
            bytes.extend_from_slice(restrictions.message.as_bytes());
            bytes.extend_from_slice(restrictions.versions.as_bytes());
        }
        Digest::of(Algorithm::Sha256, &bytes)
    }
}

/// Returns the dist-tags with hidden targets moved or removed; `None` if all upstream targets are visible.
fn visible_dist_tags(
    package: &PackageSnapshot,
    packument: &Packument,
    shown: &[bool],
    policy: &Policy,
) -> Option<Vec<(Box<str>, Box<str>)>> {
    let visible = |version: &str| packument.find(version).is_some_and(|(at, _)| shown[at]);
    if packument.dist_tags.iter().all(|(_, version)| visible(version)) {
        return None;
    }
    let age = policy.minimum_release_age(&packument.name);
    let window = if age.is_zero() { DEFAULT_TAG_WINDOW } else { age };
    let mut tags = Vec::with_capacity(packument.dist_tags.len());
    let mut moved = 0;
    let (retargets, sightings) = (Retargets::new(packument, shown), sightings_by_tag(package));
    for (tag, target) in &packument.dist_tags {
        if visible(target) {
            tags.push((tag.clone(), target.clone()));
            continue;
        }
        moved += 1;
        if moved > MAX_MOVED_TAGS && **tag != *"latest" {
            continue;
        }
        // Older sightings are ignored: the tag may have moved many times since.
        let since = packument.find(target).map_or(package.confirmed.validated, |(at, _)| package.provenance[at].effective);
        let seen = sightings.get(&**tag).map(Vec::as_slice).unwrap_or_default();
        let previous = previous_targets(seen, target, timestamp::saturating_sub(since, window));
        if let Some(version) = retargets.find(tag, target, &previous) {
            tags.push((tag.clone(), version.into()));
        }
    }
    Some(tags)
}

/// Returns the sightings of each dist-tag, ordered by `first_seen`.
fn sightings_by_tag(package: &PackageSnapshot) -> HashMap<&str, Vec<&TagSighting>> {
    let mut sightings: HashMap<&str, Vec<&TagSighting>> = HashMap::new();
    for sighting in &package.record.tags {
        sightings.entry(&sighting.tag).or_default().push(sighting);
    }
    for seen in sightings.values_mut() {
        seen.sort_by_key(|sighting| sighting.first_seen);
    }
    sightings
}

/// Returns the targets of a dist-tag before `target` and not before `since`, newest first. `sightings` are by `first_seen`.
fn previous_targets<'a>(sightings: &[&'a TagSighting], target: &str, since: Timestamp) -> Vec<&'a str> {
    let lasted = |at: usize| {
        let next = sightings.get(at + 1).map(|next| next.first_seen);
        next.is_none_or(|next| timestamp::saturating_add(sightings[at].first_seen, MIN_SIGHTING) <= next)
    };
    let counts = |(at, seen): &(usize, &&TagSighting)| *seen.version != *target && seen.last_seen >= since && lasted(*at);
    let mut previous: Vec<_> = sightings.iter().enumerate().filter(counts).map(|(_, seen)| *seen).collect();
    previous.sort_by_key(|sighting| std::cmp::Reverse(sighting.last_seen));
    previous.into_iter().map(|sighting| &*sighting.version).collect()
}
