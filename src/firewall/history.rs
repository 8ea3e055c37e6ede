//! What the ledger remembers of a package, held against the packument upstream sends now: since when a release counts,
//! whether its bytes changed, what went. Pure; refuses to judge, and to read or write the ledger itself.

use std::collections::HashMap;

use jiff::Timestamp;

use crate::npm::packument::Entry;
use crate::npm::{Agreement, Form, Integrity, ManifestDigest, Packument};
use crate::store::{Document, LearnedDigests, PackageChange, PackageRecord, Release, TagSighting};

/// What the record adds to one entry of a packument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provenance {
    /// The effective publish time.
    pub effective: Timestamp,
    /// Whether this version was first seen with another integrity.
    pub integrity_changed: bool,
    /// Every digest that its bytes must match: what is stated now, was ever stated, and was computed of them.
    pub digests: Option<Integrity>,
}

/// What became of a package when its newest packument was held against its record.
#[derive(Debug, Default)]
pub struct Reconciled {
    /// One for each entry of the packument.
    pub provenance: Vec<Provenance>,
    /// What is to be written.
    pub change: PackageChange,
    /// What an operator must be able to find again.
    pub findings: Vec<Finding>,
}

/// Something that should not happen to a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// A version has another integrity than when it was first seen.
    IntegrityChanged {
        /// The version.
        version: Box<str>,
        /// As first seen.
        was: String,
        /// As it is now.
        now: String,
    },
    /// A version that was there is there no longer.
    Gone(Release),
}

/// Holds `packument`, which upstream confirmed at `seen` in `form`, against `record` and the `last` document before it.
#[must_use]
pub fn reconcile(
    record: &PackageRecord,
    last: Option<&Document>,
    packument: &Packument,
    form: Form,
    seen: Timestamp,
) -> Reconciled {
    let mut known: HashMap<&str, Vec<&Release>> = HashMap::with_capacity(record.releases.len());
    for release in &record.releases {
        known.entry(&release.version).or_default().push(release);
    }
    let absent_at = last.filter(|last| last.content.is_some()).map(|last| last.validated);
    let mut reconciled = Reconciled::default();
    reconciled.provenance.reserve(packument.entries.len());
    for entry in &packument.entries {
        let rows = known.remove(&*entry.key).unwrap_or_default();
        let manifest = ManifestDigest::new(entry.resolution, form, entry.traits.install_script);
        let provenance = trace(entry, manifest, &rows, absent_at, seen, &mut reconciled);
        reconciled.provenance.push(provenance);
    }
    let replaced = packument.is_security_placeholder();
    mark_gone(known.into_values().flatten(), last, replaced, &mut reconciled);
    follow_tags(record, last, packument, seen, &mut reconciled.change);
    reconciled
}

/// Marks every release as gone: upstream no longer has the package.
#[must_use]
pub fn vanish(record: &PackageRecord, last: &Document) -> Reconciled {
    let mut reconciled = Reconciled::default();
    mark_gone(record.releases.iter(), Some(last), false, &mut reconciled);
    reconciled
}

/// The release a version was first seen as: the first row that states an integrity.
///
/// A version that was seen without any before was never served, so the first statement is the one that counts.
#[must_use]
pub fn first_seen_as<'a>(rows: &[&'a Release]) -> Option<&'a Release> {
    rows.iter().copied().filter(|row| row.integrity.is_some()).min_by_key(|row| row.first_seen)
}

