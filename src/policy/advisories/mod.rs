//! Immutable index of advisories by package.
//!
//! Look up the package once per packument, restrict the result with the package's versions (the guard against records that are
//! too broad), then call [`ApplicableAdvisories::matching`] for each version.

mod advisory;
pub mod affected;
pub mod cvss;
pub mod index;
pub mod indicators;
mod record;

pub use advisory::Advisory;
pub(crate) use index::DigestHead;
pub use record::{AdvisoryKind, AdvisoryRecord, FeedTrust, Severity};

use core::net::IpAddr;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::npm::{Digest, Integrity, Version};
use crate::policy::advisories::index::FeedAdvisories;
use crate::policy::advisories::indicators::IndicatorMatch;
use crate::units::timestamp;
use crate::vetting::FindingEvidence;

/// Minimum number of unlisted versions of an established package. A dated record that covers every version of an established
/// package does not apply to its old versions.
pub const ESTABLISHED_VERSIONS: usize = 10;

/// Minimum time between the first and the last of these versions.
pub const ESTABLISHED_SPREAD: SignedDuration = SignedDuration::from_hours(365 * 24);

/// How long before the record these versions must have existed. An attacker can publish versions after it.
pub const ESTABLISHED_BEFORE: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long before the record a version must have existed to be spared. Versions from a takeover are younger.
pub const SPARED_BEFORE: Duration = Duration::from_secs(90 * 24 * 3600);

/// All advisories of all feeds. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Advisories {
    feeds: Arc<[Arc<FeedAdvisories>]>,
    lacking: Option<Arc<str>>,
    rulings: Arc<[(Box<str>, Ruling)]>,
}

/// An operator's decision about an advisory that covers every version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ruling {
    /// The advisory applies to all versions.
    Obeyed,
    /// The advisory applies to listed versions only.
    SetAside,
}

impl Advisories {
    pub fn of_feeds(feeds: Vec<Arc<FeedAdvisories>>) -> Self {
        Self { feeds: feeds.into(), lacking: None, rulings: Arc::default() }
    }

    /// Sets the name of a required feed that is missing. Every version is refused then.
    #[must_use]
    pub(crate) fn lacking(self, feed: Option<&str>) -> Self {
        Self { lacking: feed.map(Into::into), ..self }
    }

    /// Sets the rulings of operators by advisory id. Of two rulings, the later one wins.
    #[must_use]
    pub(crate) fn ruled(self, rulings: &[(Box<str>, Ruling)]) -> Self {
        Self { rulings: rulings.into(), ..self }
    }

    pub fn feeds(&self) -> &[Arc<FeedAdvisories>] {
        &self.feeds
    }

