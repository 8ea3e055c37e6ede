//! Compares a release with a baseline of earlier releases, from the packument alone. Pure.
//!
//! The baseline is what an attacker cannot have published this week: versions that are past the window. An attacker's own last
//! release is not in it, so 1.14.2 shows the same signals as 1.14.1.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::npm::packument::index::{PackumentContents, VersionEntry};
use crate::npm::{Packument, Version};
use crate::text;
use crate::units::timestamp;
use crate::vetting::lookalike;
use crate::vetting::names::{Signal, Signals};

/// The shortest window: releases below this age are compared, and older ones form the baseline.
pub const BASELINE_AGE: Duration = Duration::from_secs(30 * 24 * 3600);

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// The version of the comparison. Recorded signals of another version are computed again.
pub const SIGNALS_VERSION: u32 = 1;

/// The most releases of a package whose signals are recorded. Further ones with signals stay undecided.
pub const MAX_RECORDED_SIGNALS: usize = 10_000;

/// The fewest stable releases within a year that make the loss of provenance a strong signal. fastq, semver and chokidar are
/// published with and without it.
const MIN_CONSISTENT: usize = 3;

/// axios@1.14.1 and axios@0.30.4 were published within 39 minutes.
const BURST: Duration = Duration::from_secs(3600);

/// Releases that grow to this multiple show a size jump, if they also grow by the least amounts below.
const SIZE_FACTOR: u64 = 3;
const MIN_GROWTH_BYTES: u64 = 100_000;
const MIN_GROWTH_FILES: u64 = 10;

/// A release whose major version is so much higher than all before shows a version jump. Dependency confusion uses 99.
const MAJOR_JUMP: u64 = 10;

/// The fewest stable releases of a baseline from which its pace is known.
const MIN_PACE_RELEASES: usize = 10;

/// The latest releases of a baseline that make its pace.
const PACE_RELEASES: usize = 20;

/// A pause of this multiple of the longest one before is unusual.
const PAUSE_FACTOR: i64 = 4;

/// Shorter pauses are never unusual, however quick the pace was.
const MIN_PAUSE: Duration = Duration::from_secs(60 * 24 * 3600);

/// Fewer releases of one line within a day are never unusual.
const MIN_DAILY: usize = 4;

/// Releases within so long count together.
const PACE_WINDOW: Duration = Duration::from_secs(24 * 3600);

/// The longest text of a piece of evidence. A document may hold names of any length.
const MAX_EVIDENCE_CHARS: usize = 300;

/// Names listed in one piece of evidence; further ones are counted.
const MAX_LISTED: usize = 5;

/// New dependencies of one release that are reported. Look-ups have a lower limit, so a release with this number is never decided.
const MAX_REPORTED_DEPENDENCIES: usize = 100;

/// One version with the time from which its age counts.
#[derive(Debug, Clone, Copy)]
pub struct DatedRelease<'a> {
    pub entry: &'a VersionEntry,
    pub effective: Timestamp,
    /// Whether it may be in a baseline: not if it is denied, listed as malware, contradicts itself or changed its bytes.
    pub is_sound: bool,
    /// Signals that an operator accepted for exactly this version. Later releases do not show them for the same reason.
    pub accepted: Signals,
}

/// A version that upstream no longer has. It still counts as published.
#[derive(Debug, Clone, Copy)]
pub struct DepartedRelease<'a> {
    pub version: &'a str,
    pub effective: Timestamp,
}

/// Why a release shows a signal. Both texts are one line and safe to print.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignalEvidence {
    pub signal: Signal,
    /// What earlier releases have.
    pub old: String,
    /// What the release has.
    pub new: String,
}

impl SignalEvidence {
    /// Returns what the release has, and what earlier releases have.
    pub fn describe(&self) -> String {
        if self.old.is_empty() { self.new.clone() } else { format!("{}, before: {}", self.new, self.old) }
    }
}

impl SignalEvidence {
    /// Formats as `new-publisher (eve, before: ada)`.
    pub(crate) fn describe_with_name(&self) -> String {
        format!("{} ({})", self.signal.as_str(), self.describe())
    }
}

/// The signals of one release.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SignalReport {
    pub signals: Signals,
    /// Signals that the document cannot show, because it lacks the members or there is no baseline.
    pub unobservable: Signals,
    /// Signals that depend on look-ups of other packages which have not ended.
    pub pending: Signals,
    pub evidence: Vec<SignalEvidence>,
    /// Dependencies that no earlier release has, except subpackages.
    pub new_dependencies: Vec<Arc<str>>,
}

impl SignalReport {
    /// Removes a signal with its evidence.
    pub fn remove(&mut self, signal: Signal) {
        self.signals = self.signals.without(signal.into());
        self.evidence.retain(|evidence| evidence.signal != signal);
    }

    pub(crate) fn add(&mut self, signal: Signal, old: &str, new: &str) {
        self.signals = self.signals.or(signal.into());
        let shorten = |text: &str| {
            let text = text::single_line(text);
            if text.chars().count() <= MAX_EVIDENCE_CHARS {
                return text.to_string();
            }
            text.chars().take(MAX_EVIDENCE_CHARS).chain("...".chars()).collect()
        };
        self.evidence.push(SignalEvidence { signal, old: shorten(old), new: shorten(new) });
    }
}

/// What no earlier release of a package had may be a signal. Each flag is whether any release of the baseline had it.
#[derive(Clone, Copy, Default)]
#[expect(clippy::struct_excessive_bools, reason = "the facts are independent")]
struct Precedents {
    install_script: bool,
    gyp: bool,
    git: bool,
    url: bool,
    file: bool,
    shrinkwrap: bool,
}

