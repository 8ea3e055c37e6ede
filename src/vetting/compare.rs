//! Compares a release with a baseline of earlier releases, from the packument alone. Pure.
//!
//! The baseline is what an attacker cannot have published this week: versions that are past the window. An attacker's own last
//! release is not in it, so 1.14.2 shows the same signals as 1.14.1.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::npm::Version;
use crate::npm::packument::index::{PackumentContents, VersionEntry};
use crate::text;
use crate::units::timestamp;
use crate::vetting::names::{Signal, Signals};

/// The shortest window: releases below this age are compared, and older ones form the baseline.
pub const BASELINE_AGE: Duration = Duration::from_secs(30 * 24 * 3600);

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

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

/// The longest text of a piece of evidence. A document may hold names of any length.
const MAX_EVIDENCE_CHARS: usize = 300;

/// Names listed in one piece of evidence; further ones are counted.
const MAX_LISTED: usize = 5;

/// One version with the time from which its age counts.
#[derive(Debug, Clone, Copy)]
pub struct DatedRelease<'a> {
    pub entry: &'a VersionEntry,
    pub effective: Timestamp,
    /// Whether it may be in a baseline: not if it is listed as malware, contradicts itself or changed its bytes.
    pub is_sound: bool,
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
    pub(crate) fn add(&mut self, signal: Signal, old: &str, new: &str) {
        self.signals = self.signals.or([signal].into_iter().collect());
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
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "the facts are independent")]
struct Precedents {
    install_script: bool,
    gyp: bool,
    git: bool,
    url: bool,
    file: bool,
    shrinkwrap: bool,
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

/// The releases of a package, prepared so that each comparison costs little even among 100,000 versions.
#[derive(Default)]
pub struct Comparison<'a> {
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
}

impl<'a> Comparison<'a> {
    /// Prepares the comparison of releases with the sound ones that are older than `window` at `now`.
    pub fn new(releases: &[DatedRelease<'a>], contents: PackumentContents, window: Duration, now: Timestamp) -> Self {
        let until = timestamp::saturating_sub(now, window);
        let mut baseline: Vec<_> =
            releases.iter().filter(|release| release.is_sound && release.effective <= until).copied().collect();
        baseline.sort_by_key(|release| release.effective);
        let mut comparison = Self { contents, bursts: bursts(releases), ..Self::default() };
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
        let (traits, seen) = (entry.traits, &mut self.precedents);
        seen.install_script |= traits.install_script;
        seen.gyp |= entry.outline.has_gyp;
        seen.git |= traits.git_dependency;
        seen.url |= traits.url_dependency;
        seen.file |= traits.file_dependency;
        seen.shrinkwrap |= entry.outline.has_shrinkwrap;
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
            // There is nothing to compare with. Rules on the age of the package cover new packages.
            report.unobservable = Signal::ALL.iter().copied().filter(|signal| *signal != Signal::DeprecatedYoung).collect();
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
        let (traits, seen) = (entry.traits, &self.precedents);
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
            if with == count && with >= MIN_CONSISTENT {
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

    /// Compares dependencies, commands and repository.
    fn compare_names(&self, entry: &VersionEntry, is_subpackage: impl Fn(&str) -> bool, report: &mut SignalReport) {
        let Some(shape) = &entry.outline.shape else {
            return report.add(Signal::NewDependency, "", "too many dependencies to compare");
        };
        let is_new = |name: &&Arc<str>| !self.known.dependencies.contains(&***name) && !is_subpackage(name);
        report.new_dependencies = shape.dependencies.iter().filter(is_new).cloned().collect();
        if !report.new_dependencies.is_empty() {
            let names = report.new_dependencies.iter().map(|name| &**name).collect();
            report.add(Signal::NewDependency, "no earlier release depends on it", &list(&names));
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
        let version = entry.version.as_ref()?;
        let among = if version.is_prerelease() || self.stable.is_empty() { &self.by_version } else { &self.stable };
        let above = among.partition_point(|(earlier, _)| *earlier < version);
        Some(among.get(above.checked_sub(1)?)?.1)
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

/// Returns the stable releases that were published within an hour of one of another line, each with that one.
fn bursts<'a>(releases: &[DatedRelease<'a>]) -> HashMap<&'a str, &'a str> {
    let mut stable: Vec<(Timestamp, (u64, u64), &'a str)> = releases
        .iter()
        .filter_map(|release| Some((release, release.entry.version.as_ref().filter(|version| !version.is_prerelease())?)))
        .map(|(release, version)| (release.effective, release_line(version), &*release.entry.key))
        .collect();
    stable.sort_unstable();
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
fn unobservable(contents: PackumentContents) -> Signals {
    let of_publishers = [
        Signal::NewPublisher,
        Signal::PublisherEmailChanged,
        Signal::MaintainersChanged,
        Signal::TrustedPublisherLost,
        Signal::CiToHuman,
    ];
    let of_signatures = [Signal::ProvenanceLost, Signal::ProvenanceDropped];
    let lacking = of_publishers.into_iter().filter(|_| !contents.has_publishers);
    lacking.chain(of_signatures.into_iter().filter(|_| !contents.has_signatures)).collect()
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
    use crate::npm::packument::parse;
    use crate::npm::{PackageName, Packument};

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
        let comparison = Comparison::new(&dated, packument.contents, BASELINE_AGE, now);
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
        let release = |entry| DatedRelease { entry, effective: Option::unwrap(entry.published), is_sound: true };
        packument.entries.iter().map(release).collect()
    }

    #[test]
    fn axios_shows_its_signals_on_both_lines() {
        let packument = axios();
        let dated = dated(&packument);
        let comparison = Comparison::new(&dated, packument.contents, BASELINE_AGE, at(HOUR));
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
        let comparison = Comparison::new(&dated, packument.contents, BASELINE_AGE, at(HOUR));
        assert_eq!(comparison.compare(&dated[2], |_| false).signals.iter().next(), Some(Signal::FirstInstallScript));
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
        let comparison = Comparison::new(&dated, packument.contents, BASELINE_AGE, at(HOUR));
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

    #[test]
    fn size_jump_needs_factor_and_growth() {
        let sized = |bytes: u64| format!(r#","dist":{{"tarball":"x","signatures":[],"unpackedSize":{bytes}}}"#);
        let found = |old: u64, new: u64| {
            let packument = packument_of(&[("1.0.0", -100 * DAY, sized(old)), ("1.0.1", 0, sized(new))]);
            let dated = dated(&packument);
            let comparison = Comparison::new(&dated, packument.contents, BASELINE_AGE, at(HOUR));
            !comparison.compare(&dated[1], |_| false).signals.is_empty()
        };
        assert!(found(100_000, 10_000_000) && found(50_000, 150_000));
        assert!(!found(1_000, 90_000) && !found(100_000, 299_999) && !found(0, 1 << 40));
    }

    #[test]
    fn without_a_baseline_or_publishers_signals_are_unobservable() {
        let first = report(&[("1.0.0", 0, "")]);
        assert!(first.signals.is_empty() && first.unobservable.count() as usize == Signal::ALL.len() - 1);
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
        let comparison = Comparison::new(&dated, packument.contents, BASELINE_AGE, at(HOUR));
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
