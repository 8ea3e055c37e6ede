//! The verdicts of one packument in one world: what is shown, where dist-tags point then, when that changes. Pure; refuses
//! to know who asks.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use jiff::Timestamp;

use crate::firewall::error;
use crate::firewall::package::PackageSnapshot;
use crate::firewall::packages::subpackages::ParentFirstSeen;
use crate::firewall::policy_state::{PolicySnapshot, Profile};
use crate::firewall::request::BaseUrl;
use crate::firewall::wanted_versions::WithheldVersions;
use crate::npm::packument::dist_tags;
use crate::npm::packument::dist_tags::Retargets;
use crate::npm::{Algorithm, Digest, PackageName, Packument, PackumentForm};
use crate::policy::{Advisory, Policy, UnknownFacts, Verdict, Warning, judge, waiver};
use crate::store::TagSighting;
use crate::text::single_line;
use crate::units::timestamp;

/// Hidden versions named in one text: beyond that they are counted.
const NAMED: usize = 8;

/// Dist-tags with hidden targets that are moved; the rest goes. Packages have dozens.
const MOVED: usize = 1_000;

/// How far back a dist-tag's history may be trusted where no minimum release age says so.
const WINDOW: std::time::Duration = std::time::Duration::from_secs(72 * 3600);

/// How long a dist-tag must have been seen to point to a version before it goes back there: who moves a tag for a moment does not
/// choose where it goes back to.
const SHORTEST_SIGHTING: std::time::Duration = std::time::Duration::from_secs(3600);

/// The verdicts of one packument, as of the instant upstream last confirmed it.
#[derive(Debug)]
pub(crate) struct VerdictTable {
    /// The revision of the world it was judged in.
    pub world: u64,
    /// Whether it was known whose parts the versions are.
    pub has_kin: bool,
    /// For each entry, whether it is shown.
    pub shown: Vec<bool>,
    /// The verdict of each entry that is not, in the order of the entries.
    pub verdicts: Vec<(usize, Verdict)>,
    /// What rules say of entries without refusing them, in the order of the entries; not of those that are refused.
    pub notes: Vec<(usize, Vec<Warning>)>,
    /// Dist-tags as clients see them, if they are not upstream's.
    pub tags: Option<Vec<(Box<str>, Box<str>)>>,
    /// The keys of what is hidden.
    pub hidden: Arc<[Box<str>]>,
    /// The earliest instant at which a held version may open, if upstream is asked again then.
    pub next_opening: Option<Timestamp>,
    /// What `policyRestrictions` say, when something is hidden.
    pub restrictions: Option<PolicyRestrictions>,
    /// Advisories whose claim on every version is not obeyed.
    pub overbroad: Vec<OverbroadAdvisory>,
    /// What of the known wants is withheld, found when first asked for.
    pub withheld: ArcSwapOption<WithheldVersions>,
    /// Whether a verdict hangs on a fact that the document does not carry: the full form is needed then.
    pub lacks: bool,
    /// Differs when anything that an answer shows differs.
    pub identity: Digest,
}

/// What `policyRestrictions` say.
#[derive(Debug)]
pub(crate) struct PolicyRestrictions {
    /// For people, in lines.
    message: String,
    /// The newest version that is hidden.
    pub newest: Box<str>,
    /// The hidden versions, JSON.
    versions: String,
}

impl PolicyRestrictions {
    /// The value of `policyRestrictions`, JSON, for whoever came by way of `base`: one address for all that is hidden.
    #[must_use]
    pub(crate) fn told(&self, base: &BaseUrl, name: &PackageName) -> String {
        let link = error::link(base, name, Some(&self.newest)).map(|link| format!("\nwhy: {link}")).unwrap_or_default();
        let message = serde_json::Value::from(format!("{}{link}", self.message));
        format!("{{\"message\":{message},\"versions\":{}}}", self.versions)
    }
}

/// An advisory that marks every version of an established package: obeyed for those it lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OverbroadAdvisory {
    /// The feed it stands in.
    pub feed: Box<str>,
    /// Its id.
    pub id: Box<str>,
}

impl OverbroadAdvisory {
    fn of(advisory: Advisory<'_>) -> Self {
        Self { feed: advisory.feed.into(), id: advisory.id.into() }
    }
}

