//! Compact in-memory index of the advisories of one feed, and its builder. A feed has hundreds of thousands of records: all text
//! is in one string, rows are sorted by package, and a hash table maps package names to rows.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::ops::Range;

use jiff::Timestamp;

use crate::npm::{Digest, Integrity};
use crate::policy::advisories::affected::AffectedRange;
use crate::policy::advisories::indicators::{FILE_PREFIX, IndicatorMatch, file_indicator};
use crate::policy::advisories::record::{AdvisoryKind, AdvisoryRecord, FeedTrust, Severity};

/// A slice of the text or of a list of an index.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IndexSlice {
    start: u32,
    length: u32,
}

impl IndexSlice {
    /// Returns the slice from `start` to the end of a text or list of `length` bytes or elements.
    fn since(start: usize, length: usize) -> Self {
        Self { start: narrow(start), length: narrow(length - start) }
    }

    pub(crate) fn range(self) -> Range<usize> {
        self.start as usize..self.start as usize + self.length as usize
    }
}

/// One record on one package. Kept small, since there are hundreds of thousands.
#[derive(Debug)]
pub(crate) struct IndexRow {
    pub(crate) package: IndexSlice,
    pub(crate) id: IndexSlice,
    pub(crate) aliases: IndexSlice,
    pub(crate) summary: IndexSlice,
    pub(crate) cvss: IndexSlice,
    pub(crate) cwes: IndexSlice,
    pub(crate) modified: UnixSeconds,
    /// Since when the record is known.
    pub(crate) known_since: UnixSeconds,
    pub(crate) versions: IndexSlice,
    pub(crate) spans: IndexSlice,
    pub(crate) kind: AdvisoryKind,
    pub(crate) severity: Option<Severity>,
    pub(crate) reviewed: bool,
    /// Whether the record covers every version. That span is not stored in `spans`.
    pub(crate) everything: bool,
}

/// A Unix time in seconds, `i64::MIN` if unknown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UnixSeconds(i64);

impl UnixSeconds {
    fn new(instant: Option<Timestamp>) -> Self {
        Self(instant.map_or(i64::MIN, Timestamp::as_second))
    }

    pub(crate) fn instant(self) -> Option<Timestamp> {
        Timestamp::from_second(self.0).ok().filter(|instant| *instant > Timestamp::MIN)
    }
}

/// The advisories of one feed. Immutable.
#[derive(Debug)]
pub struct FeedAdvisories {
    pub(super) feed: Box<str>,
    pub(super) trust: FeedTrust,
    pub(crate) has_vulnerabilities: bool,
    text: Box<str>,
    /// Hash table with open addressing: package number plus one, or 0 if free. The length is a power of two.
    slots: Box<[u32]>,
    /// Index of each package's first row, then the total number of rows.
    packages: Box<[u32]>,
    pub(crate) rows: Box<[IndexRow]>,
    /// The listed versions of all rows, in order of the rows and sorted within each row.
    pub(crate) versions: Box<[IndexSlice]>,
    pub(crate) spans: Box<[AffectedRange]>,
    indicators: Box<[IndicatorRow]>,
    pub(super) digests: ListedDigests,
}

/// The first bytes of a digest.
pub(crate) type DigestHead = [u8; 8];

/// The first bytes of each listed digest, so that a lookup of an unlisted one costs little.
#[derive(Debug)]
pub(super) struct ListedDigests {
    tarballs: HashSet<DigestHead>,
    files: HashSet<DigestHead>,
    /// Changes with the listed files. 0 if there are none.
    pub(super) files_revision: u64,
    /// Whether a file is listed by its SHA-1.
    pub(super) has_sha1_of_files: bool,
}

#[derive(Debug, Clone, Copy)]
struct IndicatorRow {
    listed: IndexSlice,
    id: IndexSlice,
    package: IndexSlice,
}

impl ListedDigests {
    pub(super) fn has_tarballs(&self) -> bool {
        !self.tarballs.is_empty()
    }

    pub(super) fn may_have_file(&self, head: DigestHead) -> bool {
        self.files.contains(&head)
    }
}

impl FeedAdvisories {
    /// Returns the number of advisories. A record on two packages counts twice.
    pub fn count(&self) -> usize {
        self.rows.len()
    }

    pub fn packages(&self) -> usize {
        self.packages.len().saturating_sub(1)
    }

    /// Returns the approximate size in memory, in bytes.
    pub fn weight(&self) -> usize {
        self.text.len()
            + (self.slots.len() + self.packages.len()) * 4
            + size_of_val(&*self.rows)
            + size_of_val(&*self.versions)
            + size_of_val(&*self.spans)
            + size_of_val(&*self.indicators)
            + (self.digests.tarballs.len() + self.digests.files.len()) * 9
    }