    /// Returns the advisories on the package with exactly this name. Does one lookup per feed, without allocation if nothing is
    /// found.
    pub fn of(&self, name: &str) -> PackageAdvisories<'_> {
        let mut found = Vec::new();
        for index in self.feeds.iter() {
            found.extend(index.of(name).iter().map(|row| Advisory::new(index, row)));
        }
        PackageAdvisories { found, feeds: &self.feeds, lacking: self.lacking.as_deref(), rulings: &self.rulings }
    }

    /// Finds an indicator for a host: an address, or a name in lower case without a trailing dot. An indicator also covers
    /// subdomains. If several feeds match, returns the one with the strictest trust level.
    pub(crate) fn match_indicator(&self, host: &str) -> Option<IndicatorMatch<'_>> {
        let is_address = host.parse::<IpAddr>().is_ok();
        let spellings = || {
            let parents = std::iter::successors(Some(host), |name| name.split_once('.').map(|(_, rest)| rest));
            // A suffix of a name is never an address.
            let is_meant = move |name: &&str| is_address || (name.contains('.') && name.parse::<IpAddr>().is_err());
            parents.take(if is_address { 1 } else { usize::MAX }).filter(is_meant)
        };
        let found = self.feeds.iter().filter_map(|feed| spellings().find_map(|spelling| feed.find_indicator(spelling)));
        // On a tie the first feed wins.
        found.min_by_key(|found| found.trust)
    }

    /// Returns the malware advisories that list a digest of these bytes, at most one per feed, whatever package they are about.
    pub(crate) fn listing<'s>(&'s self, digests: &'s Integrity) -> impl Iterator<Item = Advisory<'s>> {
        listing(&self.feeds, Some(digests))
    }

    /// Checks whether a malware record lists one of these digests of a tarball.
    pub(crate) fn lists_any(&self, digests: &Integrity) -> bool {
        self.listing(digests).next().is_some()
    }

    /// Checks whether any record lists the digest of a tarball.
    pub(crate) fn lists_tarballs(&self) -> bool {
        self.feeds.iter().any(|feed| feed.digests.has_tarballs())
    }

    /// Checks whether a record lists the SHA-1 of a file.
    pub(crate) fn lists_sha1_of_files(&self) -> bool {
        self.denying().any(|feed| feed.digests.has_sha1_of_files)
    }

    /// Returns the malware advisories that list a file with this digest, from feeds with trust `deny`.
    pub(crate) fn listing_file<'s>(&'s self, digest: &'s Digest) -> impl Iterator<Item = Advisory<'s>> {
        self.denying().filter_map(move |feed| feed.find_file(digest).map(|row| Advisory::new(feed, row)))
    }

    /// Checks whether evidence that was recorded before still counts: what a feed listed may have been withdrawn.
    pub(crate) fn still_lists(&self, evidence: &FindingEvidence) -> bool {
        evidence.listed_file().is_none_or(|digest| self.listing_file(&digest).next().is_some())
    }

    /// Checks whether a file may be listed whose digest begins so.
    pub(crate) fn may_list_file(&self, head: DigestHead) -> bool {
        self.denying().any(|feed| feed.digests.may_have_file(head))
    }

    /// Returns a number that changes with the files that [`Self::listing_file`] knows.
    pub(crate) fn files_revision(&self) -> u64 {
        // Two feeds that list the same files must not cancel each other out.
        self.denying().fold(0, |revision, feed| revision.wrapping_mul(31).wrapping_add(feed.digests.files_revision))
    }

    fn denying(&self) -> impl Iterator<Item = &FeedAdvisories> {
        self.feeds.iter().map(|feed| &**feed).filter(|feed| feed.trust == FeedTrust::Deny)
    }

    /// Returns the advisories with this id or alias, one per package. Scans the whole index.
    pub(crate) fn with_id<'a>(&'a self, id: &'a str) -> impl Iterator<Item = Advisory<'a>> {
        self.iter().filter(move |advisory| advisory.is_called(id))
    }

    pub fn iter(&self) -> impl Iterator<Item = Advisory<'_>> {
        self.feeds.iter().flat_map(|index| index.rows.iter().map(|row| Advisory::new(index, row)))
    }

    /// Checks whether any advisory is about a vulnerability. Malware feeds alone cannot answer an audit.
    pub(crate) fn has_vulnerabilities(&self) -> bool {
        self.feeds.iter().any(|index| index.has_vulnerabilities)
    }

    /// Returns the number of advisories. A record on two packages counts twice.
    pub fn count(&self) -> usize {
        self.feeds.iter().map(|index| index.rows.len()).sum()
    }
}

#[derive(Debug, Clone)]
pub struct PackageAdvisories<'a> {
    found: Vec<Advisory<'a>>,
    feeds: &'a [Arc<FeedAdvisories>],
    lacking: Option<&'a str>,
    rulings: &'a [(Box<str>, Ruling)],
}

impl<'a> PackageAdvisories<'a> {
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = Advisory<'a>> {
        self.found.iter().copied()
    }

    /// Checks whether any advisory covers every version. Only then the versions of the package are needed.
    pub(crate) fn has_wholesale(&self) -> bool {
        self.found.iter().any(|advisory| advisory.affects_every_version())
    }

    /// Returns the advisories that apply, given all versions of the packument with their effective publish times. A dated record
    /// that covers every version of an established package applies to listed and young versions only.
    pub fn applicable_to<'k>(
        self,
        versions: impl Iterator<Item = (&'k str, Option<&'k Version>, Timestamp)>,
    ) -> ApplicableAdvisories<'a> {
        let versions: Vec<_> = if self.has_wholesale() { versions.collect() } else { Vec::new() };
        let advisories = self.found.iter().map(|advisory| (*advisory, self.spared(*advisory, &versions))).collect();
        ApplicableAdvisories { advisories, feeds: self.feeds, lacking: self.lacking }
    }

    /// Returns the versions that a record covers but does not apply to.
    fn spared(&self, advisory: Advisory<'a>, versions: &[(&str, Option<&Version>, Timestamp)]) -> SparedVersions {
        if !advisory.affects_every_version() {
            return SparedVersions::None;
        }
        let ruling = self.rulings.iter().rev().find(|(id, _)| advisory.is_called(id)).map(|(_, ruling)| *ruling);
        let since = match (ruling, advisory.known_since) {
            (Some(Ruling::SetAside), _) => return SparedVersions::Unlisted,
            (Some(Ruling::Obeyed), _) | (None, None) => return SparedVersions::None,
            (None, Some(since)) => since,
        };
        let unlisted = || versions.iter().filter(|(key, version, _)| !advisory.names(key, *version));
        let until = |before: Duration| timestamp::saturating_sub(since, before);
        let settled = unlisted().map(|(_, _, effective)| *effective).filter(|effective| *effective <= until(ESTABLISHED_BEFORE));
        let (mut count, mut first, mut last) = (0, Timestamp::MAX, Timestamp::MIN);
        for effective in settled {
            (count, first, last) = (count + 1, first.min(effective), last.max(effective));
        }
        if count < ESTABLISHED_VERSIONS || last.duration_since(first) < ESTABLISHED_SPREAD {
            return SparedVersions::None;
        }
        let old = unlisted().filter(|(_, _, effective)| *effective <= until(SPARED_BEFORE));
        SparedVersions::Versions(old.map(|(key, ..)| Box::from(*key)).collect())
    }
}

