//! What the ledger remembers of a package, held against the packument upstream sends now: since when a release counts,
//! whether its bytes changed, what went. Pure; refuses to judge, and to read or write the ledger itself.

use std::collections::HashMap;

use jiff::Timestamp;

use crate::npm::packument::Entry;
use crate::npm::{Agreement, Integrity, Packument};
use crate::store::{Document, PackageChange, PackageRecord, Release, TagSighting};

/// What the record adds to one entry of a packument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Provenance {
    /// The effective publish time.
    pub effective: Timestamp,
    /// Whether this version was first seen with another integrity.
    pub integrity_changed: bool,
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

/// Holds `packument`, which upstream confirmed at `seen`, against `record` and the `last` document before it.
#[must_use]
pub fn reconcile(record: &PackageRecord, last: Option<&Document>, packument: &Packument, seen: Timestamp) -> Reconciled {
    let mut known: HashMap<&str, Vec<&Release>> = HashMap::with_capacity(record.releases.len());
    for release in &record.releases {
        known.entry(&release.version).or_default().push(release);
    }
    let absent_at = last.filter(|last| last.content.is_some()).map(|last| last.validated);
    let mut reconciled = Reconciled::default();
    reconciled.provenance.reserve(packument.entries.len());
    for entry in &packument.entries {
        let rows = known.remove(&*entry.key).unwrap_or_default();
        let provenance = trace(entry, &rows, absent_at, seen, &mut reconciled);
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

fn trace(entry: &Entry, rows: &[&Release], absent_at: Option<Timestamp>, seen: Timestamp, into: &mut Reconciled) -> Provenance {
    let same = rows.iter().find(|row| is_same(row.integrity.as_ref(), entry.integrity.as_ref()));
    let effective = match (same, rows.iter().min_by_key(|row| row.first_seen)) {
        (Some(row), _) | (None, Some(row)) => row.effective,
        (None, None) => match (entry.published, absent_at) {
            (Some(published), Some(absent)) => published.max(absent),
            (Some(published), None) => published,
            (None, _) => seen,
        },
    };
    let first = first_seen_as(rows);
    let changed = first.is_some_and(|first| !is_same(first.integrity.as_ref(), entry.integrity.as_ref()));
    match same {
        // It came back: it is not held anew.
        Some(row) if row.gone.is_some() => {
            into.change.releases.push(Release { gone: None, replaced: false, ..Release::clone(row) });
        }
        Some(_) => {}
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
                manifest: None,
                manifest_changed: None,
            });
            if let Some(first) = first.filter(|_| changed) {
                into.findings.push(Finding::IntegrityChanged {
                    version: entry.key.clone(),
                    was: first.integrity.as_ref().map(Integrity::to_sri).unwrap_or_default(),
                    now: entry.integrity.as_ref().map_or_else(|| "none".to_owned(), Integrity::to_sri),
                });
            }
        }
    }
    Provenance { effective, integrity_changed: changed }
}

/// Whether two statements are about the same bytes. Nothing in common says nothing, and what says nothing is not the same.
fn is_same(one: Option<&Integrity>, other: Option<&Integrity>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => one.agreement(other) == Agreement::Same,
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
            last = reconcile(&record, record.document.as_ref(), packument, at(*hour));
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
}