    /// Returns the malware record that lists a tarball with this digest.
    pub(crate) fn find_digest(&self, digest: &Digest) -> Option<&IndexRow> {
        if !digest.as_bytes().first_chunk().is_some_and(|head| self.digests.tarballs.contains(head)) {
            return None;
        }
        self.find_row(&digest.to_sri())
    }

    /// Returns the malware record that lists a file with this digest.
    pub(crate) fn find_file(&self, digest: &Digest) -> Option<&IndexRow> {
        let head = digest.as_bytes().first_chunk()?;
        if self.digests.files.contains(head) { self.find_row(&file_indicator(digest)) } else { None }
    }

    /// Returns the record that lists an indicator.
    fn find_row(&self, indicator: &str) -> Option<&IndexRow> {
        let found = self.find_indicator(indicator)?;
        self.of(found.package).iter().find(|row| self.text(row.id) == found.advisory)
    }

    /// Looks up exactly this domain or address, or the SRI of a digest.
    pub(crate) fn find_indicator(&self, place: &str) -> Option<IndicatorMatch<'_>> {
        let at = self.indicators.binary_search_by(|known| self.text(known.listed).cmp(place)).ok()?;
        let IndicatorRow { listed, id, package } = self.indicators[at];
        Some(IndicatorMatch {
            listed: self.text(listed),
            advisory: self.text(id),
            package: self.text(package),
            feed: &self.feed,
            trust: self.trust,
        })
    }

    pub(crate) fn of(&self, name: &str) -> &[IndexRow] {
        let Some(mask) = self.slots.len().checked_sub(1) else { return &[] };
        let mut slot = hash(name) & mask;
        while let Some(package) = (self.slots[slot] as usize).checked_sub(1) {
            let rows = &self.rows[self.packages[package] as usize..self.packages[package + 1] as usize];
            if rows.first().is_some_and(|row| self.text(row.package) == name) {
                return rows;
            }
            slot = (slot + 1) & mask;
        }
        &[]
    }

    pub(crate) fn text(&self, text: IndexSlice) -> &str {
        self.text.get(text.range()).unwrap_or_default()
    }
}

/// Hashes with the same key in every process. Crafted collisions only slow down lookups of the colliding names.
fn hash(name: &str) -> usize {
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(name);
    usize::try_from(hash & u64::from(u32::MAX)).unwrap_or_default()
}

/// Builds an index from records. Of two records with the same id on the same package, the later one wins.
#[derive(Debug, Default)]
pub struct FeedIndexBuilder {
    text: String,
    /// Interned texts that repeat often: versions, weaknesses, package names.
    known: HashMap<Box<str>, IndexSlice>,
    rows: Vec<IndexRow>,
    versions: Vec<IndexSlice>,
    spans: Vec<AffectedRange>,
    /// Indicators by package and record id.
    indicators: HashMap<(Box<str>, Box<str>), Vec<IndicatorRow>>,
}

impl FeedIndexBuilder {
    /// Adds a record. Returns `false` if the index is full (4 GiB of text or 2³² list entries).
    pub(crate) fn add(&mut self, record: &AdvisoryRecord) -> bool {
        let room = u32::MAX as usize - self.text.len().min(u32::MAX as usize);
        let lists = self.versions.len().max(self.spans.len()) + record.versions.len().max(record.spans.len());
        if weight(record) > room || lists > u32::MAX as usize {
            return false;
        }
        let mut versions: Vec<&str> = record.versions.iter().map(|version| &**version).collect();
        versions.sort_unstable();
        versions.dedup();
        let (versions_start, spans_start) = (self.versions.len(), self.spans.len());
        for version in versions {
            let text = self.intern(version);
            self.versions.push(text);
        }
        let everything = record.spans.contains(&AffectedRange::EVERYTHING);
        self.spans.extend(record.spans.iter().filter(|span| **span != AffectedRange::EVERYTHING).cloned());
        let row = IndexRow {
            package: self.intern(&record.package),
            id: self.append(&record.id),
            aliases: self.append(&record.aliases.join("\n")),
            summary: self.append(&record.summary),
            cvss: self.append(&record.cvss),
            cwes: self.intern(&record.cwes.join("\n")),
            modified: UnixSeconds::new(record.modified),
            known_since: UnixSeconds::new(record.known_since),
            versions: IndexSlice::since(versions_start, self.versions.len()),
            spans: IndexSlice::since(spans_start, self.spans.len()),
            kind: record.kind,
            severity: record.severity,
            reviewed: record.reviewed,
            everything,
        };
        self.note_indicators(record, row.package, row.id);
        self.rows.push(row);
        true
    }