fn trace(
    entry: &Entry,
    manifest: ManifestDigest,
    rows: &[&Release],
    absent_at: Option<Timestamp>,
    seen: Timestamp,
    into: &mut Reconciled,
) -> Provenance {
    let first = first_seen_as(rows);
    let same = find_same(rows, first, entry.integrity.as_ref());
    let effective = match (same, rows.iter().copied().min_by_key(|row| row.first_seen)) {
        (Some(row), _) | (None, Some(row)) => row.effective,
        (None, None) => match (entry.published, absent_at) {
            (Some(published), Some(absent)) => published.max(absent),
            (Some(published), None) => published,
            (None, _) => seen,
        },
    };
    let changed = first.is_some_and(|first| !may_be_same(first, entry.integrity.as_ref()));
    let (manifest, manifest_changed) = follow_manifest(manifest, same, rows, seen);
    let digests = match (same.and_then(Release::known_digests), &entry.integrity) {
        (Some(known), Some(stated)) => known.union(stated).or_else(|| Some(stated.clone())),
        (known, stated) => stated.clone().or(known),
    };
    match same {
        Some(row) => {
            // It came back: it is not held again.
            let now = Release { gone: None, replaced: false, manifest: Some(manifest), manifest_changed, ..Release::clone(row) };
            if now != *row {
                into.change.releases.push(now);
            }
            if let Some(stated) = &entry.integrity
                && !row.known_digests().is_some_and(|known| stated.is_covered_by(&known))
            {
                let (version, integrity) = (row.version.clone(), row.integrity.clone());
                into.change.digests.push(LearnedDigests { version, integrity, digests: stated.clone() });
            }
        }
        None => {
            into.change.releases.push(Release {
                version: entry.key.clone(),
                integrity: entry.integrity.clone(),
                published: entry.published,
                effective,
                first_seen: seen,
                gone: None,
                replaced: false,
                digests: None,
                manifest: Some(manifest),
                manifest_changed,
            });
            if let Some(first) = first.filter(|_| changed) {
                into.findings.push(Finding::IntegrityChanged {
                    version: entry.key.clone(),
                    was: first.known_digests().as_ref().map(Integrity::to_sri).unwrap_or_default(),
                    now: entry.integrity.as_ref().map_or_else(|| "none".to_owned(), Integrity::to_sri),
                });
            }
        }
    }
    let effective = manifest_changed.map_or(effective, |since| effective.max(since));
    Provenance { effective, integrity_changed: changed, digests }
}

/// What is known of a version's manifest now, and since when it is so where it was ever otherwise: the version counts from then.
fn follow_manifest(
    now: ManifestDigest,
    same: Option<&Release>,
    rows: &[&Release],
    seen: Timestamp,
) -> (ManifestDigest, Option<Timestamp>) {
    // Of a statement that is new, what was seen last under the version.
    let before = same.or_else(|| rows.iter().copied().filter(|row| row.manifest.is_some()).max_by_key(|row| row.first_seen));
    let since = before.and_then(|row| row.manifest_changed);
    match before.and_then(|row| row.manifest) {
        None => (now, since),
        Some(before) => {
            let (manifest, changed) = before.followed_by(now);
            (manifest, if changed { Some(seen) } else { since })
        }
    }
}

/// The row that `stated` is about: one that shares a digest with it, else the first, if they have no algorithm in common. Then the
/// tarball must match both.
fn find_same<'a>(rows: &[&'a Release], first: Option<&'a Release>, stated: Option<&Integrity>) -> Option<&'a Release> {
    let agrees = |row: &&&Release| match (row.known_digests(), stated) {
        (None, None) => true,
        (Some(known), Some(stated)) => known.agreement(stated) == Agreement::Same,
        _ => false,
    };
    rows.iter().find(agrees).copied().or_else(|| first.filter(|first| stated.is_some() && may_be_same(first, stated)))
}

/// Whether `stated` can be about the bytes of `row`: what says nothing cannot.
fn may_be_same(row: &Release, stated: Option<&Integrity>) -> bool {
    match (row.known_digests(), stated) {
        (None, None) => true,
        (Some(known), Some(stated)) => known.agreement(stated) != Agreement::Different,
        _ => false,
    }
}

fn mark_gone<'a>(rows: impl Iterator<Item = &'a Release>, document: Option<&Document>, replaced: bool, into: &mut Reconciled) {
    for row in rows {
        let gone = row.gone.or(document.map(|document| document.validated)).unwrap_or(row.first_seen);
        let now = Release { gone: Some(gone), replaced: row.replaced || replaced, ..row.clone() };
        if row.gone.is_none() {
            into.findings.push(Finding::Gone(now.clone()));
        }
        if now != *row {
            into.change.releases.push(now);
        }
    }
}