impl Precedents {
    /// Adds what `entry` has, as far as it concerns one of `signals`.
    fn add(&mut self, entry: &VersionEntry, signals: Signals) {
        let (traits, outline) = (entry.traits, &entry.outline);
        self.install_script |= traits.install_script && signals.contains(Signal::FirstInstallScript);
        self.gyp |= outline.has_gyp && signals.contains(Signal::BindingGypAdded);
        let has_remote = signals.contains(Signal::RemoteDependencyAdded);
        self.git |= traits.git_dependency && has_remote;
        self.url |= traits.url_dependency && has_remote;
        self.file |= traits.file_dependency && has_remote;
        self.shrinkwrap |= outline.has_shrinkwrap && signals.contains(Signal::ShrinkwrapAdded);
    }
}

/// Stable releases of the baseline up to some instant, and how many of them have provenance and a trusted publisher.
#[derive(Clone, Copy, Default)]
struct OriginCounts {
    releases: usize,
    provenance: usize,
    trusted: usize,
}

/// Names that any release of the baseline had.
#[derive(Default)]
struct KnownNames<'a> {
    publishers: BTreeSet<&'a str>,
    /// Digests of the addresses of each publisher.
    emails: HashMap<&'a str, HashSet<[u8; 16]>>,
    maintainers: BTreeSet<&'a str>,
    dependencies: HashSet<&'a str>,
    commands: BTreeSet<&'a str>,
    repositories: BTreeSet<&'a str>,
}

/// How quickly stable releases follow each other.
#[derive(Default)]
struct Pace<'a> {
    /// The pause before the first release after the baseline, and the longest one before, if it is unusual. It counts for all later
    /// releases: the second release of an attacker comes soon after the first.
    pause: Option<(SignedDuration, SignedDuration)>,
    /// For a release, how many of its line came within the day before it, if that is unusual.
    daily: HashMap<&'a str, usize>,
    /// The most releases of a line within a day in the baseline.
    usual: usize,
}

/// The releases of a package, prepared so that each comparison costs little even among 100,000 versions.
#[derive(Default)]
pub struct Comparison<'a> {
    name: &'a str,
    contents: PackumentContents,
    precedents: Precedents,
    known: KnownNames<'a>,
    /// The baseline, ordered by version.
    by_version: Vec<(&'a Version, &'a VersionEntry)>,
    /// Its stable versions.
    stable: Vec<(&'a Version, &'a VersionEntry)>,
    /// Stable releases of the baseline, ordered by time, with the counts of all before each.
    by_time: Vec<(Timestamp, OriginCounts)>,
    total: OriginCounts,
    last: Option<Timestamp>,
    bursts: HashMap<&'a str, &'a str>,
    pace: Pace<'a>,
    /// Releases with signals that an operator accepted. They are not in the baseline otherwise.
    accepted: Vec<DatedRelease<'a>>,
}

