//! The advisories of one feed in memory, and how they get there: text in one piece, rows by package, a table of names. Small,
//! for there are hundreds of thousands. Refuses to know what a row means: `advisory` does.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::ops::Range;

use jiff::Timestamp;

use crate::policy::advisories::affected::AffectedRange;
use crate::policy::advisories::indicators::IndicatorMatch;
use crate::policy::advisories::{Advisory, AdvisoryKind, AdvisoryRecord, AdvisoryRow, FeedTrust, Severity};

/// A piece of the text of an index.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TextRef {
    start: u32,
    length: u32,
}

/// One record on one package. Small, for there are hundreds of thousands.
#[derive(Debug)]
pub(crate) struct IndexRow {
    pub(crate) package: TextRef,
    pub(crate) id: TextRef,
    pub(crate) aliases: TextRef,
    pub(crate) summary: TextRef,
    pub(crate) cvss: TextRef,
    pub(crate) cwes: TextRef,
    /// Seconds since 1970; the lowest number where it is not known.
    modified: i64,
    /// The same, of when it is known since.
    known_since: i64,
    versions_start: u32,
    versions_count: u32,
    spans_start: u32,
    spans_count: u32,
    kind: AdvisoryKind,
    severity: Option<Severity>,
    reviewed: bool,
    /// Every version: then this span is not among the spans.
    pub(crate) everything: bool,
}

impl IndexRow {
    pub(crate) fn versions(&self) -> Range<usize> {
        span(self.versions_start, self.versions_count)
    }

    pub(crate) fn spans(&self) -> Range<usize> {
        span(self.spans_start, self.spans_count)
    }
}

fn span(start: u32, count: u32) -> Range<usize> {
    start as usize..start as usize + count as usize
}

/// The advisories of one feed, never changed.
#[derive(Debug)]
pub struct FeedAdvisories {
    feed: Box<str>,
    trust: FeedTrust,
    pub(crate) has_vulnerabilities: bool,
    text: Box<str>,
    /// Open addressing: the number of the package plus one, or nothing. A power of two long.
    slots: Box<[u32]>,
    /// Where each package's rows begin, and their end.
    packages: Box<[u32]>,
    /// By package.
    pub(crate) rows: Box<[IndexRow]>,
    /// Of each row in order.
    pub(crate) versions: Box<[TextRef]>,
    pub(crate) spans: Box<[AffectedRange]>,
    /// In the order of their text.
    indicators: Box<[IndicatorRow]>,
}

/// A place that a record lists.
#[derive(Debug, Clone, Copy)]
struct IndicatorRow {
    listed: TextRef,
    id: TextRef,
    package: TextRef,
}

impl FeedAdvisories {
    /// The feed's name.
    #[must_use]
    pub fn feed(&self) -> &str {
        &self.feed
    }

    /// How far it is followed.
    #[must_use]
    pub fn trust(&self) -> FeedTrust {
        self.trust
    }

    /// How many advisories there are; a record on two packages counts twice.
    #[must_use]
    pub fn count(&self) -> usize {
        self.rows.len()
    }

    /// How many packages they are about.
    #[must_use]
    pub fn packages(&self) -> usize {
        self.packages.len().saturating_sub(1)
    }

    /// Bytes in memory, about.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.text.len()
            + (self.slots.len() + self.packages.len()) * 4
            + size_of_val(&*self.rows)
            + size_of_val(&*self.versions)
            + size_of_val(&*self.spans)
            + size_of_val(&*self.indicators)
    }

    /// What is said of exactly this domain or address.
    pub(crate) fn indication(&self, place: &str) -> Option<IndicatorMatch<'_>> {
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

    pub(crate) fn text(&self, text: TextRef) -> &str {
        self.text.get(span(text.start, text.length)).unwrap_or_default()
    }

    pub(crate) fn advisory<'a>(&'a self, row: &'a IndexRow) -> Advisory<'a> {
        Advisory {
            id: self.text(row.id),
            feed: &self.feed,
            kind: row.kind,
            severity: row.severity,
            trust: self.trust,
            summary: self.text(row.summary),
            modified: instant(row.modified),
            known_since: instant(row.known_since),
            reviewed: row.reviewed,
            row: AdvisoryRow { index: self, row },
        }
    }
}