    /// Stores the indicators of a malware record. Returns early for most records, since few have any.
    fn note_indicators(&mut self, record: &AdvisoryRecord, package: IndexSlice, id: IndexSlice) {
        if record.indicators.is_empty() && self.indicators.is_empty() {
            return;
        }
        let wanted: &[Box<str>] = if record.kind == AdvisoryKind::Malware { &record.indicators } else { &[] };
        let indicators: Vec<_> = wanted.iter().map(|place| IndicatorRow { listed: self.intern(place), id, package }).collect();
        let key = (record.package.clone(), record.id.clone());
        if indicators.is_empty() {
            self.indicators.remove(&key);
        } else {
            self.indicators.insert(key, indicators);
        }
    }

    pub(crate) fn build(self, feed: &str, trust: FeedTrust) -> FeedAdvisories {
        let Self { text, known, mut rows, versions, spans, indicators } = self;
        drop(known);
        let of = |piece: IndexSlice| text.get(piece.range()).unwrap_or_default();
        // Stable sort: of records with the same id, the later one stays last.
        rows.sort_by(|left, right| (of(left.package), of(left.id)).cmp(&(of(right.package), of(right.id))));
        rows.reverse();
        rows.dedup_by(|left, right| (of(left.package), of(left.id)) == (of(right.package), of(right.id)));
        let mut packages: Vec<u32> = Vec::new();
        for (at, row) in rows.iter().enumerate() {
            if at == 0 || of(rows[at - 1].package) != of(row.package) {
                packages.push(narrow(at));
            }
        }
        let mut slots = vec![0_u32; if packages.is_empty() { 0 } else { (packages.len() * 2).next_power_of_two() }];
        let mask = slots.len().wrapping_sub(1);
        for (number, first) in packages.iter().enumerate() {
            let mut slot = hash(of(rows[*first as usize].package)) & mask;
            while slots[slot] != 0 {
                slot = (slot + 1) & mask;
            }
            slots[slot] = narrow(number + 1);
        }
        packages.push(narrow(rows.len()));
        let mut indicators: Vec<IndicatorRow> = indicators.into_values().flatten().collect();
        // Deterministic choice if several records list the same indicator.
        indicators.sort_unstable_by_key(|row| (of(row.listed), of(row.id), of(row.package)));
        indicators.dedup_by_key(|row| of(row.listed));
        let head = |sri: &str| Integrity::parse(Some(sri), None)?.strongest().as_bytes().first_chunk().copied();
        let tarballs = indicators.iter().filter_map(|row| head(of(row.listed))).collect();
        let files: Vec<&str> = indicators.iter().filter_map(|row| of(row.listed).strip_prefix(FILE_PREFIX)).collect();
        let file_heads = files.iter().filter_map(|sri| head(sri)).collect();
        let has_sha1_of_files = files.iter().any(|sri| sri.starts_with("sha1-"));
        let files_revision = if files.is_empty() { 0 } else { BuildHasherDefault::<DefaultHasher>::default().hash_one(&files) };
        FeedAdvisories {
            feed: feed.into(),
            trust,
            has_vulnerabilities: rows.iter().any(|row| row.kind == AdvisoryKind::Vulnerability),
            text: text.into(),
            slots: slots.into(),
            packages: packages.into(),
            rows: rows.into(),
            versions: versions.into(),
            spans: spans.into(),
            indicators: indicators.into(),
            digests: ListedDigests { tarballs, files: file_heads, files_revision, has_sha1_of_files },
        }
    }

    fn intern(&mut self, text: &str) -> IndexSlice {
        if let Some(known) = self.known.get(text) {
            return *known;
        }
        let new = self.append(text);
        self.known.insert(text.into(), new);
        new
    }

    fn append(&mut self, text: &str) -> IndexSlice {
        let start = self.text.len();
        self.text.push_str(text);
        IndexSlice::since(start, self.text.len())
    }
}

/// Returns an upper bound of the text size of a record, in bytes.
fn weight(record: &AdvisoryRecord) -> usize {
    let lists =
        record.aliases.iter().chain(&record.cwes).chain(&record.versions).chain(&record.indicators).map(|text| text.len() + 1);
    lists.sum::<usize>() + record.id.len() + record.summary.len() + record.cvss.len() + record.package.len()
}

/// Converts to `u32`. [`FeedIndexBuilder::add`] guarantees that the number fits.
fn narrow(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
