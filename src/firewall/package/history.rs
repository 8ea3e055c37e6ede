//! Compares a packument with the recorded history of its package: when a release counts from, whether its bytes changed, which
//! versions were removed, and where views of the package contradict each other. Pure.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::npm::packument::index::VersionEntry;
use crate::npm::{DigestComparison, Integrity, ManifestDigest, Packument, PackumentForm};
use crate::store::{LearnedDigests, PackageChange, PackageRecord, Release, ReleaseState, StoredPackument, TagSighting};
use crate::units::timestamp;
use crate::upstream::TimeMode;

/// How long a whole package may be missing (404) before its versions count as returned. Shorter gaps are registry outages.
const MAX_OUTAGE: Duration = Duration::from_secs(24 * 3600);

/// How long a version may be missing for one client's token before it counts as removed for other tokens.
const OTHER_TOKEN_GRACE: Duration = Duration::from_secs(24 * 3600);

/// The most (version, integrity) pairs recorded per package. Rows are never evicted, so new versions beyond the limit are
/// refused. No package has half as many; a row takes about 300 bytes of memory.
pub const MAX_RELEASES: usize = 100_000;

/// The most dist-tag sightings per package. Beyond it the oldest are dropped; a hidden tag then moves by version precedence.
pub const MAX_SIGHTINGS: usize = 60_000;

/// The longest dist-tag name and target version that are recorded, in bytes.
const MAX_TAG_LENGTH: usize = 256;

/// The version of a sighting in which the tag was missing.
pub const NOWHERE: &str = "";

/// The recorded history of one packument entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseHistory {
    /// The effective publish time, from which the age counts.
    pub effective: Timestamp,
    /// The effective publish time without later manifest changes, which do not make the package new.
    pub began: Timestamp,
    /// Whether this version was first seen with a different integrity.
    pub integrity_changed: bool,
    /// Every digest that its bytes must match: stated now, stated before, or computed from the bytes.
    pub digests: Option<Integrity>,
    /// Whether the record is full, so that the history of this version is unknown.
    pub unrecorded: bool,
}

#[derive(Debug, Default)]
pub struct Reconciliation {
    /// The history of each entry of the packument.
    pub provenance: Vec<ReleaseHistory>,
    pub change: PackageChange,
    /// Events to report to the operator.
    pub findings: Vec<HistoryEvent>,
    /// Versions that contradict another view of the package, with the index of the view to fetch again.
    pub contradictions: Vec<(Box<str>, usize)>,
}

/// An unexpected change of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HistoryEvent {
    /// A version has a different integrity than first seen.
    IntegrityChanged {
        version: Box<str>,
        was: String,
        now: String,
    },
    Gone(Box<Release>),
    /// Two views contradict each other over a version after both were fetched again. Each keeps its own history of the version.
    Parted(Box<str>),
}

/// One observation of a package (a look), and the settings that decide how it counts.
#[derive(Debug, Clone, Copy)]
pub struct Look<'a> {
    pub packument: &'a Packument,
    pub form: PackumentForm,
    /// When it was requested, by the system clock.
    pub at: Timestamp,
    pub mode: TimeMode,
    /// The longest age that any rule uses.
    pub longest_age: Duration,
    /// Versions, with their integrity, over which other views still disagree after they were fetched again.
    pub diverged: &'a Parted,
    /// In the view of clients' own tokens, set if the previous document was shown to a different token.
    pub other_token: Option<OtherToken<'a>>,
    /// The index of the view of clients' own tokens among the other views; `None` if this is that view.
    pub tokens: Option<usize>,
    /// Whether it was requested with the probe token, which was never issued. What it is shown, every token is shown.
    pub stranger: bool,
}

/// The previous document was shown to a different client's token.
#[derive(Debug, Clone, Copy)]
pub struct OtherToken<'a> {
    /// The packument that the current token was shown last, if cached.
    pub shown: Option<&'a Packument>,
}

/// Versions over which views of a package disagree, with the integrity that was seen.
pub type Parted = HashMap<Box<str>, Option<Integrity>>;

struct View<'a> {
    last_look: Option<Timestamp>,
    releases: HashMap<&'a str, Vec<&'a Release>>,
}

/// An observation of some view in which a version was missing.
#[derive(Debug, Clone, Copy)]
struct Absence {
    look: Timestamp,
    /// The index of the view among the others; their number for this view.
    place: usize,
    /// Whether a document lacked the version, as opposed to a missing package.
    dropped: bool,
}

impl<'a> View<'a> {
    fn new(record: &'a PackageRecord) -> Self {
        Self { last_look: record.document.as_ref().map(|document| document.looked), releases: by_version(record) }
    }

    fn rows(&self, version: &str) -> &[&'a Release] {
        self.releases.get(version).map(Vec::as_slice).unwrap_or_default()
    }
}

pub(crate) fn by_version(record: &PackageRecord) -> HashMap<&str, Vec<&Release>> {
    let mut rows: HashMap<&str, Vec<&Release>> = HashMap::with_capacity(record.releases.len());
    for release in &record.releases {
        rows.entry(&release.version).or_default().push(release);
    }
    rows
}

/// Compares an observation with the `record` of its view and the records of the `others`.
pub fn reconcile(record: &PackageRecord, others: &[PackageRecord], look: &Look<'_>) -> Reconciliation {
    let mut known = by_version(record);
    let others: Vec<_> = others.iter().map(View::new).collect();
    let last = record.document.as_ref();
    let mut reconciled = Reconciliation::default();
    reconciled.provenance.reserve(look.packument.entries.len());
    let mut recorded = record.releases.len();
    for entry in &look.packument.entries {
        let rows = known.remove(&*entry.key).unwrap_or_default();
        let tracing = Tracing {
            entry,
            rows: &rows,
            last_look: last.map(|last| last.looked.min(look.at)),
            had_versions: !record.releases.is_empty(),
            others: &others,
            look,
        };
        let provenance = tracing.reconcile_version(&mut recorded, &mut reconciled);
        reconciled.provenance.push(provenance);
    }
    let replaced = look.packument.is_security_placeholder();
    mark_gone(known.into_values().flatten(), last, Gone { at: look.at, replaced, dropped: true }, &mut reconciled);
    follow_tags(record, look, &mut reconciled.change);
    reconciled
}

/// Marks every release as removed and every dist-tag as missing, because upstream has no such package at `now`.
pub fn mark_all_removed(record: &PackageRecord, now: Timestamp) -> Reconciliation {
    let mut reconciled = Reconciliation::default();
    move_tags(record, &HashMap::new(), now, &mut reconciled.change);
    let gone = Gone { at: now, replaced: false, dropped: false };
    mark_gone(record.releases.iter(), record.document.as_ref(), gone, &mut reconciled);
    reconciled
}