fn instant(seconds: i64) -> Option<Timestamp> {
    Timestamp::from_second(seconds).ok().filter(|instant| *instant > Timestamp::MIN)
}

/// Keyed the same in every process; whoever makes names collide makes look-ups of these names slower, nothing else.
fn hash(name: &str) -> usize {
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(name);
    usize::try_from(hash & u64::from(u32::MAX)).unwrap_or_default()
}

/// Gathers records into an index. Of two records with one id on one package the later one holds.
#[derive(Debug, Default)]
pub struct FeedIndexBuilder {
    text: String,
    /// Texts that repeat a thousandfold: versions, weaknesses, package names.
    known: HashMap<Box<str>, TextRef>,
    rows: Vec<IndexRow>,
    versions: Vec<TextRef>,
    spans: Vec<AffectedRange>,
    /// Of each record that has any, by package and id.
    indicators: HashMap<(Box<str>, Box<str>), Vec<IndicatorRow>>,
}

impl FeedIndexBuilder {
    /// Adds a record. `false` when the index is full, at four thousand million bytes of text.
    pub fn add(&mut self, record: &AdvisoryRecord) -> bool {
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
            modified: record.modified.map_or(i64::MIN, Timestamp::as_second),
            known_since: record.known_since.map_or(i64::MIN, Timestamp::as_second),
            versions_start: narrow(versions_start),
            versions_count: narrow(self.versions.len() - versions_start),
            spans_start: narrow(spans_start),
            spans_count: narrow(self.spans.len() - spans_start),
            kind: record.kind,
            severity: record.severity,
            reviewed: record.reviewed,
            everything,
        };
        self.note_indicators(record, row.package, row.id);
        self.rows.push(row);
        true
    }

    /// Few records have any, so that there is next to nothing to look up for the others.
    fn note_indicators(&mut self, record: &AdvisoryRecord, package: TextRef, id: TextRef) {
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

    /// The index of the feed called `feed`.
    #[must_use]
    pub fn build(self, feed: &str, trust: FeedTrust) -> FeedAdvisories {
        let Self { text, known, mut rows, versions, spans, indicators } = self;
        drop(known);
        let of = |piece: TextRef| text.get(span(piece.start, piece.length)).unwrap_or_default();
        // Stable, so that of one id the later record stands behind.
        rows.sort_by(|one, other| (of(one.package), of(one.id)).cmp(&(of(other.package), of(other.id))));
        rows.reverse();
        rows.dedup_by(|one, other| (of(one.package), of(one.id)) == (of(other.package), of(other.id)));
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
        // Of several records on one place the same one is named each time.
        indicators.sort_unstable_by_key(|one| (of(one.listed), of(one.id), of(one.package)));
        indicators.dedup_by_key(|one| of(one.listed));
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
        }
    }

    fn intern(&mut self, text: &str) -> TextRef {
        if let Some(known) = self.known.get(text) {
            return *known;
        }
        let new = self.append(text);
        self.known.insert(text.into(), new);
        new
    }

    fn append(&mut self, text: &str) -> TextRef {
        let start = narrow(self.text.len());
        self.text.push_str(text);
        TextRef { start, length: narrow(text.len()) }
    }
}

/// The bytes of text in a record, at most.
fn weight(record: &AdvisoryRecord) -> usize {
    let lists =
        record.aliases.iter().chain(&record.cwes).chain(&record.versions).chain(&record.indicators).map(|text| text.len() + 1);
    lists.sum::<usize>() + record.id.len() + record.summary.len() + record.cvss.len() + record.package.len()
}

/// What [`Builder::add`] has made sure of.
fn narrow(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