/// The versions to which a record that covers every version does not apply.
#[derive(Debug, Clone, PartialEq, Eq)]
enum SparedVersions {
    None,
    /// These versions, until an operator decides.
    Versions(HashSet<Box<str>>),
    Unlisted,
}

impl SparedVersions {
    fn has(&self, key: &str) -> bool {
        match self {
            Self::None => false,
            Self::Versions(keys) => keys.contains(key),
            Self::Unlisted => true,
        }
    }
}

#[derive(Debug, Clone, Default)]
pub struct ApplicableAdvisories<'a> {
    advisories: Vec<(Advisory<'a>, SparedVersions)>,
    feeds: &'a [Arc<FeedAdvisories>],
    /// The required feed that is missing, if any.
    pub(crate) lacking: Option<&'a str>,
}

pub static NO_ADVISORIES: ApplicableAdvisories<'static> =
    ApplicableAdvisories { advisories: Vec::new(), feeds: &[], lacking: None };

impl<'a> ApplicableAdvisories<'a> {
    /// Returns the advisories that apply to a version, in the order of the feeds. `version` is the parsed `key`.
    pub fn matching<'s>(
        &'s self,
        key: &'s str,
        version: Option<&'s Version>,
    ) -> impl Iterator<Item = Advisory<'a>> + use<'s, 'a> {
        let affects = move |(advisory, spared): &(Advisory<'a>, SparedVersions)| {
            if spared.has(key) { advisory.names(key, version) } else { advisory.affects(key, version) }
        };
        self.advisories.iter().filter(move |entry| affects(entry)).map(|(advisory, _)| *advisory)
    }

    /// Returns the malware advisories that list a digest of these bytes, whatever package they are about.
    pub(crate) fn listing<'s>(&'s self, integrity: Option<&'s Integrity>) -> impl Iterator<Item = Advisory<'a>> + use<'s, 'a> {
        listing(self.feeds, integrity)
    }

    /// Returns the advisories that cover every version of an established package and have no ruling yet.
    pub(crate) fn overbroad(&self) -> impl Iterator<Item = Advisory<'a>> {
        self.advisories.iter().filter(|(_, spared)| matches!(spared, SparedVersions::Versions(_))).map(|(advisory, _)| *advisory)
    }

    /// Returns the advisories that affect a version but do not apply to it, because they are too broad.
    pub(crate) fn suppressed<'s>(
        &'s self,
        key: &'s str,
        version: Option<&'s Version>,
    ) -> impl Iterator<Item = Advisory<'a>> + use<'s, 'a> {
        let aside = self.advisories.iter().filter(move |(_, spared)| spared.has(key)).map(|(advisory, _)| *advisory);
        aside.filter(move |advisory| advisory.affects(key, version) && !advisory.names(key, version))
    }

    /// Returns the advisories that name exactly this version as fixed.
    pub(crate) fn fixed_in<'s>(&'s self, version: &'s Version) -> impl Iterator<Item = Advisory<'a>> + use<'s, 'a> {
        let names = |advisory: &Advisory<'_>| advisory.fixed_versions().any(|end| end.as_str() == version.as_str());
        self.advisories.iter().map(|(advisory, _)| *advisory).filter(names)
    }
}