impl<'a> Comparison<'a> {
    /// Prepares the comparison of releases with the sound ones that are older than `window` at `now`. `departed` count only as
    /// published: unpublishing a release clears no signal of another.
    pub fn new(
        releases: &[DatedRelease<'a>],
        departed: &[DepartedRelease<'a>],
        packument: &'a Packument,
        window: Duration,
        now: Timestamp,
    ) -> Self {
        let (name, contents) = (packument.name.as_str(), packument.contents);
        let until = timestamp::saturating_sub(now, window);
        let mut baseline: Vec<_> =
            releases.iter().filter(|release| release.is_sound && release.effective <= until).copied().collect();
        baseline.sort_by_key(|release| release.effective);
        let is_accepted =
            |release: &&DatedRelease<'_>| release.is_sound && !release.accepted.is_empty() && release.effective > until;
        let accepted = releases.iter().filter(is_accepted).copied().collect();
        let stable = stable_releases(releases, departed, until);
        let mut comparison =
            Self { name, contents, bursts: bursts(stable.clone()), pace: pace(&stable, until), accepted, ..Self::default() };
        let mut last_shape = None;
        for release in &baseline {
            comparison.add_origin(release);
            comparison.add_precedents(release.entry);
            let Some(shape) = &release.entry.outline.shape else { continue };
            if last_shape.is_some_and(|last| Arc::ptr_eq(last, shape)) {
                continue;
            }
            last_shape = Some(shape);
            comparison.known.dependencies.extend(shape.dependencies.iter().map(|name| &**name));
            comparison.known.commands.extend(shape.commands.iter().map(|name| &**name));
            comparison.known.repositories.extend(shape.repository.as_deref());
        }
        comparison.last = baseline.last().map(|release| release.effective);
        let versions = baseline.iter().filter_map(|release| Some((release.entry.version.as_ref()?, release.entry)));
        comparison.by_version = versions.collect();
        comparison.by_version.sort_by_key(|(version, _)| *version);
        comparison.stable = comparison.by_version.iter().filter(|(version, _)| !version.is_prerelease()).copied().collect();
        comparison
    }

    fn add_origin(&mut self, release: &DatedRelease<'a>) {
        let VersionEntry { publisher, maintainers, outline, version, .. } = release.entry;
        if let Some(publisher) = publisher.as_deref() {
            self.known.publishers.insert(publisher);
            let email = outline.shape.as_ref().and_then(|shape| shape.publisher_email);
            self.known.emails.entry(publisher).or_default().extend(email);
        }
        self.known.maintainers.extend(maintainers.iter().flat_map(|names| names.iter()).map(|name| &**name));
        if version.as_ref().is_some_and(|version| !version.is_prerelease()) {
            self.by_time.push((release.effective, self.total));
            self.total.releases += 1;
            self.total.provenance += usize::from(outline.has_provenance);
            self.total.trusted += usize::from(outline.is_trusted);
        }
    }

    fn add_precedents(&mut self, entry: &VersionEntry) {
        self.precedents.add(entry, Signals::all());
    }

    /// Checks whether an operator accepted `signal` for another release.
    pub fn is_accepted(&self, signal: Signal, entry: &VersionEntry) -> bool {
        self.accepted_for(signal, entry).next().is_some()
    }

    /// Returns the other releases for which an operator accepted `signal`.
    fn accepted_for(&self, signal: Signal, entry: &VersionEntry) -> impl Iterator<Item = &DatedRelease<'a>> {
        self.accepted.iter().filter(move |other| other.accepted.contains(signal) && other.entry.key != entry.key)
    }

    /// Compares one release with the baseline. `is_subpackage` is true for dependencies that are published in lockstep with the
    /// release, such as `@esbuild/linux-x64` of esbuild.
    pub fn compare(&self, release: &DatedRelease<'a>, is_subpackage: impl Fn(&str) -> bool) -> SignalReport {
        let mut report = SignalReport::default();
        let entry = release.entry;
        if entry.traits.deprecated {
            report.add(Signal::DeprecatedYoung, "", "deprecated while it is young");
        }
        if self.by_version.is_empty() {
            self.compare_own_name(&mut report);
            // There is nothing to compare with. Rules on the age of the package cover new packages.
            let is_observable = |signal: &Signal| matches!(signal, Signal::DeprecatedYoung | Signal::LookalikeName);
            report.unobservable = Signal::ALL.iter().copied().filter(|signal| !is_observable(signal)).collect();
            return report;
        }
        report.unobservable = unobservable(self.contents);
        let predecessor = self.predecessor(entry);
        self.compare_execution(entry, &mut report);
        self.compare_provenance(release, predecessor, &mut report);
        self.compare_people(entry, &mut report);
        self.compare_names(entry, is_subpackage, &mut report);
        self.compare_timing(release, &mut report);
        if let Some(earlier) = predecessor {
            compare_size(earlier, entry, &mut report);
        }
        report
    }

    /// Compares what the release makes npm run.
    fn compare_execution(&self, entry: &VersionEntry, report: &mut SignalReport) {
        let (traits, mut seen) = (entry.traits, self.precedents);
        for other in self.accepted.iter().filter(|other| other.entry.key != entry.key) {
            seen.add(other.entry, other.accepted);
        }
        let checks = [
            (Signal::FirstInstallScript, traits.install_script, seen.install_script, "an install script"),
            (Signal::BindingGypAdded, entry.outline.has_gyp, seen.gyp || seen.install_script, "a binding.gyp"),
            (Signal::RemoteDependencyAdded, traits.git_dependency, seen.git, "a git dependency"),
            (Signal::RemoteDependencyAdded, traits.url_dependency, seen.url, "a dependency at a URL"),
            (Signal::RemoteDependencyAdded, traits.file_dependency, seen.file, "a dependency on a file"),
            (Signal::ShrinkwrapAdded, entry.outline.has_shrinkwrap, seen.shrinkwrap, "a shrinkwrap"),
        ];
        for (signal, has, had, what) in checks {
            if has && !had {
                report.add(signal, &format!("none of {} earlier releases has {what}", self.by_version.len()), what);
            }
        }
    }

    /// Compares how the release was built and published.
    fn compare_provenance(&self, release: &DatedRelease<'a>, predecessor: Option<&VersionEntry>, report: &mut SignalReport) {
        let since = timestamp::saturating_sub(release.effective, YEAR);
        let first = self.by_time.partition_point(|(effective, _)| *effective < since);
        let before = self.by_time.get(first).map_or(self.total, |(_, before)| *before);
        let (count, total, outline) = (self.total.releases - before.releases, self.total, &release.entry.outline);
        let provenance = (outline.has_provenance, total.provenance - before.provenance, "provenance");
        let trusted = (outline.is_trusted, total.trusted - before.trusted, "a trusted publisher");
        let had = |has: fn(&VersionEntry) -> bool| predecessor.filter(|earlier| has(earlier));
        let checks = [
            (Signal::ProvenanceLost, Signal::ProvenanceDropped, provenance, had(|entry| entry.outline.has_provenance)),
            (Signal::TrustedPublisherLost, Signal::CiToHuman, trusted, had(|entry| entry.outline.is_trusted)),
        ];
        for (strong, weak, (has, with, what), earlier) in checks {
            if has {
                continue;
            }
            let is_accepted = || self.is_accepted(strong, release.entry);
            if with == count && with >= MIN_CONSISTENT && !is_accepted() {
                report.add(strong, &format!("{what} in all {with} releases of the year before"), &format!("no {what}"));
            } else if let Some(earlier) = earlier {
                report.add(weak, &format!("{what} in {}", earlier.key), &format!("no {what}"));
            }
        }
        if let Some(earlier) = predecessor.filter(|earlier| earlier.outline.has_commit && !outline.has_commit) {
            report.add(Signal::CommitLost, &format!("a commit in {}", earlier.key), "no commit");
        }
    }

    /// Compares the publisher and the maintainers.
    fn compare_people(&self, entry: &VersionEntry, report: &mut SignalReport) {
        if let Some(publisher) = entry.publisher.as_deref() {
            let known = self.known.emails.get(publisher);
            let email = entry.outline.shape.as_ref().and_then(|shape| shape.publisher_email);
            if known.is_none() && !self.known.publishers.is_empty() {
                report.add(Signal::NewPublisher, &list(&self.known.publishers), publisher);
                self.compare_own_name(report);
            } else if let (Some(known), Some(email)) = (known, email)
                && !known.is_empty()
                && !known.contains(&email)
            {
                report.add(Signal::PublisherEmailChanged, &format!("an earlier address of {publisher}"), "another address");
            }
        }
        let maintainers = entry.maintainers.iter().flat_map(|names| names.iter()).map(|name| &**name);
        let added: BTreeSet<&str> = maintainers.filter(|name| !self.known.maintainers.contains(name)).collect();
        if !added.is_empty() && !self.known.maintainers.is_empty() {
            report.add(Signal::MaintainersChanged, &list(&self.known.maintainers), &list(&added));
        }
    }

    /// Compares the name of the package with popular ones.
    fn compare_own_name(&self, report: &mut SignalReport) {
        if let Some(popular) = lookalike::imitated(self.name) {
            report.add(Signal::LookalikeName, "", &format!("{} resembles {popular}", self.name));
        }
    }

    /// Compares dependencies, commands and repository.
    fn compare_names(&self, entry: &VersionEntry, is_subpackage: impl Fn(&str) -> bool, report: &mut SignalReport) {
        let Some(shape) = &entry.outline.shape else {
            return report.add(Signal::NewDependency, "", "too many dependencies to compare");
        };
        let accepted = self.accepted_for(Signal::NewbornDependency, entry).filter_map(|other| other.entry.outline.shape.as_ref());
        let accepted: HashSet<&str> = accepted.flat_map(|shape| shape.dependencies.iter()).map(|name| &**name).collect();
        let is_known = |name: &str| self.known.dependencies.contains(name) || accepted.contains(name);
        let is_new = |name: &&Arc<str>| !is_known(name) && !is_subpackage(name);
        report.new_dependencies = shape.dependencies.iter().filter(is_new).take(MAX_REPORTED_DEPENDENCIES).cloned().collect();
        if !report.new_dependencies.is_empty() {
            let names = report.new_dependencies.iter().map(|name| &**name).collect();
            report.add(Signal::NewDependency, "no earlier release depends on it", &list(&names));
            let close = report.new_dependencies.iter().find_map(|name| Some((Arc::clone(name), lookalike::imitated(name)?)));
            if let Some((name, popular)) = close {
                report.add(Signal::LookalikeName, "", &format!("{name} resembles {popular}"));
            }
        }
        let commands = shape.commands.iter().map(|name| &**name);
        let added: BTreeSet<&str> = commands.filter(|name| !self.known.commands.contains(name)).collect();
        if !added.is_empty() {
            report.add(Signal::BinAdded, &list(&self.known.commands), &list(&added));
        }
        let repository = shape.repository.as_deref().filter(|_| !self.known.repositories.is_empty());
        if let Some(repository) = repository.filter(|repository| !self.known.repositories.contains(repository)) {
            report.add(Signal::RepositoryChanged, &list(&self.known.repositories), repository);
        }
    }

    /// Compares when the release was published, and its number.
    fn compare_timing(&self, release: &DatedRelease<'a>, report: &mut SignalReport) {
        if let Some(last) = self.last.filter(|last| timestamp::saturating_add(*last, YEAR) < release.effective) {
            let [last, published] = [last, release.effective].map(timestamp::format_utc);
            report.add(Signal::Dormant, &format!("last release {last}"), &format!("published {published}"));
        }
        if let Some(other) = self.bursts.get(&*release.entry.key) {
            report.add(Signal::ReleaseBurst, "", &format!("{other} of another line within an hour"));
        }
        if let Some((pause, longest)) = self.pace.pause {
            let days = |pause: SignedDuration| format!("{} d", pause.as_hours() / 24);
            report.add(
                Signal::OffRhythm,
                &format!("a pause of at most {}", days(longest)),
                &format!("a pause of {}", days(pause)),
            );
        } else if let Some(count) = self.pace.daily.get(&*release.entry.key) {
            let (usual, count) = (self.pace.usual, format!("{count} releases within a day"));
            report.add(Signal::OffRhythm, &format!("at most {usual} within a day"), &count);
        }
        let highest = self.by_version.last().map(|(version, _)| *version);
        if let (Some(highest), Some(version)) = (highest, &release.entry.version)
            && version.parsed.major >= highest.parsed.major.saturating_add(MAJOR_JUMP)
        {
            report.add(Signal::VersionJump, &format!("at most {highest}"), version.as_str());
        }
    }

    /// Returns the newest release of the baseline below `entry`, a stable one if `entry` is. It is in the line of `entry` if any
    /// is, since versions are ordered.
    pub fn predecessor(&self, entry: &VersionEntry) -> Option<&'a VersionEntry> {
        self.predecessors(entry).next()
    }