/// Returns the manifest digest of an entry: what clients resolve by and run, as far as this form states it.
fn manifest_of(entry: &VersionEntry, form: PackumentForm) -> ManifestDigest {
    let manifest = ManifestDigest::new(entry.resolution, form, entry.traits.install_script.into());
    let carries_scripts = form == PackumentForm::Full || entry.outline.has_scripts;
    if carries_scripts { manifest.with_install_scripts(entry.install_scripts) } else { manifest }
}

/// Returns the release that a version was first seen as. Rows without an integrity were never served and do not count.
pub(crate) fn first_known_release<'a>(rows: &[&'a Release]) -> Option<&'a Release> {
    rows.iter().copied().filter(|row| row.integrity.is_some()).min_by_key(|row| row.first_seen)
}

/// One entry of the packument, with the history of its version.
struct Tracing<'a> {
    entry: &'a VersionEntry,
    rows: &'a [&'a Release],
    last_look: Option<Timestamp>,
    /// Whether this view ever had a version of the package.
    had_versions: bool,
    others: &'a [View<'a>],
    look: &'a Look<'a>,
}

impl<'a> Tracing<'a> {
    fn reconcile_version(&self, recorded: &mut usize, into: &mut Reconciliation) -> ReleaseHistory {
        let (entry, at) = (self.entry, self.look.at);
        let unknown = |unrecorded| ReleaseHistory {
            effective: at,
            began: at,
            integrity_changed: false,
            digests: entry.integrity.clone(),
            unrecorded,
        };
        // An invalid version is hidden as inconsistent. It is not recorded, because its length is unbounded.
        if entry.version.is_none() {
            return unknown(false);
        }
        let first = first_known_release(self.rows);
        let same = find_same(self.rows, first, entry.integrity.as_ref());
        if same.is_none() && *recorded >= MAX_RELEASES {
            return unknown(true);
        }
        let before = same.or_else(|| self.rows.iter().copied().min_by_key(|row| row.first_seen));
        let mut release = match before {
            Some(before) => self.seen_again(before, into),
            None => self.first_sight(into),
        };
        let changed = first.is_some_and(|first| !may_be_same(first, entry.integrity.as_ref()));
        // For a new integrity, the manifest last seen under this version.
        let last = || self.rows.iter().copied().filter(|row| row.state.manifest.is_some()).max_by_key(|row| row.first_seen);
        let others: Vec<_> = self.elsewhere().filter(|_| !release.state.diverged).collect();
        let manifest = manifest_of(entry, self.look.form);
        let (manifest, manifest_changed) = follow_manifest(manifest, same.or_else(last), &others, at);
        (release.state.manifest, release.state.manifest_changed) = (Some(manifest), manifest_changed);
        let mut digests = match (same.and_then(Release::known_digests), &entry.integrity) {
            (Some(known), Some(stated)) => known.union(stated).or_else(|| Some(stated.clone())),
            (known, stated) => stated.clone().or(known),
        };
        if let Some(row) = same {
            if let Some(stated) = &entry.integrity
                && !row.known_digests().is_some_and(|known| stated.is_covered_by(&known))
            {
                let (version, integrity) = (row.version.clone(), row.integrity.clone());
                into.change.digests.push(LearnedDigests { version, integrity, digests: stated.clone() });
            }
        } else {
            release = Release { integrity: entry.integrity.clone(), digests: None, first_seen: at, ..release };
            *recorded += 1;
            if let Some(first) = first.filter(|_| changed) {
                into.findings.push(HistoryEvent::IntegrityChanged {
                    version: entry.key.clone(),
                    was: first.known_digests().as_ref().map(Integrity::to_sri).unwrap_or_default(),
                    now: entry.integrity.as_ref().map_or_else(|| "none".to_owned(), Integrity::to_sri),
                });
            }
        }
        let changed = self.conflicts(&mut release, &mut digests, into) || changed;
        let began = self.effective(&release);
        let effective = manifest_changed.map_or(began, |since| began.max(since));
        if same != Some(&release) {
            into.change.releases.push(release);
        }
        ReleaseHistory { effective, began, integrity_changed: changed, digests, unrecorded: false }
    }

    /// Returns the effective publish time by the time mode of this upstream.
    fn effective(&self, release: &Release) -> Timestamp {
        match self.look.mode {
            TimeMode::Checked => release.counts_from(),
            TimeMode::FirstSeen => {
                let first_seen = self.elsewhere().map(|row| row.first_seen).fold(release.first_seen, Timestamp::min);
                release.state.moved.max(release.state.held_since).map_or(first_seen, |since| since.max(first_seen))
            }
            TimeMode::Trust => self.entry.published.unwrap_or(release.first_seen),
        }
    }

    fn seen_again(&self, before: &Release, into: &mut Reconciliation) -> Release {
        let mut release = before.clone();
        if let Some(last_seen) = before.state.gone {
            if !self.keeps_its_age(before, last_seen, into) {
                release.state.moved = Some(before.counts_from().max(self.look.at));
            }
            (release.state.gone, release.state.dropped, release.state.replaced) = (None, false, false);
        } else if !before.state.diverged {
            self.follow_absences(&mut release, into);
        }
        if let Some(published) = self.entry.published
            && before.published.is_none()
            && before.absent.is_none()
            && release.state.moved.is_none()
        {
            // Present at the first observation, so it counts by upstream's time, stated only now and not after the first
            // sighting.
            release.state.moved = Some(published.min(before.first_seen));
        }
        if release.state.held_since.is_some() {
            self.review_hold(&mut release, into);
        }
        release
    }

    /// Checks whether a version that was removed after `last_seen` and returned keeps its age.
    fn keeps_its_age(&self, release: &Release, last_seen: Timestamp, into: &mut Reconciliation) -> bool {
        let Look { at, longest_age, other_token, stranger, .. } = *self.look;
        let was_old = timestamp::saturating_add(release.counts_from(), longest_age) <= last_seen;
        let outage = !release.state.dropped && at < timestamp::saturating_add(last_seen, MAX_OUTAGE);
        if release.state.replaced || was_old || outage {
            return !release.state.replaced;
        }
        // Hidden from another token within a day: missing for that token only, unless the current token had lost it too.
        let had_it = other_token.is_some_and(|other| other.shown.is_none_or(|shown| shown.find(&self.entry.key).is_some()));
        if !had_it || stranger {
            return false;
        }
        let is_within = |since: Timestamp| at < timestamp::saturating_add(since, OTHER_TOKEN_GRACE);
        if is_within(release.state.missing_since.unwrap_or(last_seen)) {
            return true;
        }
        // Several tokens were not shown it for longer. A fetch with the probe token tells whether every token sees it now.
        let is_recent = self.last_look.is_some_and(is_within);
        if is_recent && !self.is_parted() {
            into.contradictions.push((self.entry.key.clone(), self.others.len()));
        }
        is_recent
    }