/// Returns the malware advisories that list one of these digests, at most one per feed.
fn listing<'s, 'a>(
    feeds: &'a [Arc<FeedAdvisories>],
    integrity: Option<&'s Integrity>,
) -> impl Iterator<Item = Advisory<'a>> + use<'s, 'a> {
    let digests = move || integrity.into_iter().flat_map(Integrity::digests);
    let of_feed = move |feed: &'a Arc<FeedAdvisories>| {
        digests().find_map(|digest| feed.find_digest(digest)).map(|row| Advisory::new(feed, row))
    };
    feeds.iter().filter_map(of_feed)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::npm::Algorithm;
    use crate::policy::advisories::affected::{AffectedRange, RangeEvent};
    use crate::policy::advisories::index::FeedIndexBuilder;

    fn record(id: &str, package: &str, versions: &[&str], introduced: &[&str]) -> AdvisoryRecord {
        let events = |from: &&str| AffectedRange::from_events(&[RangeEvent::Introduced((*from).into())]).0;
        AdvisoryRecord {
            id: id.into(),
            aliases: vec!["GHSA-1".into()],
            package: package.into(),
            versions: versions.iter().map(|version| (*version).into()).collect(),
            spans: introduced.iter().flat_map(events).collect(),
            ..AdvisoryRecord::default()
        }
    }

    fn index(records: &[AdvisoryRecord]) -> Advisories {
        let mut builder = FeedIndexBuilder::default();
        assert!(records.iter().all(|record| builder.add(record)));
        Advisories::of_feeds(vec![Arc::new(builder.build("osv", FeedTrust::Deny))])
    }

    fn matching(advisories: &Advisories, name: &str, wanted: &str, all: &[&str]) -> Vec<String> {
        let all: Vec<_> = all.iter().map(|text| (*text, 0)).collect();
        matching_aged(advisories, name, wanted, &all)
    }

    /// Like [`matching`], with versions that existed the given number of days before the record was known.
    fn matching_aged(advisories: &Advisories, name: &str, wanted: &str, all: &[(&str, i64)]) -> Vec<String> {
        let parsed: Vec<_> = all.iter().map(|(text, days)| (Version::parse(text).unwrap(), days_before(*days))).collect();
        let among = parsed.iter().map(|(version, effective)| (version.as_str(), Some(version), *effective));
        let among = advisories.of(name).applicable_to(among);
        let wanted = Version::parse(wanted).unwrap();
        among.matching(wanted.as_str(), Some(&wanted)).map(|advisory| advisory.id.to_owned()).collect()
    }

    fn known() -> Timestamp {
        Timestamp::from_second(1_780_000_000).unwrap()
    }

    fn days_before(days: i64) -> Timestamp {
        known() - SignedDuration::from_hours(days * 24)
    }

    #[test]
    fn version_is_affected_if_listed_or_in_a_range() {
        let held = index(&[
            record("MAL-1", "axios", &["1.14.1", "0.30.4"], &[]),
            record("MAL-2", "axios", &[], &["2.0.0"]),
            record("MAL-3", "JSONStream", &[], &["0"]),
        ]);
        assert_eq!(matching(&held, "axios", "1.14.1", &["1.14.1"]), ["MAL-1"]);
        assert_eq!(matching(&held, "axios", "1.14.0", &["1.14.0"]), [""; 0]);
        assert_eq!(matching(&held, "axios", "2.1.0", &["2.1.0"]), ["MAL-2"]);
        assert_eq!(matching(&held, "JSONStream", "1.0.0", &["1.0.0"]), ["MAL-3"]);
        assert!(held.of("jsonstream").is_empty() && held.of("").is_empty() && Advisories::default().of("axios").is_empty());
        assert_eq!((held.count(), held.feeds()[0].packages(), held.with_id("GHSA-1").count()), (3, 2, 3));
    }

    /// Returns eleven versions. The first is `first` days older than the record, and each is `step` days newer than the one
    /// before.
    fn eleven(first: i64, step: i64) -> Vec<(String, i64)> {
        (0..11).map(|patch| (format!("1.0.{patch}"), first - patch * step)).collect()
    }

    fn refused(advisories: &Advisories, wanted: &str, versions: &[(String, i64)]) -> bool {
        let versions: Vec<_> = versions.iter().map(|(version, days)| (&**version, *days)).collect();
        !matching_aged(advisories, "axios", wanted, &versions).is_empty()
    }

    fn broad(known_since: Option<Timestamp>) -> AdvisoryRecord {
        AdvisoryRecord { known_since, ..record("MAL-1", "axios", &["1.0.3"], &["0"]) }
    }

    #[test]
    fn dated_record_on_every_version_of_an_established_package_spares_old_versions() {
        let held = index(&[broad(Some(known()))]);
        let versions = eleven(500, 42);
        assert!(refused(&held, "1.0.3", &versions), "it is listed");
        assert!(!refused(&held, "1.0.4", &versions));
        assert!(!refused(&held, "1.0.9", &versions), "122 days before");
        assert!(refused(&held, "1.0.10", &versions), "80 days before");
        assert!(refused(&held, "9.9.9", &versions), "an unknown version");
        assert!(refused(&held, "1.0.4", &eleven(500, 42)[..10]), "nine unlisted versions");
        assert!(refused(&held, "1.0.4", &eleven(380, 36)), "ten within less than a year");
        assert!(refused(&held, "1.0.4", &eleven(440, 42)), "the tenth is 20 days old");
    }

    #[test]
    fn publishing_more_versions_never_escapes_a_record() {
        let held = index(&[broad(Some(known()))]);
        let mut versions = eleven(500, 42)[..9].to_vec();
        assert!(refused(&held, "1.0.0", &versions));
        // Published in advance on one day, or after the record is known.
        for days in [40, 20, -1] {
            versions.extend((0..20).map(|patch| (format!("2.{}.{patch}", days + 1), days)));
            assert!(versions.iter().filter(|(version, _)| version.starts_with('2')).all(|(v, _)| refused(&held, v, &versions)));
        }
        let junk: Vec<_> = (0..20).map(|patch| (format!("3.0.{patch}"), 40)).collect();
        assert!(junk.iter().all(|(version, _)| refused(&held, version, &junk)));
    }

    #[test]
    fn undated_record_applies_to_all_versions_and_rulings_override_dated_ones() {
        let versions = eleven(500, 42);
        assert!(refused(&index(&[broad(None)]), "1.0.4", &versions));
        let held = index(&[broad(Some(known()))]);
        let ruled = |ruling| held.clone().ruled(&[("MAL-1".into(), Ruling::SetAside), ("GHSA-1".into(), ruling)]);
        assert!(refused(&ruled(Ruling::Obeyed), "1.0.4", &versions));
        let aside = ruled(Ruling::SetAside);
        assert!(
            !refused(&aside, "1.0.10", &versions) && !refused(&aside, "9.9.9", &versions) && refused(&aside, "1.0.3", &versions)
        );
        let open = |advisories: &Advisories| {
            let parsed: Vec<_> =
                versions.iter().map(|(text, days)| (Version::parse(text).unwrap(), days_before(*days))).collect();
            let dated = parsed.iter().map(|(version, effective)| (version.as_str(), Some(version), *effective));
            advisories.of("axios").applicable_to(dated).overbroad().count()
        };
        assert_eq!((open(&held), open(&aside), open(&ruled(Ruling::Obeyed))), (1, 0, 0));
    }

    #[test]
    fn later_record_with_the_same_id_wins() {
        let held = index(&[record("MAL-1", "axios", &["1.0.0"], &[]), record("MAL-1", "axios", &["2.0.0"], &[])]);
        assert_eq!(held.count(), 1);
        assert_eq!(matching(&held, "axios", "1.0.0", &["1.0.0"]), [""; 0]);
        assert_eq!(matching(&held, "axios", "2.0.0", &["2.0.0"]), ["MAL-1"]);
    }

    #[test]
    fn revision_of_listed_files_differs_from_none_if_two_feeds_list_the_same() {
        let digest = Digest::of(Algorithm::Sha1, b"file");
        let listing =
            AdvisoryRecord { indicators: vec![indicators::file_indicator(&digest).into()], ..record("MAL-1", "a", &[], &[]) };
        let feed = index(&[listing]).feeds()[0].clone();
        let (one, two) = (Advisories::of_feeds(vec![Arc::clone(&feed)]), Advisories::of_feeds(vec![Arc::clone(&feed), feed]));
        assert!(one.files_revision() != 0 && two.files_revision() != 0 && one.files_revision() != two.files_revision());
        assert!(two.lists_sha1_of_files() && two.listing_file(&digest).count() == 2);
        assert!(two.may_list_file(*digest.as_bytes().first_chunk().unwrap()) && !two.lists_tarballs());
        assert_eq!(index(&[record("MAL-1", "a", &[], &[])]).files_revision(), 0);
    }

    #[test]
    fn all_names_in_a_full_table_are_found() {
        let records: Vec<_> = (0..5_000).map(|at| record(&format!("MAL-{at}"), &format!("p{at}"), &["1.0.0"], &[])).collect();
        let held = index(&records);
        let found =
            |at: usize| held.of(&format!("p{at}")).iter().map(|advisory| advisory.package().to_owned()).collect::<Vec<_>>();
        assert!((0..5_000).all(|at| found(at) == [format!("p{at}")]));
        assert!((5_000..6_000).all(|at| found(at).is_empty()));
    }
}