    /// Returns the releases of the baseline below `entry`, the highest first.
    pub fn predecessors<'s>(&'s self, entry: &VersionEntry) -> impl Iterator<Item = &'a VersionEntry> + use<'s, 'a> {
        let of_version = |version: &Version| {
            let among = if version.is_prerelease() || self.stable.is_empty() { &self.by_version } else { &self.stable };
            let above = among.partition_point(|(earlier, _)| *earlier < version);
            among.get(..above)
        };
        let below = entry.version.as_ref().and_then(of_version).unwrap_or_default();
        below.iter().rev().map(|(_, earlier)| *earlier)
    }
}

fn compare_size(earlier: &VersionEntry, entry: &VersionEntry, report: &mut SignalReport) {
    let (old, new) = (&earlier.outline, &entry.outline);
    let grew = |old: u64, new: u64, least: u64| old > 0 && new >= old.saturating_mul(SIZE_FACTOR) && new - old >= least;
    if grew(old.unpacked_bytes, new.unpacked_bytes, MIN_GROWTH_BYTES) {
        report.add(Signal::SizeJump, &format!("{} bytes", old.unpacked_bytes), &format!("{} bytes", new.unpacked_bytes));
    } else if grew(old.files.into(), new.files.into(), MIN_GROWTH_FILES) {
        report.add(Signal::SizeJump, &format!("{} files", old.files), &format!("{} files", new.files));
    }
}