    /// Checks whether a version that this view always had was missing in other views in the meantime, so that it counts as
    /// returned. A takedown seen by one view counts for all views that do not contradict it.
    fn follow_absences(&self, release: &mut Release, into: &mut Reconciliation) {
        let Some(own_look) = self.last_look else { return };
        let Look { at, longest_age, .. } = *self.look;
        let opened = |release: &Release| timestamp::saturating_add(release.counts_from(), longest_age);
        if opened(release) <= own_look {
            return;
        }
        // Another view saw it return, and this view made no observation while it was missing. That counts even if it left again.
        let returns = self.elsewhere().filter(|row| row.state.missing_since.is_some_and(|since| own_look < since));
        if let Some(moved) = returns.filter_map(|row| row.state.moved).max().filter(|moved| *moved > release.counts_from()) {
            release.state.moved = Some(moved);
        }
        let present = self.last_present().max(Some(own_look)).unwrap_or(own_look);
        let absences = self.absences_after(present);
        if absences.is_empty() || opened(release) <= present || self.is_outage(&absences, present) {
            return;
        }
        if self.is_parted() {
            (release.state.held_since, release.state.diverged) = (None, true);
            into.findings.push(HistoryEvent::Parted(release.version.clone()));
            return;
        }
        for absence in absences {
            into.contradictions.push((self.entry.key.clone(), absence.place));
            if !self.is_of_one_token(absence) {
                release.state.held_since = release.state.held_since.or(Some(at));
            }
        }
    }

    /// Returns when another view last had the version.
    fn last_present(&self) -> Option<Timestamp> {
        let present = |other: &View<'a>| {
            let row = self.same_in(other)?;
            row.state.gone.or(other.last_look).map(|look| look.min(self.look.at))
        };
        self.others.iter().filter_map(present).max()
    }

    /// Returns the last observation of each other view after `present` in which the version was missing.
    fn absences_after(&self, present: Timestamp) -> Vec<Absence> {
        let absence = |(place, other): (usize, &View<'a>)| {
            let look = other.last_look.map(|look| look.min(self.look.at)).filter(|look| *look > present)?;
            let dropped = match self.same_in(other) {
                Some(row) => row.state.gone.map(|_| row.state.dropped)?,
                None => other.rows(&self.entry.key).is_empty().then_some(!other.releases.is_empty())?,
            };
            Some(Absence { look, place, dropped })
        };
        self.others.iter().enumerate().filter_map(absence).collect()
    }

    /// Checks whether the absences are only a short outage, in which the whole package was missing.
    fn is_outage(&self, absences: &[Absence], present: Timestamp) -> bool {
        absences.iter().all(|absence| !absence.dropped) && self.look.at < timestamp::saturating_add(present, MAX_OUTAGE)
    }

    /// Checks whether a version may have been missing for a single client's token. If the probe token sees it, it was not.
    fn is_of_one_token(&self, absence: Absence) -> bool {
        let is_tokens = self.look.tokens.unwrap_or(self.others.len()) == absence.place;
        is_tokens && !self.look.stranger && self.look.at < timestamp::saturating_add(absence.look, OTHER_TOKEN_GRACE)
    }

    fn first_sight(&self, into: &mut Reconciliation) -> Release {
        let (entry, at) = (self.entry, self.look.at);
        let mut release = Release {
            version: entry.key.clone(),
            integrity: entry.integrity.clone(),
            published: entry.published,
            effective: at,
            first_seen: at,
            absent: self.last_look,
            ..Release::default()
        };
        if let Some(first) = self.elsewhere().min_by_key(|row| row.first_seen) {
            // The time is fixed by the view that saw it first, but not before an earlier observation of any view.
            let looks = self.others.iter().filter_map(|other| other.last_look).chain(self.last_look);
            let earlier = looks.filter(|look| *look < first.first_seen).max();
            let is_known = first.published.is_some() || first.state.moved.is_some() || first.absent.is_some();
            let counts = match entry.published {
                Some(published) if !is_known => Some(published.min(first.first_seen)),
                _ => self.elsewhere().map(Release::counts_from).max(),
            };
            release.effective = counts.unwrap_or(at).max(earlier.unwrap_or(Timestamp::MIN));
            release.absent = first.absent.max(earlier);
            self.follow_return(&mut release, into);
            return release;
        }
        let published = entry.published.unwrap_or(at);
        if let Some(look) = self.last_look.filter(|look| self.look.other_token.is_some() && *look > published) {
            // Another token was not shown it. A fetch with the probe token tells whether every token sees it.
            if self.is_parted() {
                (release.absent, release.state.diverged) = (None, true);
            } else {
                self.contradict(look, self.others.len(), into);
            }
        }
        let alone = published.max(release.absent.unwrap_or(Timestamp::MIN));
        release.effective = alone;
        for (place, other) in self.others.iter().enumerate() {
            let Some(look) = other.last_look.map(|look| look.min(at)).filter(|_| other.rows(&entry.key).is_empty()) else {
                continue;
            };
            if self.is_parted() {
                release.state.diverged |= look > alone;
                continue;
            }
            release.absent = release.absent.max(Some(look));
            if look > alone {
                release.state.held_since = release.state.held_since.max(Some(look));
                self.contradict(look, place, into);
            }
        }
        if release.state.diverged {
            into.findings.push(HistoryEvent::Parted(entry.key.clone()));
        }
        release
    }

    /// Checks whether a version that another view had was missing since, so that it counts as returned.
    fn follow_return(&self, release: &mut Release, into: &mut Reconciliation) {
        let Some(present) = self.last_present() else { return };
        let own = self.last_look.filter(|look| *look > present);
        let own = own.map(|look| Absence { look, place: self.others.len(), dropped: self.had_versions });
        let mut absences = self.absences_after(present);
        absences.extend(own);
        let was_old = timestamp::saturating_add(release.effective, self.look.longest_age) <= present;
        if was_old || self.is_outage(&absences, present) {
            return;
        }
        for absence in absences {
            if self.is_of_one_token(absence) {
                // A fetch with the probe token tells whether every token sees it.
                if !self.is_parted() {
                    into.contradictions.push((self.entry.key.clone(), absence.place));
                }
                continue;
            }
            release.state.moved = Some(release.effective.max(self.look.at));
            release.state.missing_since = release.state.missing_since.max(Some(absence.look));
        }
    }

    /// Reviews a version that is held since another view's last observation: whether that view was fetched again and still lacks
    /// it. Observations at other times do not count, because upstream may have removed the version just then.
    fn review_hold(&self, release: &mut Release, into: &mut Reconciliation) {
        let Some(held) = release.state.held_since else { return };
        if self.elsewhere().any(|row| row.state.gone.is_none()) {
            return;
        }
        if self.is_parted() {
            (release.state.held_since, release.state.diverged) = (None, true);
            into.findings.push(HistoryEvent::Parted(release.version.clone()));
            return;
        }
        for (place, _) in self.others.iter().enumerate().filter(|(_, other)| other.last_look.is_some()) {
            self.contradict(held, place, into);
        }
    }

    /// Checks whether another view first saw this version with different bytes or knows conflicting digests. Its further digests
    /// are added to `digests`. A view that still states different bytes after a new fetch has a separate history.
    fn conflicts(&self, release: &mut Release, digests: &mut Option<Integrity>, into: &mut Reconciliation) -> bool {
        let mut conflicts = false;
        for (place, other) in self.others.iter().enumerate() {
            let rows = other.rows(&self.entry.key);
            let Some(first) = first_known_release(rows).filter(|first| !first.state.diverged && !release.state.diverged) else {
                continue;
            };
            if may_be_same(first, self.entry.integrity.as_ref()) {
                let all = match (&*digests, first.known_digests()) {
                    (Some(ours), Some(theirs)) => ours.union(&theirs),
                    (ours, theirs) => ours.clone().or(theirs),
                };
                if all.is_some() {
                    *digests = all;
                    continue;
                }
            }
            let agrees = self.same_in(other).is_some();
            if !agrees && self.is_parted() {
                release.state.diverged = true;
                into.findings.push(HistoryEvent::Parted(release.version.clone()));
                continue;
            }
            conflicts = true;
            if !agrees {
                into.contradictions.push((self.entry.key.clone(), place));
            }
        }
        conflicts
    }

    /// Records the contradiction that another view lacked the version at `look`, if that may still hold it.
    fn contradict(&self, look: Timestamp, place: usize, into: &mut Reconciliation) {
        if timestamp::saturating_add(look, self.look.longest_age) > self.look.at {
            into.contradictions.push((self.entry.key.clone(), place));
        }
    }

    /// Returns the releases with the same bytes in other views.
    fn elsewhere(&self) -> impl Iterator<Item = &'a Release> {
        self.others.iter().filter_map(|other| self.same_in(other))
    }

    /// Returns the release with the same bytes in another view, if their histories are not separate.
    fn same_in(&self, other: &View<'a>) -> Option<&'a Release> {
        let rows = other.rows(&self.entry.key);
        find_same(rows, first_known_release(rows), self.entry.integrity.as_ref()).filter(|row| !row.state.diverged)
    }

    /// Checks whether other views were fetched again for this version and integrity, and still disagree.
    fn is_parted(&self) -> bool {
        let (diverged, stated) = (self.look.diverged.get(&*self.entry.key), self.entry.integrity.as_ref());
        diverged.is_some_and(|integrity| compare(integrity.as_ref(), stated) == DigestComparison::Same)
    }
}