impl VerdictTable {
    /// The verdicts of a package without versions, in the world of this revision.
    #[must_use]
    pub(crate) fn empty(world: u64, has_kin: bool) -> Self {
        Self {
            world,
            has_kin,
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

    /// Judges every entry.
    #[must_use]
    pub(crate) fn of(known: &PackageSnapshot, kin: Option<&ParentFirstSeen>, world: &PolicySnapshot, profile: Profile) -> Self {
        let mut screen = Self::empty(world.revision, kin.is_some());
        let Some(packument) = &known.packument else { return screen };
        screen.judge(known, kin, packument, world, profile);
        screen.tags = retag(known, packument, &screen.shown, world.policy(profile));
        screen.restrictions = (!screen.verdicts.is_empty()).then(|| screen.restrict(packument));
        screen.identity = screen.identify();
        screen
    }

    /// The verdict of the entry at `at`.
    #[must_use]
    pub(crate) fn verdict(&self, at: usize) -> &Verdict {
        match self.verdicts.binary_search_by_key(&at, |(at, _)| *at) {
            Ok(place) => &self.verdicts[place].1,
            Err(_) => &Verdict::Allow,
        }
    }

    /// What rules say of the entry at `at` though it is served.
    #[must_use]
    pub(crate) fn notes(&self, at: usize) -> &[Warning] {
        match self.notes.binary_search_by_key(&at, |(at, _)| *at) {
            Ok(place) => &self.notes[place].1,
            Err(_) => &[],
        }
    }

    /// Whether any version is shown.
    #[must_use]
    pub(crate) fn shows_any(&self) -> bool {
        self.verdicts.len() < self.shown.len()
    }

    /// Where `tag` points for clients.
    #[must_use]
    pub(crate) fn tag<'a>(&'a self, packument: &'a Packument, tag: &str) -> Option<&'a str> {
        let tags = self.tags.as_ref().unwrap_or(&packument.dist_tags);
        tags.iter().find(|(name, _)| **name == *tag).map(|(_, version)| &**version)
    }

    /// Where each dist-tag of upstream points for clients, in upstream's order.
    pub(crate) fn each_tag<'a>(&'a self, packument: &'a Packument) -> impl Iterator<Item = (&'a str, &'a str, Option<&'a str>)> {
        let moved = self.tags.as_ref().unwrap_or(&packument.dist_tags);
        let shown: HashMap<&str, &str> = moved.iter().map(|(tag, version)| (&**tag, &**version)).collect();
        packument.dist_tags.iter().map(move |(tag, target)| (&**tag, &**target, shown.get(&**tag).copied()))
    }

    /// Returns what every text calls "newest allowed": the highest version that is allowed at or below `version`, else what `latest`
    /// would be.
    #[must_use]
    pub(crate) fn nearest<'a>(&self, packument: &'a Packument, version: &str) -> Option<&'a str> {
        dist_tags::retarget(packument, &self.shown, "latest", version, &[])
    }

    fn judge(
        &mut self,
        known: &PackageSnapshot,
        kin: Option<&ParentFirstSeen>,
        packument: &Packument,
        world: &PolicySnapshot,
        profile: Profile,
    ) {
        self.shown.reserve(packument.entries.len());
        let advisories = world.advisories.of(packument.name.as_str()).among(known.dated(packument));
        self.overbroad = advisories.overbroad().map(OverbroadAdvisory::of).collect();
        let every = (0..packument.entries.len()).map(|at| known.facts_with(kin, packument, at, &advisories));
        let policy = world.policy(profile);
        let rules = policy.about(&packument.name).narrowed(every);
        let (takes_notes, waives) = (rules.takes_notes(), world.standing.waives_anything(&packument.name));
        let may_lack = known.form == PackumentForm::Abbreviated && rules.hangs_on(UnknownFacts::ALL);
        for at in 0..packument.entries.len() {
            let facts = known.facts_with(kin, packument, at, &advisories);
            self.lacks |= may_lack && !self.lacks && rules.is_undecided(&facts, known.validated);
            let mut verdict = judge(&rules, &world.standing, &facts, known.validated);
            if let (Some(behind), Verdict::Hold { reason, .. }) = (known.behind, &mut verdict) {
                let hours = behind.as_hours();
                let _ = write!(reason.detail, "; nothing opens while the registry's clock is {hours} h behind ours");
            }
            self.shown.push(verdict.allows());
            if let Some(opens) = verdict.opens() {
                self.next_opening = Some(self.next_opening.map_or(opens, |earliest| earliest.min(opens)));
            }
            if !verdict.allows() {
                self.verdicts.push((at, verdict));
            } else if takes_notes || waives {
                let mut notes = rules.notes(&facts, known.validated);
                // First, for the ledger has room for one.
                notes.splice(0..0, waiver(&rules, &world.standing, &facts, known.validated));
                self.notes.extend((!notes.is_empty()).then_some((at, notes)));
            }
        }
        self.hidden = self.verdicts.iter().map(|(at, _)| packument.entries[*at].key.clone()).collect();
    }

    /// The hidden versions, each exactly `{name, version}`, and one message for them all.
    fn restrict(&self, packument: &Packument) -> PolicyRestrictions {
        let quote = |text: &str| serde_json::Value::from(text).to_string();
        let name = quote(packument.name.as_str());
        let versions: Vec<_> = self
            .hidden
            .iter()
            .map(|key| {
                let key = quote(key);
                format!("{key}:{{\"name\":{name},\"version\":{key}}}")
            })
            .collect();
        let newest = self.newest_first(packument).next().map(|(at, _)| packument.entries[at].key.clone());
        PolicyRestrictions {
            message: self.message(packument),
            newest: newest.unwrap_or_default(),
            versions: format!("{{{}}}", versions.join(",")),
        }
    }

    /// What a person reads of what is hidden, newest first.
    fn message(&self, packument: &Packument) -> String {
        let versions = if self.verdicts.len() == 1 { "version" } else { "versions" };
        let mut message = format!("coldframe holds back {} {versions} of {}:", self.verdicts.len(), packument.name);
        for (at, verdict) in self.newest_first(packument).take(NAMED) {
            let entry = &packument.entries[at];
            let detail = verdict.reason().map(|reason| format!("{} (rule {})", reason.detail, reason.rule)).unwrap_or_default();
            let _ = write!(message, "\n{}@{}: {}", packument.name, single_line(&entry.key), single_line(&detail));
            if let Some(opens) = verdict.opens() {
                let _ = write!(message, ", opens {}", timestamp::tell_opening(opens));
            }
            if let Some(nearest) = self.nearest(packument, &entry.key) {
                let _ = write!(message, ", newest allowed: {}", single_line(nearest));
            }
        }
        if self.verdicts.len() > NAMED {
            let _ = write!(message, "\nand {} more", self.verdicts.len() - NAMED);
        }
        message.lines().map(error::one_line).collect::<Vec<_>>().join("\n")
    }

    /// The hidden entries and why, the highest version first.
    pub(crate) fn newest_first<'a>(&'a self, packument: &'a Packument) -> impl Iterator<Item = (usize, &'a Verdict)> {
        let mut hidden: Vec<_> = self.verdicts.iter().map(|(at, verdict)| (*at, verdict)).collect();
        hidden.sort_by(|one, other| packument.entries[other.0].version.cmp(&packument.entries[one.0].version));
        hidden.into_iter()
    }

    fn identify(&self) -> Digest {
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

/// Dist-tags whose targets are all shown; `None` when upstream's already are.
fn retag(known: &PackageSnapshot, packument: &Packument, shown: &[bool], policy: &Policy) -> Option<Vec<(Box<str>, Box<str>)>> {
    let visible = |version: &str| packument.find(version).is_some_and(|(at, _)| shown[at]);
    if packument.dist_tags.iter().all(|(_, version)| visible(version)) {
        return None;
    }
    let age = policy.minimum_release_age(&packument.name);
    let window = if age.is_zero() { WINDOW } else { age };
    let mut tags = Vec::with_capacity(packument.dist_tags.len());
    let mut moved = 0;
    let (retargets, sightings) = (Retargets::new(packument, shown), sightings_by_tag(known));
    for (tag, target) in &packument.dist_tags {
        if visible(target) {
            tags.push((tag.clone(), target.clone()));
            continue;
        }
        moved += 1;
        if moved > MOVED && **tag != *"latest" {
            continue;
        }
        // What was seen longer ago than the hold lasts may have been passed over many times since.
        let since = packument.find(target).map_or(known.validated, |(at, _)| known.provenance[at].effective);
        let seen = sightings.get(&**tag).map(Vec::as_slice).unwrap_or_default();
        let previous = previous_targets(seen, target, timestamp::before(since, window));
        if let Some(version) = retargets.find(tag, target, &previous) {
            tags.push((tag.clone(), version.into()));
        }
    }
    Some(tags)
}

/// Where each dist-tag was seen to point.
fn sightings_by_tag(known: &PackageSnapshot) -> HashMap<&str, Vec<&TagSighting>> {
    let mut sightings: HashMap<&str, Vec<&TagSighting>> = HashMap::new();
    for sighting in &known.record.tags {
        sightings.entry(&sighting.tag).or_default().push(sighting);
    }
    for seen in sightings.values_mut() {
        seen.sort_by_key(|sighting| sighting.first_seen);
    }
    sightings
}

/// Where a dist-tag was seen to point before `target`, newest first, not longer ago than `since`; `sightings` are in the order of
/// `first_seen`.
fn previous_targets<'a>(sightings: &[&'a TagSighting], target: &str, since: Timestamp) -> Vec<&'a str> {
    let lasted = |at: usize| {
        let next = sightings.get(at + 1).map(|next| next.first_seen);
        next.is_none_or(|next| timestamp::after(sightings[at].first_seen, SHORTEST_SIGHTING) <= next)
    };
    let counts = |(at, seen): &(usize, &&TagSighting)| *seen.version != *target && seen.last_seen >= since && lasted(*at);
    let mut previous: Vec<_> = sightings.iter().enumerate().filter(counts).map(|(_, seen)| *seen).collect();
    previous.sort_by_key(|sighting| std::cmp::Reverse(sighting.last_seen));
    previous.into_iter().map(|sighting| &*sighting.version).collect()
}