/// A stable release: when it was published, its line and its version.
type StableRelease<'a> = (Timestamp, (u64, u64), &'a str);

/// Returns the stable releases of the baseline, and all after it, also those that left, ordered by time.
fn stable_releases<'a>(
    releases: &[DatedRelease<'a>],
    departed: &[DepartedRelease<'a>],
    until: Timestamp,
) -> Vec<StableRelease<'a>> {
    let line = |version: &Version| (!version.is_prerelease()).then(|| release_line(version));
    let present = releases
        .iter()
        .filter(|release| release.is_sound || release.effective > until)
        .filter_map(|release| Some((release.effective, line(release.entry.version.as_ref()?)?, &*release.entry.key)));
    let departed = departed
        .iter()
        .filter_map(|release| Some((release.effective, line(&Version::parse(release.version)?)?, release.version)));
    let mut stable: Vec<_> = present.chain(departed).collect();
    stable.sort_unstable();
    stable
}

/// Returns what is unusual in the pace of the releases after `until`, compared with those before.
fn pace<'a>(stable: &[StableRelease<'a>], until: Timestamp) -> Pace<'a> {
    let (before, after) = stable.split_at(stable.partition_point(|(at, ..)| *at <= until));
    let mut pace = Pace::default();
    if before.len() < MIN_PACE_RELEASES {
        return pace;
    }
    let latest = &before[before.len().saturating_sub(PACE_RELEASES)..];
    let longest = latest.windows(2).map(|pair| pair[1].0.duration_since(pair[0].0)).max().unwrap_or_default();
    let pause = before.last().zip(after.first()).map(|(last, next)| next.0.duration_since(last.0));
    let is_unusual = |pause: &SignedDuration| {
        let least = SignedDuration::try_from(MIN_PAUSE).unwrap_or(SignedDuration::MAX);
        // From a year on the package was dormant, which is a signal of its own.
        let most = SignedDuration::try_from(YEAR).unwrap_or(SignedDuration::MAX);
        *pause >= least && *pause < most && pause.as_secs() > longest.as_secs().saturating_mul(PAUSE_FACTOR)
    };
    pace.pause = pause.filter(is_unusual).map(|pause| (pause, longest));
    let mut lines: HashMap<(u64, u64), VecDeque<Timestamp>> = HashMap::new();
    for (number, (at, line, key)) in stable.iter().enumerate() {
        let day = lines.entry(*line).or_default();
        day.push_back(*at);
        while day.front().is_some_and(|first| timestamp::saturating_add(*first, PACE_WINDOW) < *at) {
            day.pop_front();
        }
        if number < before.len() {
            pace.usual = pace.usual.max(day.len());
        } else if day.len() >= MIN_DAILY && day.len() > 2 * pace.usual {
            pace.daily.insert(key, day.len());
        }
    }
    pace
}

/// Returns the stable releases that were published within an hour of one of another line, each with that one.
fn bursts(mut stable: Vec<StableRelease<'_>>) -> HashMap<&str, &str> {
    let mut found = HashMap::new();
    // In each direction, the nearest release of another line is the last one before the run of the own line.
    for _ in 0..2 {
        let mut other = None;
        for pair in stable.windows(2) {
            let ((before, line, key), (at, own_line, own_key)) = (pair[0], pair[1]);
            if line != own_line {
                other = Some((before, key));
            }
            if let Some((_, key)) = other.filter(|(before, _)| at.duration_since(*before).unsigned_abs() <= BURST) {
                found.insert(own_key, key);
            }
        }
        stable.reverse();
    }
    found
}

/// Returns the signals that depend on members which no version of the document has.
pub fn unobservable(contents: PackumentContents) -> Signals {
    let publishers = if contents.has_publishers { Signals::NONE } else { signals_needing("_npmUser") };
    let signatures = if contents.has_signatures { Signals::NONE } else { signals_needing("dist.signatures") };
    let attestations = if contents.may_have_attestations() { Signals::NONE } else { signals_needing("dist.attestations") };
    publishers.or(signatures).or(attestations)
}

/// Returns the signals that cannot be observed where a registry leaves out this member.
pub fn signals_needing(member: &str) -> Signals {
    let signals: &[Signal] = match member {
        "_npmUser" => &[
            Signal::NewPublisher,
            Signal::PublisherEmailChanged,
            Signal::MaintainersChanged,
            Signal::TrustedPublisherLost,
            Signal::CiToHuman,
        ],
        "dist.signatures" => &[Signal::SignatureLost],
        "dist.attestations" => &[
            Signal::ProvenanceLost,
            Signal::ProvenanceDropped,
            Signal::ProvenanceRepositoryChanged,
            Signal::ProvenanceWorkflowChanged,
        ],
        _ => &[],
    };
    signals.iter().copied().collect()
}