/// Returns the known manifest of a version, and when it last changed: the version counts from then. Changes in other views count
/// too, so that a different token neither hides a change nor causes a second one.
fn follow_manifest(
    now: ManifestDigest,
    own: Option<&Release>,
    others: &[&Release],
    seen: Timestamp,
) -> (ManifestDigest, Option<Timestamp>) {
    let agrees = |row: &&&Release| row.state.manifest.is_some_and(|manifest| !manifest.followed_by(now).1);
    let agreeing = others.iter().filter(agrees).copied();
    let since = agreeing.clone().chain(own).filter_map(|row| row.state.manifest_changed).max();
    let before = match own.and_then(|row| row.state.manifest) {
        // Adds the form that only another view has seen.
        Some(own) => {
            Some(others.iter().filter_map(|row| row.state.manifest).fold(own, |known, other| other.followed_by(known).0))
        }
        None => agreeing.chain(others.iter().copied()).find_map(|row| row.state.manifest),
    };
    let Some(before) = before else { return (now, since) };
    let (manifest, changed) = before.followed_by(now);
    (manifest, if changed { Some(seen) } else { since })
}

/// Returns the row that shares a digest with `stated`, else the first if no algorithm is common: the tarball must match both.
fn find_same<'a>(rows: &[&'a Release], first: Option<&'a Release>, stated: Option<&Integrity>) -> Option<&'a Release> {
    let agrees = |row: &&&Release| compare(row.known_digests().as_ref(), stated) == DigestComparison::Same;
    rows.iter().find(agrees).copied().or_else(|| first.filter(|first| stated.is_some() && may_be_same(first, stated)))
}

/// Checks whether `stated` can refer to the bytes of `row`.
pub(crate) fn may_be_same(row: &Release, stated: Option<&Integrity>) -> bool {
    compare(row.known_digests().as_ref(), stated) != DigestComparison::Different
}

/// Compares two integrities. A missing one equals only a missing one.
fn compare(one: Option<&Integrity>, other: Option<&Integrity>) -> DigestComparison {
    match (one, other) {
        (None, None) => DigestComparison::Same,
        (Some(one), Some(other)) => one.compare(other),
        _ => DigestComparison::Different,
    }
}

/// How versions were removed, like the fields of [`Release`].
#[derive(Clone, Copy)]
struct Gone {
    /// The observation in which they are missing.
    at: Timestamp,
    replaced: bool,
    dropped: bool,
}

fn mark_gone<'a>(
    rows: impl Iterator<Item = &'a Release>,
    document: Option<&StoredPackument>,
    how: Gone,
    into: &mut Reconciliation,
) {
    for row in rows {
        let gone = row.state.gone.or(document.map(|document| document.looked)).unwrap_or(row.first_seen);
        let state = ReleaseState {
            gone: Some(gone),
            replaced: row.state.replaced || how.replaced,
            dropped: row.state.dropped || how.dropped,
            missing_since: if row.state.gone.is_none() { Some(how.at) } else { row.state.missing_since },
            ..row.state
        };
        let now = Release { state, ..row.clone() };
        if row.state.gone.is_none() {
            into.findings.push(HistoryEvent::Gone(Box::new(now.clone())));
        }
        if now != *row {
            into.change.releases.push(now);
        }
    }
}