/// Notes where tags point now, and until when they pointed elsewhere.
fn follow_tags(
    record: &PackageRecord,
    last: Option<&Document>,
    packument: &Packument,
    seen: Timestamp,
    change: &mut PackageChange,
) {
    let confirmed = last.map_or(seen, |last| last.validated);
    let current = current_tags(record);
    for (tag, version) in &packument.dist_tags {
        if current.get(&**tag).is_some_and(|sighting| sighting.version == *version) {
            continue;
        }
        change.tags.push(TagSighting { tag: tag.clone(), version: version.clone(), first_seen: seen, last_seen: seen });
    }
    for sighting in current.values() {
        let still = packument.dist_tags.iter().any(|(tag, version)| *tag == sighting.tag && *version == sighting.version);
        if !still && sighting.last_seen < confirmed {
            change.tags.push(TagSighting { last_seen: confirmed, ..TagSighting::clone(sighting) });
        }
    }
}

/// The newest sighting of each tag.
fn current_tags(record: &PackageRecord) -> HashMap<&str, &TagSighting> {
    let mut current: HashMap<&str, &TagSighting> = HashMap::new();
    for sighting in &record.tags {
        let newest = current.entry(&sighting.tag).or_insert(sighting);
        if sighting.first_seen >= newest.first_seen {
            *newest = sighting;
        }
    }
    current
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::npm::{Algorithm, Digest, PackageName, ingest};

    fn at(hour: i64) -> Timestamp {
        Timestamp::from_second(1_774_915_200 + hour * 3600).unwrap()
    }

    /// (version, tarball content, publish hour); `latest` is the last one.
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
        ingest::ingest(&PackageName::parse("demo").unwrap(), document.as_bytes()).unwrap().packument
    }

    /// Sees one packument after the other, at these hours; returns the record and the last reconciliation.
    fn seen(packuments: &[(i64, Packument)]) -> (PackageRecord, Reconciled) {
        let mut record = PackageRecord::default();
        let mut last = Reconciled::default();
        for (hour, packument) in packuments {
            last = reconcile(&record, record.document.as_ref(), packument, Form::Full, at(*hour));
            last.change.document = Some(Document {
                first_seen: at(*hour),
                validated: at(*hour),
                changed: at(*hour),
                content: Some([0; 32]),
                length: 0,
                etag: None,
                last_modified: None,
                form: None,
            });
            record.apply(&last.change);
        }
        (record, last)
    }

    #[test]
    fn a_release_counts_from_the_later_of_two_clocks() {
        let old = packument(&[("1.0.0", "a", Some(-1000))]);
        let backdated = packument(&[("1.0.0", "a", Some(-1000)), ("1.1.0", "b", Some(-500))]);
        let (_, first) = seen(&[(0, backdated.clone())]);
        assert_eq!(first.provenance[1].effective, at(-500));
        let (_, second) = seen(&[(0, old), (10, backdated)]);
        assert_eq!(second.provenance.iter().map(|one| one.effective).collect::<Vec<_>>(), [at(-1000), at(0)]);
    }

    #[test]
    fn it_is_set_once_even_when_upstream_loses_and_finds_it() {
        let one = packument(&[("1.0.0", "a", Some(-1000))]);
        let two = packument(&[("1.0.0", "a", Some(-1000)), ("1.1.0", "b", Some(5))]);
        let later = packument(&[("1.0.0", "a", Some(-1000)), ("1.1.0", "b", Some(99))]);
        let (record, lost) = seen(&[(6, two.clone()), (10, one.clone())]);
        assert!(matches!(&lost.findings[..], [Finding::Gone(release)] if release.gone == Some(at(6))));
        assert_eq!(record.releases[1].gone, Some(at(6)));
        let (record, found) = seen(&[(6, two), (10, one), (200, later)]);
        assert_eq!(found.provenance[1].effective, at(5));
        assert_eq!(record.releases[1].gone, None);
    }

    #[test]
    fn without_a_publish_time_it_counts_from_first_seen() {
        let (_, reconciled) = seen(&[(7, packument(&[("1.0.0", "a", None)])), (50, packument(&[("1.0.0", "a", None)]))]);
        assert_eq!(reconciled.provenance[0].effective, at(7));
    }

    #[test]
    fn other_bytes_under_the_same_version_are_noticed_until_the_first_return() {
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
    fn tags_are_followed() {
        let one = packument(&[("1.0.0", "a", Some(0))]);
        let two = packument(&[("1.0.0", "a", Some(0)), ("1.1.0", "b", Some(5))]);
        let (record, _) = seen(&[(1, one.clone()), (4, one), (6, two)]);
        let told: Vec<_> = record.tags.iter().map(|tag| (&*tag.version, tag.first_seen, tag.last_seen)).collect();
        assert_eq!(told, [("1.0.0", at(1), at(4)), ("1.1.0", at(6), at(6))]);
    }

    /// `packument` with what `edit` makes of the digests and dependencies of its last version.
    fn edited(packument: &Packument, edit: impl FnOnce(&mut Entry)) -> Packument {
        let mut packument = packument.clone();
        edit(packument.entries.last_mut().unwrap());
        packument
    }

    fn digests(content: &str, algorithms: &[Algorithm]) -> Option<Integrity> {
        let single = |algorithm: &Algorithm| Integrity::single(Digest::of(*algorithm, content.as_bytes()));
        algorithms.iter().map(single).reduce(|one, other| one.union(&other).unwrap())
    }

    #[test]
    fn digests_that_grow_are_all_remembered_and_bind_from_then_on() {
        let weak = packument(&[("1.0.0", "a", Some(0))]);
        let both = edited(&weak, |entry| entry.integrity = digests("a", &[Algorithm::Sha1, Algorithm::Sha512]));
        let strong = edited(&weak, |entry| entry.integrity = digests("a", &[Algorithm::Sha512]));
        let (record, grown) = seen(&[(1, weak.clone()), (2, both.clone())]);
        assert!(!grown.provenance[0].integrity_changed && grown.findings.is_empty());
        assert_eq!(grown.provenance[0].digests, both.entries[0].integrity);
        assert_eq!((record.releases.len(), record.releases[0].known_digests()), (1, both.entries[0].integrity.clone()));
        // What is no longer stated still binds, also where nothing is stated that could be compared with it.
        for looks in [vec![(1, both.clone()), (2, weak.clone())], vec![(1, weak.clone()), (2, strong.clone())]] {
            let (_, last) = seen(&looks);
            assert!(!last.provenance[0].integrity_changed);
            assert_eq!(last.provenance[0].digests, both.entries[0].integrity);
        }
        let other = edited(&weak, |entry| entry.integrity = digests("b", &[Algorithm::Sha512]));
        let (_, last) = seen(&[(1, both), (2, weak), (3, other)]);
        assert!(last.provenance[0].integrity_changed, "another SHA-512 than was stated before");
    }

    #[test]
    fn what_was_computed_of_the_bytes_binds_like_what_was_stated() {
        let weak = packument(&[("1.0.0", "a", Some(0))]);
        let (mut record, _) = seen(&[(1, weak.clone())]);
        record.releases[0].learn(&digests("a", &[Algorithm::Sha512, Algorithm::Sha256, Algorithm::Sha1]).unwrap());
        let carrier = edited(&weak, |entry| {
            entry.integrity = digests("a", &[Algorithm::Sha1]).unwrap().union(&digests("b", &[Algorithm::Sha512]).unwrap());
        });
        let reconciled = reconcile(&record, record.document.as_ref(), &carrier, Form::Full, at(9));
        assert!(reconciled.provenance[0].integrity_changed);
        assert!(matches!(&reconciled.findings[..], [Finding::IntegrityChanged { .. }]));
        let by_sha256 = edited(&weak, |entry| entry.integrity = digests("b", &[Algorithm::Sha256]));
        assert!(reconcile(&record, record.document.as_ref(), &by_sha256, Form::Full, at(9)).provenance[0].integrity_changed);
        let same = edited(&weak, |entry| entry.integrity = digests("a", &[Algorithm::Sha256]));
        assert!(!reconcile(&record, record.document.as_ref(), &same, Form::Full, at(9)).provenance[0].integrity_changed);
    }

    #[test]
    fn a_version_counts_from_each_change_of_what_clients_resolve_by() {
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
        // Also where the digests change with it, or the version was away meanwhile.
        let rehashed = edited(&evil, |entry| entry.integrity = digests("b", &[Algorithm::Sha512]));
        assert_eq!(seen(&[(1, plain.clone()), (2, rehashed)]).1.provenance[0].effective, at(2));
        let without = packument(&[("0.9.0", "z", Some(-9000))]);
        let (_, returned) = seen(&[(1, plain), (2, without), (3, evil)]);
        assert_eq!(returned.provenance[0].effective, at(3));
    }
}