/// Returns what identifies the release line of a version: its major version, or major and minor below 1.0.0.
fn release_line(version: &Version) -> (u64, u64) {
    let semver::Version { major, minor, .. } = version.parsed;
    if major == 0 { (0, minor) } else { (major, 0) }
}

/// Lists names in order; further ones are counted.
fn list(names: &BTreeSet<&str>) -> String {
    let mut text = names.iter().take(MAX_LISTED).copied().collect::<Vec<_>>().join(", ");
    if names.len() > MAX_LISTED {
        let _ = write!(text, " and {} more", names.len() - MAX_LISTED);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::npm::PackageName;
    use crate::npm::packument::parse;

    const DAY: i64 = 24 * 3600;
    const HOUR: i64 = 3600;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_774_915_200 + seconds).unwrap()
    }

    /// A version, its publish time relative to the attack, and more members of its manifest.
    type Release<'r> = (&'r str, i64, &'r str);

    /// Returns a packument of releases without provenance.
    fn packument(releases: &[Release<'_>]) -> Packument {
        let members = |more: &str| format!(r#","dist":{{"tarball":"x","signatures":[]}}{more}"#);
        packument_of(&releases.iter().map(|(version, published, more)| (*version, *published, members(more))).collect::<Vec<_>>())
    }

    /// Returns the report on the last of `releases`, a day after it was published.
    fn report(releases: &[Release<'_>]) -> SignalReport {
        let packument = packument(releases);
        let dated = dated(&packument);
        let last = dated.last().unwrap();
        let now = last.effective + jiff::SignedDuration::from_secs(DAY);
        let comparison = Comparison::new(&dated, &[], &packument, BASELINE_AGE, now);
        comparison.compare(last, |_| false)
    }

    fn signals(releases: &[Release<'_>]) -> Vec<&'static str> {
        report(releases).signals.iter().map(Signal::as_str).collect()
    }

    const CI: &str = r#","gitHead":"c0ffee","_npmUser":{"name":"GitHub Actions","email":"ci@x","trustedPublisher":{"id":"github"}},
        "maintainers":[{"name":"jasonsaayman"}],"dependencies":{"follow-redirects":"1","form-data":"4","proxy-from-env":"1"}"#;

    /// The members of a CI release, with provenance.
    fn from_ci(more: &str) -> String {
        format!(r#"{CI},"x":1,"dist":{{"tarball":"x","signatures":[],"attestations":{{"url":"u"}}}}{more}"#)
    }

    /// Returns a packument of releases with all their members.
    fn packument_of(releases: &[(&str, i64, String)]) -> Packument {
        let (mut versions, mut times) = (String::new(), String::new());
        for (version, published, members) in releases {
            let comma = if versions.is_empty() { "" } else { "," };
            let _ = write!(versions, r#"{comma}"{version}":{{"name":"axios","version":"{version}"{members}}}"#);
            let _ = write!(times, r#"{comma}"{version}":"{}""#, at(*published));
        }
        let document = format!(r#"{{"name":"axios","versions":{{{versions}}},"time":{{{times}}}}}"#);
        parse::parse(&PackageName::parse("axios").unwrap(), document.as_bytes()).unwrap().packument
    }

    /// Four releases from CI, and the two of 2026-03-31 by hand, 39 minutes apart, with one more dependency.
    fn axios() -> Packument {
        let by_hand = r#","_npmUser":{"name":"jasonsaayman","email":"x@proton.example"},"maintainers":[{"name":"jasonsaayman"}],
            "dist":{"tarball":"x","signatures":[]},
            "dependencies":{"follow-redirects":"1","form-data":"4","proxy-from-env":"1","plain-crypto-js":"^4.2.1"}"#;
        packument_of(&[
            ("0.30.2", -200 * DAY, from_ci("")),
            ("1.12.0", -190 * DAY, from_ci("")),
            ("0.30.3", -100 * DAY, from_ci("")),
            ("1.14.0", -60 * DAY, from_ci("")),
            ("1.14.1", 0, by_hand.to_owned()),
            ("0.30.4", 39 * 60, by_hand.to_owned()),
        ])
    }

    fn dated(packument: &Packument) -> Vec<DatedRelease<'_>> {
        let release =
            |entry| DatedRelease { entry, effective: Option::unwrap(entry.published), is_sound: true, accepted: Signals::NONE };
        packument.entries.iter().map(release).collect()
    }

    #[test]
    fn axios_shows_its_signals_on_both_lines() {
        let packument = axios();
        let dated = dated(&packument);
        let comparison = Comparison::new(&dated, &[], &packument, BASELINE_AGE, at(HOUR));
        for release in &dated[4..] {
            let report = comparison.compare(release, |_| false);
            let found: Vec<_> = report.signals.iter().map(Signal::as_str).collect();
            let expected =
                ["provenance-lost", "trusted-publisher-lost", "new-publisher", "new-dependency", "release-burst", "commit-lost"];
            assert_eq!(found, expected, "{}", release.entry.key);
            assert_eq!(report.new_dependencies, ["plain-crypto-js".into()]);
            let burst = report.evidence.iter().find(|evidence| evidence.signal == Signal::ReleaseBurst).unwrap();
            assert!(burst.new.ends_with("of another line within an hour"), "{}", burst.new);
        }
    }

    #[test]
    fn attackers_own_last_release_is_no_baseline() {
        let mut releases: Vec<(&str, i64, &str)> = vec![("1.0.0", -400 * DAY, ""), ("1.1.0", -300 * DAY, "")];
        let script = r#","scripts":{"postinstall":"node setup.js"}"#;
        releases.push(("1.1.1", -5 * DAY, script));
        releases.push(("1.1.2", 0, script));
        assert_eq!(signals(&releases), ["first-install-script"]);
        // Past the window, the script is known.
        releases[2].1 = -40 * DAY;
        assert_eq!(signals(&releases), [""; 0]);
    }

    #[test]
    fn unsound_release_is_no_baseline() {
        let script = r#","scripts":{"postinstall":"x"}"#;
        let packument = packument(&[("1.0.0", -400 * DAY, ""), ("1.0.1", -60 * DAY, script), ("1.0.2", 0, script)]);
        let mut dated = dated(&packument);
        dated[1].is_sound = false;
        let comparison = Comparison::new(&dated, &[], &packument, BASELINE_AGE, at(HOUR));
        assert_eq!(comparison.compare(&dated[2], |_| false).signals.iter().next(), Some(Signal::FirstInstallScript));
    }

    #[test]
    fn accepted_signal_is_a_precedent_for_later_releases_only() {
        let script = r#","scripts":{"postinstall":"x"},"dependencies":{"a":"git+https://h.example/a.git"}"#;
        let packument = packument(&[("1.0.0", -400 * DAY, ""), ("1.1.0", -2 * DAY, script), ("1.1.1", 0, script)]);
        let mut dated = dated(&packument);
        dated[1].accepted = Signal::FirstInstallScript.into();
        let comparison = Comparison::new(&dated, &[], &packument, BASELINE_AGE, at(HOUR));
        let found = |at: usize| comparison.compare(&dated[at], |_| false).signals;
        assert!(found(1).contains(Signal::FirstInstallScript) && !found(2).contains(Signal::FirstInstallScript));
        assert!(found(2).contains(Signal::RemoteDependencyAdded), "only the named signal is accepted");
    }

    #[test]
    fn unpublished_release_still_counts_as_part_of_a_burst() {
        let packument = packument(&[("1.14.0", -60 * DAY, ""), ("1.14.1", 0, "")]);
        let dated = dated(&packument);
        let departed = [DepartedRelease { version: "0.30.4", effective: at(39 * 60) }];
        let found = |departed: &[DepartedRelease<'_>]| {
            let comparison = Comparison::new(&dated, departed, &packument, BASELINE_AGE, at(HOUR));
            comparison.compare(&dated[1], |_| false).signals.contains(Signal::ReleaseBurst)
        };
        assert!(found(&departed) && !found(&[]));
    }

    #[test]
    fn execution_surface_that_no_release_had_is_strong() {
        let old = ("1.0.0", -100 * DAY, r#","dependencies":{"a":"1"}"#);
        for (more, signal) in [
            (r#","dependencies":{"a":"1"},"scripts":{"preinstall":"x"}"#, "first-install-script"),
            (r#","dependencies":{"a":"1"},"hasInstallScript":true"#, "first-install-script"),
            (r#","dependencies":{"a":"1"},"gypfile":true"#, "binding-gyp-added"),
            (r#","dependencies":{"a":"git+https://h.example/a.git"}"#, "remote-dependency-added"),
            (r#","optionalDependencies":{"a":"github:o/r#c"}"#, "remote-dependency-added"),
            (r#","dependencies":{"a":"http://h.example/a.tgz"}"#, "remote-dependency-added"),
            (r#","dependencies":{"a":"file:../a"}"#, "remote-dependency-added"),
        ] {
            assert_eq!(signals(&[old, ("1.0.1", 0, more)]), [signal], "{more}");
        }
    }

    #[test]
    fn provenance_of_some_releases_only_is_weak() {
        let by_hand = r#","_npmUser":{"name":"GitHub Actions"},"dist":{"tarball":"x","signatures":[]}"#;
        let packument = packument_of(&[
            ("1.0.0", -90 * DAY, by_hand.to_owned()),
            ("1.0.1", -80 * DAY, from_ci("")),
            ("1.0.2", -70 * DAY, from_ci("")),
            ("1.0.3", -60 * DAY, from_ci("")),
            ("1.0.4", 0, by_hand.to_owned()),
        ]);
        let dated = dated(&packument);
        let comparison = Comparison::new(&dated, &[], &packument, BASELINE_AGE, at(HOUR));
        let report = comparison.compare(&dated[4], |_| false);
        let found: Vec<_> = report.signals.iter().map(Signal::as_str).collect();
        assert_eq!(found, ["provenance-dropped", "ci-to-human", "commit-lost"]);
        assert!(report.signals.and(Signals::of_strength(crate::vetting::SignalStrength::Strong)).is_empty());
    }

    #[test]
    fn weak_signals_name_what_changed() {
        let ada = r#","_npmUser":{"name":"ada","email":"ada@x.example"},"maintainers":[{"name":"ada"}],"repository":"o/r","bin":"a.js""#;
        let old = ("1.0.0", -100 * DAY, ada);
        let cases = [
            (ada.replace("\"ada@x", "\"eve@x"), "publisher-email-changed"),
            (ada.replace(r#"[{"name":"ada"}]"#, r#"[{"name":"ada"},{"name":"eve"}]"#), "maintainers-changed"),
            (ada.replace(r#""o/r""#, r#""eve/r""#), "repository-changed"),
            (ada.replace(r#""bin":"a.js""#, r#""bin":{"b":"a.js"}"#), "bin-added"),
            (format!(r#"{ada},"_hasShrinkwrap":true"#), "shrinkwrap-added"),
            (format!(r#"{ada},"deprecated":"published with a compromised key""#), "deprecated-young"),
        ];
        for (more, signal) in &cases {
            assert_eq!(signals(&[old, ("1.0.1", 0, more)]), [*signal], "{more}");
        }
        assert_eq!(signals(&[old, ("99.0.0", 0, ada)]), ["version-jump"]);
        assert_eq!(signals(&[("1.0.0", -400 * DAY, ada), ("1.0.1", 0, ada)]), ["dormant"]);
        let eve = ada.replace(r#""name":"ada","email""#, r#""name":"eve","email""#);
        assert_eq!(signals(&[old, ("1.0.1", 0, &eve)]), ["new-publisher"]);
    }

    /// Returns twelve monthly releases that end `last` days before the attack.
    fn monthly(last: i64) -> Vec<(String, i64)> {
        (0..12).map(|month| (format!("1.0.{month}"), (-last - 30 * (11 - month)) * DAY)).collect()
    }

    #[test]
    fn unusual_pause_counts_for_all_releases_after_it() {
        let found = |last: i64| {
            let mut releases = monthly(last);
            releases.extend([("1.1.0".to_owned(), -2 * DAY), ("1.1.1".to_owned(), 0)]);
            signals(&releases.iter().map(|(version, at)| (version.as_str(), *at, "")).collect::<Vec<_>>())
        };
        assert_eq!(found(200), ["off-rhythm"]);
        assert_eq!(found(100), [""; 0], "three times the usual pause");
        assert_eq!(found(400), ["dormant"]);
    }

    #[test]
    fn many_releases_of_a_line_within_a_day_are_off_rhythm() {
        let found = |count: i64| {
            let mut releases = monthly(40);
            releases.extend((0..count).map(|number| (format!("1.1.{number}"), number * HOUR)));
            signals(&releases.iter().map(|(version, at)| (version.as_str(), *at, "")).collect::<Vec<_>>())
        };
        assert_eq!((found(3), found(4)), (vec![], vec!["off-rhythm"]));
    }

    #[test]
    fn typosquat_as_a_new_dependency_is_a_signal() {
        let found = |name: &str| {
            let more = format!(r#","dependencies":{{"{name}":"1"}}"#);
            signals(&[("1.0.0", -100 * DAY, ""), ("1.0.1", 0, &more)])
        };
        assert_eq!(found("lodahs"), ["new-dependency", "lookalike-name"]);
        assert_eq!(found("lodash"), ["new-dependency"]);
    }

    #[test]
    fn size_jump_needs_factor_and_growth() {
        let sized = |bytes: u64| format!(r#","dist":{{"tarball":"x","signatures":[],"unpackedSize":{bytes}}}"#);
        let found = |old: u64, new: u64| {
            let packument = packument_of(&[("1.0.0", -100 * DAY, sized(old)), ("1.0.1", 0, sized(new))]);
            let dated = dated(&packument);
            let comparison = Comparison::new(&dated, &[], &packument, BASELINE_AGE, at(HOUR));
            !comparison.compare(&dated[1], |_| false).signals.is_empty()
        };
        assert!(found(100_000, 10_000_000) && found(50_000, 150_000));
        assert!(!found(1_000, 90_000) && !found(100_000, 299_999) && !found(0, 1 << 40));
    }

    #[test]
    fn without_a_baseline_or_publishers_signals_are_unobservable() {
        let first = report(&[("1.0.0", 0, "")]);
        assert!(first.signals.is_empty() && first.unobservable.count() as usize == Signal::ALL.len() - 2);
        let second = report(&[("1.0.0", -100 * DAY, ""), ("1.0.1", 0, "")]);
        let hidden: Vec<_> = second.unobservable.iter().map(Signal::as_str).collect();
        let publishers =
            ["trusted-publisher-lost", "ci-to-human", "new-publisher", "publisher-email-changed", "maintainers-changed"];
        assert_eq!(hidden, publishers);
    }

    #[test]
    fn subpackages_are_no_new_dependencies() {
        let packument = packument(&[("1.0.0", -100 * DAY, ""), ("1.0.1", 0, r#","optionalDependencies":{"@axios/x":"1.0.1"}"#)]);
        let dated = dated(&packument);
        let comparison = Comparison::new(&dated, &[], &packument, BASELINE_AGE, at(HOUR));
        assert!(comparison.compare(&dated[1], |name| name == "@axios/x").signals.is_empty());
        assert_eq!(comparison.compare(&dated[1], |_| false).new_dependencies.len(), 1);
    }

    #[test]
    fn hostile_names_are_escaped_and_shortened_in_evidence() {
        let eve = format!(r#","_npmUser":{{"name":"eve\u001b[2J\nok{}"}}"#, "x".repeat(100_000));
        let report = report(&[("1.0.0", -100 * DAY, r#","_npmUser":{"name":"ada"}"#), ("1.0.1", 0, &eve)]);
        let new = &report.evidence[0].new;
        assert!(!new.contains(['\u{1b}', '\n']) && new.chars().count() == MAX_EVIDENCE_CHARS + 3, "{new}");
    }
}