/// Records the targets of dist-tags and the end of earlier ones. A tag that is missing or too long to record is recorded as
/// pointing nowhere, so that the time in between does not count for its last target.
fn follow_tags(record: &PackageRecord, look: &Look<'_>, change: &mut PackageChange) {
    let is_short = |(tag, version): &&(Box<str>, Box<str>)| tag.len() <= MAX_TAG_LENGTH && version.len() <= MAX_TAG_LENGTH;
    let short = look.packument.dist_tags.iter().filter(is_short);
    let points: HashMap<&str, &str> = short.map(|(tag, version)| (&**tag, &**version)).collect();
    let added = move_tags(record, &points, look.at, change);
    let over = (record.tags.len() + added).saturating_sub(MAX_SIGHTINGS);
    if over > 0 {
        // Up to `MAX_DIST_TAGS` sightings are current, so only past ones are dropped.
        let is_past = |sighting: &&TagSighting| points.get(&*sighting.tag).is_none_or(|version| **version != *sighting.version);
        let mut past: Vec<&TagSighting> = record.tags.iter().filter(is_past).collect();
        past.sort_by_key(|sighting| sighting.last_seen);
        change.forgotten_tags = past.into_iter().take(over).cloned().collect();
    }
}

/// Ends the sightings of tags that moved at `now` and begins new ones. Returns the number of new ones.
fn move_tags(record: &PackageRecord, points: &HashMap<&str, &str>, now: Timestamp, change: &mut PackageChange) -> usize {
    let confirmed = record.document.as_ref().map_or(now, |last| last.looked);
    let current = newest_sightings(record.tags.iter());
    let mut begin = |tag: &str, version: &str| {
        change.tags.push(TagSighting { tag: tag.into(), version: version.into(), first_seen: now, last_seen: now });
    };
    for (tag, version) in points {
        if current.get(tag).is_none_or(|sighting| *sighting.version != **version) {
            begin(tag, version);
        }
    }
    for sighting in current.values().filter(|sighting| *sighting.version != *NOWHERE && !points.contains_key(&*sighting.tag)) {
        begin(&sighting.tag, NOWHERE);
    }
    let added = change.tags.len();
    for sighting in current.values() {
        let points_to = points.get(&*sighting.tag).copied().unwrap_or(NOWHERE);
        if points_to != &*sighting.version && sighting.last_seen < confirmed {
            change.tags.push(TagSighting { last_seen: confirmed, ..TagSighting::clone(sighting) });
        }
    }
    added
}

pub(crate) fn newest_sightings<'a>(sightings: impl Iterator<Item = &'a TagSighting>) -> HashMap<&'a str, &'a TagSighting> {
    let mut current: HashMap<&str, &TagSighting> = HashMap::new();
    for sighting in sightings {
        let newest = current.entry(&sighting.tag).or_insert(sighting);
        if sighting.first_seen >= newest.first_seen {
            *newest = sighting;
        }
    }
    current
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::npm::packument::parse;
    use crate::npm::{Algorithm, Digest, PackageName};

    fn at(hour: i64) -> Timestamp {
        Timestamp::from_second(1_774_915_200 + hour * 3600).unwrap()
    }

    /// Builds a packument of (version, tarball content, publish hour). `latest` is the last version.
    fn packument(versions: &[(&str, &str, Option<i64>)]) -> Packument {
        let manifests: Vec<_> = versions
            .iter()
            .map(|(version, content, _)| {
                let shasum = Digest::of(Algorithm::Sha1, content.as_bytes()).to_hex();
                format!(r#""{version}":{{"name":"demo","version":"{version}","dist":{{"tarball":"x","shasum":"{shasum}"}}}}"#)
            })
            .collect();
        let times: Vec<_> =
            versions.iter().filter_map(|(version, _, hour)| Some(format!(r#""{version}":"{}""#, at((*hour)?)))).collect();
        let latest = versions.last().map_or("", |(version, ..)| version);
        let document = format!(
            r#"{{"name":"demo","dist-tags":{{"latest":"{latest}"}},"versions":{{{}}},"time":{{{}}}}}"#,
            manifests.join(","),
            times.join(",")
        );
        parse::parse(&PackageName::parse("demo").unwrap(), document.as_bytes()).unwrap().packument
    }

    static NO_PARTED: std::sync::LazyLock<Parted> = std::sync::LazyLock::new(Parted::new);

    /// The rule age in these tests.
    const AGE: Duration = Duration::from_secs(72 * 3600);

    fn look<'a>(packument: &'a Packument, hour: i64, diverged: &'a Parted) -> Look<'a> {
        Look {
            packument,
            form: PackumentForm::Full,
            at: at(hour),
            mode: TimeMode::Checked,
            longest_age: AGE,
            diverged,
            other_token: None,
            tokens: Some(0),
            stranger: false,
        }
    }

    fn document(hour: i64) -> StoredPackument {
        StoredPackument {
            first_seen: at(hour),
            validated: at(hour),
            changed: at(hour),
            looked: at(hour),
            modified: None,
            content: Some([0; 32]),
            length: 0,
            etag: None,
            last_modified: None,
            form: None,
        }
    }

    /// Observes the packuments at these hours. Returns the record and the last reconciliation.
    fn seen(packuments: &[(i64, Packument)]) -> (PackageRecord, Reconciliation) {
        let mut record = PackageRecord::default();
        let mut last = Reconciliation::default();
        for (hour, packument) in packuments {
            last = reconcile(&record, &[], &look(packument, *hour, &Parted::new()));
            last.change.document = Some(document(*hour));
            record.apply(&last.change);
        }
        (record, last)
    }

    #[test]
    fn release_counts_from_later_of_publish_time_and_last_observation() {
        let old = packument(&[("1.0.0", "a", Some(-1000))]);
        let backdated = packument(&[("1.0.0", "a", Some(-1000)), ("1.1.0", "b", Some(-500))]);
        let (_, first) = seen(&[(0, backdated.clone())]);
        assert_eq!(first.provenance[1].effective, at(-500));
        let (_, second) = seen(&[(0, old), (10, backdated)]);
        assert_eq!(second.provenance.iter().map(|one| one.effective).collect::<Vec<_>>(), [at(-1000), at(0)]);
    }

    #[test]
    fn effective_time_changes_only_when_a_version_returns() {
        let one = packument(&[("1.0.0", "a", Some(-1000))]);
        let two = packument(&[("1.0.0", "a", Some(-1000)), ("1.1.0", "b", Some(5))]);
        let later = packument(&[("1.0.0", "a", Some(-1000)), ("1.1.0", "b", Some(99))]);
        let (record, lost) = seen(&[(6, two.clone()), (10, one.clone())]);
        assert!(matches!(&lost.findings[..], [HistoryEvent::Gone(release)] if release.state.gone == Some(at(6))));
        assert_eq!(record.releases[1].state.gone, Some(at(6)));
        // Below the minimum age when removed, it counts from its return. A version past every age when last seen keeps its time.
        let (record, found) = seen(&[(6, two.clone()), (10, one.clone()), (200, later.clone())]);
        assert_eq!(found.provenance[1].effective, at(200));
        assert_eq!(record.releases[1].state.gone, None);
        let (_, found) = seen(&[(6, two.clone()), (80, two), (90, one), (200, later)]);
        assert_eq!(found.provenance[1].effective, at(5));
    }

    #[test]
    fn release_without_publish_time_counts_from_first_sighting() {
        let (_, reconciled) = seen(&[(7, packument(&[("1.0.0", "a", None)])), (50, packument(&[("1.0.0", "a", None)]))]);
        assert_eq!(reconciled.provenance[0].effective, at(7));
    }

    #[test]
    fn changed_integrity_is_reported_until_the_first_one_returns() {
        let first = packument(&[("1.0.0", "a", Some(0))]);
        let other = packument(&[("1.0.0", "b", Some(0))]);
        let (record, changed) = seen(&[(1, first.clone()), (2, other.clone())]);
        assert!(changed.provenance[0].integrity_changed && changed.findings.len() == 1);
        assert_eq!(record.releases.len(), 2);
        let (_, still) = seen(&[(1, first.clone()), (2, other.clone()), (3, other.clone())]);
        assert!(still.provenance[0].integrity_changed && still.findings.is_empty());
        let (_, back) = seen(&[(1, first.clone()), (2, other), (3, first)]);
        assert!(!back.provenance[0].integrity_changed);
    }

    #[test]
    fn full_record_refuses_new_versions_and_keeps_old_ones() {
        let one = packument(&[("1.0.0", "a", Some(-1000))]);
        let (mut record, _) = seen(&[(1, one)]);
        let old = record.releases[0].clone();
        let invented = |number: usize| Release {
            version: format!("0.0.{number}").into(),
            state: ReleaseState { gone: Some(at(1)), ..old.state },
            ..old.clone()
        };
        record.releases.extend((1..MAX_RELEASES).map(invented));
        let two = packument(&[("1.0.0", "a", Some(-1000)), ("1.1.0", "b", Some(-900))]);
        let reconciled = reconcile(&record, &[], &look(&two, 9, &Parted::new()));
        assert!(!reconciled.provenance[0].unrecorded && reconciled.provenance[1].unrecorded);
        assert!(reconciled.change.releases.iter().all(|release| *release.version != *"1.1.0"));
    }

    #[test]
    fn dist_tag_history_is_bounded_and_drops_the_oldest() {
        let one = packument(&[("1.0.0", "a", Some(-1000))]);
        let (mut record, _) = seen(&[(1, one.clone())]);
        let past = |number: i64| TagSighting {
            tag: "old".into(),
            version: format!("0.0.{number}").into(),
            first_seen: at(-number),
            last_seen: at(-number),
        };
        record.tags.extend((1..=i64::try_from(MAX_SIGHTINGS).unwrap()).map(past));
        let reconciled = reconcile(&record, &[], &look(&one, 9, &Parted::new()));
        // The tag `old` is missing now, which is recorded too.
        let last = i64::try_from(MAX_SIGHTINGS).unwrap();
        assert_eq!(reconciled.change.forgotten_tags, [past(last), past(last - 1)]);
    }

    #[test]
    fn dist_tag_moves_are_recorded() {
        let one = packument(&[("1.0.0", "a", Some(0))]);
        let two = packument(&[("1.0.0", "a", Some(0)), ("1.1.0", "b", Some(5))]);
        let (record, _) = seen(&[(1, one.clone()), (4, one), (6, two)]);
        let sightings: Vec<_> = record.tags.iter().map(|tag| (&*tag.version, tag.first_seen, tag.last_seen)).collect();
        assert_eq!(sightings, [("1.0.0", at(1), at(4)), ("1.1.0", at(6), at(6))]);
    }

    #[test]
    fn missing_dist_tag_ends_its_last_sighting() {
        let tagged = packument(&[("1.0.0", "a", Some(0))]);
        let mut untagged = tagged.clone();
        untagged.dist_tags.clear();
        let (record, _) =
            seen(&[(1, tagged.clone()), (4, tagged.clone()), (6, untagged.clone()), (50, untagged.clone()), (90, untagged)]);
        let sightings = |record: &PackageRecord| -> Vec<_> {
            record.tags.iter().map(|tag| (tag.version.to_string(), tag.first_seen, tag.last_seen)).collect()
        };
        assert_eq!(sightings(&record), [("1.0.0".to_owned(), at(1), at(4)), (NOWHERE.to_owned(), at(6), at(6))]);
        // A missing package ends it, too.
        let (mut record, _) = seen(&[(1, tagged.clone()), (4, tagged)]);
        for hour in [6, 50] {
            let change = mark_all_removed(&record, at(hour)).change;
            record.apply(&PackageChange { document: Some(StoredPackument { content: None, ..document(hour) }), ..change });
        }
        assert_eq!(sightings(&record), [("1.0.0".to_owned(), at(1), at(4)), (NOWHERE.to_owned(), at(6), at(6))]);
    }

    /// Returns `packument` with its last version changed by `edit`.
    fn edited(packument: &Packument, edit: impl FnOnce(&mut VersionEntry)) -> Packument {
        let mut packument = packument.clone();
        edit(packument.entries.last_mut().unwrap());
        packument
    }

    fn digests(content: &str, algorithms: &[Algorithm]) -> Option<Integrity> {
        let single = |algorithm: &Algorithm| Integrity::single(Digest::of(*algorithm, content.as_bytes()));
        algorithms.iter().map(single).reduce(|one, other| one.union(&other).unwrap())
    }

    #[test]
    fn added_digests_are_all_recorded_and_must_match() {
        let weak = packument(&[("1.0.0", "a", Some(0))]);
        let both = edited(&weak, |entry| entry.integrity = digests("a", &[Algorithm::Sha1, Algorithm::Sha512]));
        let strong = edited(&weak, |entry| entry.integrity = digests("a", &[Algorithm::Sha512]));
        let (record, grown) = seen(&[(1, weak.clone()), (2, both.clone())]);
        assert!(!grown.provenance[0].integrity_changed && grown.findings.is_empty());
        assert_eq!(grown.provenance[0].digests, both.entries[0].integrity);
        assert_eq!((record.releases.len(), record.releases[0].known_digests()), (1, both.entries[0].integrity.clone()));
        // Digests that are no longer stated must still match, even without a common algorithm.
        for looks in [vec![(1, both.clone()), (2, weak.clone())], vec![(1, weak.clone()), (2, strong.clone())]] {
            let (_, last) = seen(&looks);
            assert!(!last.provenance[0].integrity_changed);
            assert_eq!(last.provenance[0].digests, both.entries[0].integrity);
        }
        let other = edited(&weak, |entry| entry.integrity = digests("b", &[Algorithm::Sha512]));
        let (_, last) = seen(&[(1, both), (2, weak), (3, other)]);
        assert!(last.provenance[0].integrity_changed, "differs from the SHA-512 stated before");
    }

    #[test]
    fn computed_digests_must_match_like_stated_ones() {
        let weak = packument(&[("1.0.0", "a", Some(0))]);
        let (mut record, _) = seen(&[(1, weak.clone())]);
        record.releases[0].learn(&digests("a", &[Algorithm::Sha512, Algorithm::Sha256, Algorithm::Sha1]).unwrap());
        let carrier = edited(&weak, |entry| {
            entry.integrity = digests("a", &[Algorithm::Sha1]).unwrap().union(&digests("b", &[Algorithm::Sha512]).unwrap());
        });
        let reconciled = reconcile(&record, &[], &look(&carrier, 9, &Parted::new()));
        assert!(reconciled.provenance[0].integrity_changed);
        assert!(matches!(&reconciled.findings[..], [HistoryEvent::IntegrityChanged { .. }]));
        let by_sha256 = edited(&weak, |entry| entry.integrity = digests("b", &[Algorithm::Sha256]));
        assert!(reconcile(&record, &[], &look(&by_sha256, 9, &Parted::new())).provenance[0].integrity_changed);
        let same = edited(&weak, |entry| entry.integrity = digests("a", &[Algorithm::Sha256]));
        assert!(!reconcile(&record, &[], &look(&same, 9, &Parted::new())).provenance[0].integrity_changed);
    }

    #[test]
    fn version_counts_from_each_manifest_change() {
        let plain = packument(&[("1.0.0", "a", Some(-9000))]);
        let evil = edited(&plain, |entry| entry.resolution = [7; 32]);
        let (_, first) = seen(&[(1, plain.clone()), (2, plain.clone())]);
        assert_eq!(first.provenance[0].effective, at(-9000));
        let (_, changed) = seen(&[(1, plain.clone()), (2, evil.clone())]);
        assert_eq!(changed.provenance[0].effective, at(2));
        let (_, still) = seen(&[(1, plain.clone()), (2, evil.clone()), (90, evil.clone())]);
        assert_eq!(still.provenance[0].effective, at(2));
        let (_, back) = seen(&[(1, plain.clone()), (2, evil.clone()), (90, plain.clone())]);
        assert_eq!(back.provenance[0].effective, at(90));
        // The same holds if the digests change too, or the version was missing in between.
        let rehashed = edited(&evil, |entry| entry.integrity = digests("b", &[Algorithm::Sha512]));
        assert_eq!(seen(&[(1, plain.clone()), (2, rehashed)]).1.provenance[0].effective, at(2));
        let without = packument(&[("0.9.0", "z", Some(-9000))]);
        let (_, returned) = seen(&[(1, plain), (2, without), (3, evil)]);
        assert_eq!(returned.provenance[0].effective, at(3));
    }

    #[test]
    fn version_counts_from_each_change_of_its_install_scripts() {
        let plain = packument(&[("1.0.0", "a", Some(-9000))]);
        let runs =
            |digest| edited(&plain, |entry| (entry.traits.install_script, entry.install_scripts) = (true, Some([digest; 16])));
        assert_eq!(seen(&[(1, runs(1)), (2, runs(1))]).1.provenance[0].effective, at(-9000));
        assert_eq!(seen(&[(1, runs(1)), (2, runs(2)), (90, runs(2))]).1.provenance[0].effective, at(2));
        // A form without install scripts neither hides a change nor counts as one.
        let short = |packument| {
            move |record: &PackageRecord, hour| {
                let look = Look { form: PackumentForm::Abbreviated, ..look(&packument, hour, &NO_PARTED) };
                reconcile(record, &[], &look).change
            }
        };
        let (mut record, _) = seen(&[(1, runs(1))]);
        let change = short(edited(&runs(1), |entry| entry.install_scripts = None))(&record, 2);
        record.apply(&change);
        let again = runs(1);
        assert_eq!(reconcile(&record, &[], &look(&again, 3, &NO_PARTED)).provenance[0].effective, at(-9000));
        let other = runs(2);
        assert_eq!(reconcile(&record, &[], &look(&other, 3, &NO_PARTED)).provenance[0].effective, at(3));
    }

    /// An event of a simulated package.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        /// Upstream shows the version and claims that it is this many hours old.
        Appears(i64),
        /// Upstream removes the version.
        Disappears,
        /// Upstream removes or restores the whole package.
        Package(bool),
        /// A view observes the package.
        Looks(usize),
        /// A fetch without an observation: an error, an HTML page, a truncated body, an older copy, or no response.
        Fails,
    }

    fn some_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            2 => (0_i64..30_000).prop_map(Step::Appears),
            1 => Just(Step::Disappears),
            1 => any::<bool>().prop_map(Step::Package),
            6 => (0_usize..2).prop_map(Step::Looks),
            1 => Just(Step::Fails),
        ]
    }

    /// The last state of the version in one view.
    #[derive(Debug, Clone, Copy, PartialEq)]
    struct Shown {
        /// When it was last present.
        hour: i64,
        /// Its effective time then.
        effective: Timestamp,
        /// Whether it was missing since, in a document or with the whole package.
        dropped: bool,
        missing: bool,
    }

    /// Two views of one upstream: their records and the expected state.
    #[derive(Default)]
    struct Views {
        records: [PackageRecord; 2],
        shown: [Option<Shown>; 2],
        /// The last state in any view.
        last_shown: Option<Shown>,
        /// The last observation of any view, and the last one before any view saw the version.
        last_look: Option<i64>,
        missing: Option<i64>,
        /// Whether the other view saw the version return since this one saw it.
        returned_elsewhere: [bool; 2],
        /// Violations of the invariant.
        violations: Vec<String>,
    }

    impl Views {
        /// Makes one observation like the firewall: a contradicted view is fetched again first. The second view is that of
        /// clients' own tokens, which is fetched with the probe token.
        fn look(&mut self, view: usize, hour: i64, packument: Option<&Packument>, asked: bool) {
            let Some(packument) = packument else {
                let change = mark_all_removed(&self.records[view], at(hour)).change;
                let document = Some(StoredPackument { content: None, ..document(hour) });
                self.records[view].apply(&PackageChange { document, ..change });
                for shown in [&mut self.shown[view], &mut self.last_shown].into_iter().flatten() {
                    shown.missing = true;
                }
                return self.looked(hour);
            };
            let mut diverged = Parted::new();
            let (tokens, stranger) = ((view == 0).then_some(0), view == 1 && asked);
            let compare = |views: &Self, diverged: &Parted| {
                let look = Look { tokens, stranger, ..look(packument, hour, diverged) };
                reconcile(&views.records[view], std::slice::from_ref(&views.records[1 - view]), &look)
            };
            let mut reconciled = compare(self, &diverged);
            if !asked && !reconciled.contradictions.is_empty() {
                for place in [0, 1] {
                    let contradicted = reconciled.contradictions.iter().filter(|(_, other)| *other == place);
                    let keys: Vec<Box<str>> = contradicted.map(|(key, _)| key.clone()).collect();
                    if keys.is_empty() {
                        continue;
                    }
                    let other = if place == 0 { 1 - view } else { view };
                    self.look(other, hour, Some(packument), true);
                    let rows = &self.records[other].releases;
                    for key in
                        keys.into_iter().filter(|key| !rows.iter().any(|row| row.version == *key && row.state.gone.is_none()))
                    {
                        let integrity = packument.find(&key).and_then(|(_, entry)| entry.integrity.clone());
                        diverged.insert(key, integrity);
                    }
                }
                reconciled = compare(self, &diverged);
            }
            let effective = packument.find("1.1.0").map(|(at, _)| reconciled.provenance[at].effective);
            self.records[view].apply(&PackageChange { document: Some(document(hour)), ..reconciled.change });
            if let Some(effective) = effective {
                self.check(view, hour, effective);
            } else {
                for shown in [&mut self.shown[view], &mut self.last_shown].into_iter().flatten() {
                    shown.dropped = true;
                }
            }
            self.looked(hour);
        }

        fn check(&mut self, view: usize, hour: i64, effective: Timestamp) {
            if self.shown == [None, None] {
                self.missing = self.last_look;
            }
            if let Some(missing) = self.missing.filter(|missing| effective < at(*missing)) {
                self.violations.push(format!("at {hour} it counts from {effective}, before the look at {missing}"));
            }
            if let Some(last) = self.shown[view] {
                let was_young = last.effective + AGE > at(last.hour);
                let returned = last.dropped || (last.missing && hour - last.hour >= 24);
                if effective < last.effective || (was_young && returned && effective < at(hour)) {
                    self.violations.push(format!("at {hour} it counts from {effective}, {last:?}"));
                }
            }
            // A takedown seen by one view counts for the other.
            if let Some(last) = self.last_shown {
                let was_young = last.effective + AGE > at(last.hour);
                let returned = last.dropped || (last.missing && hour - last.hour >= 24);
                // A view that had it past the minimum age keeps that, regardless of the other view. Until when it was present, both
                // views tell.
                let seen_until = if self.returned_elsewhere[view] { i64::MIN } else { last.hour };
                let was_old_here = self.shown[view].is_some_and(|shown| shown.effective + AGE <= at(shown.hour.max(seen_until)));
                if was_young && returned && !was_old_here && effective < at(hour) {
                    self.violations.push(format!("at {hour} it counts from {effective}, and any view saw {last:?}"));
                }
            }
            let returned = self.last_shown.is_some_and(|last| last.dropped || (last.missing && hour - last.hour >= 24));
            self.returned_elsewhere[1 - view] |= returned;
            self.returned_elsewhere[view] = false;
            let shown = Some(Shown { hour, effective, dropped: false, missing: false });
            (self.shown[view], self.last_shown) = (shown, shown);
        }

        fn looked(&mut self, hour: i64) {
            self.last_look = self.last_look.max(Some(hour));
        }
    }

    #[test]
    fn return_seen_by_another_view_counts_though_the_package_left_again() {
        let with = |published| packument(&[("1.0.0", "a", Some(-50_000)), ("1.1.0", "b", Some(published))]);
        let without = packument(&[("1.0.0", "a", Some(-50_000))]);
        let mut views = Views::default();
        views.look(0, 1, Some(&without), false);
        views.look(1, 3, Some(&with(2)), false);
        // Taken down while young, back later, and gone for a day with the whole package: seen by the first view only.
        views.look(0, 5, Some(&without), false);
        views.look(0, 74, Some(&with(41)), false);
        views.look(0, 88, None, false);
        views.look(1, 98, Some(&with(41)), false);
        assert!(views.violations.is_empty(), "{:?}", views.violations);
        assert!(views.shown[1].is_some_and(|shown| shown.effective >= at(98)));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

        /// No version counts from before the last observation of any view that lacked it. A version removed below the minimum age
        /// does not count from before its return. A restart changes nothing, because the records are the only state.
        #[test]
        fn version_never_counts_from_before_it_was_missing(steps in proptest::collection::vec((1_i64..60, some_step()), 1..40)) {
            let (mut hour, mut claim, mut there, mut views) = (0, None, true, Views::default());
            for (hours, step) in steps {
                hour += hours;
                match step {
                    Step::Appears(age) => claim = claim.or(Some(hour - age)),
                    Step::Disappears => claim = None,
                    Step::Package(is_there) => there = is_there,
                    Step::Fails => {}
                    Step::Looks(view) => {
                        let versions: Vec<_> = std::iter::once(("1.0.0", "a", Some(-50_000)))
                            .chain(claim.map(|published| ("1.1.0", "b", Some(published))))
                            .collect();
                        views.look(view, hour, there.then(|| packument(&versions)).as_ref(), false);
                    }
                }
            }
            prop_assert!(views.violations.is_empty(), "{:?}", views.violations);
        }
    }
}
