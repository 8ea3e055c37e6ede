//! Imports records: parses each one, writes it in the stored format, and adds it to the index.

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use bytes::Bytes;
use tempfile::NamedTempFile;

use crate::feed::error::FeedError;
use crate::feed::first_read::Readings;
use crate::feed::osv::{self, OsvDocument, OsvRecord};
use crate::feed::state::FeedCounts;
use crate::policy::AffectedRange;
use crate::policy::advisories::index::FeedIndexBuilder;
use crate::units::timestamp;

/// Maximum size of a document, in bytes. The largest real record has a few hundred thousand.
pub(crate) const MAX_DOCUMENT_BYTES: u64 = 16 << 20;

/// Maximum number of records in a feed.
const MAX_RECORDS: u64 = 3_000_000;

pub(crate) struct RecordImporter {
    /// The records, one per line.
    file: BufWriter<NamedTempFile>,
    pub(crate) index: RecordIndex,
    /// Whether the source may have no records, such as a new list.
    pub(crate) may_be_empty: bool,
}

/// The index of the records that were read, and their counts.
pub(crate) struct RecordIndex {
    pub(crate) builder: FeedIndexBuilder,
    pub(crate) tally: FeedCounts,
    pub(crate) readings: Readings,
}

impl RecordImporter {
    /// Starts an import that writes records to a temporary file in `directory`.
    pub(crate) fn begin(directory: &Path, readings: Readings) -> Result<Self, FeedError> {
        let file = NamedTempFile::new_in(directory).map_err(FeedError::file("create a file in", directory))?;
        Ok(Self { file: BufWriter::with_capacity(1 << 18, file), index: RecordIndex::new(readings), may_be_empty: false })
    }

    /// Adds a document. `name` is its path in the source. A record in a `withdrawn` directory counts as withdrawn.
    pub(crate) fn add_document(&mut self, name: &str, bytes: &[u8]) -> Result<(), FeedError> {
        match OsvRecord::read(bytes) {
            OsvDocument::Record(mut record) => {
                if osv::is_withdrawn(name) && !record.is_withdrawn() {
                    record.withdrawn = Some(record.modified.clone()).filter(|at| !at.is_empty()).or(Some("unknown".to_owned()));
                }
                self.record(&record)?;
            }
            OsvDocument::NoRecord => self.index.tally.skipped += 1,
            OsvDocument::Unreadable(why) => self.note_unreadable(name, &why),
        }
        Ok(())
    }

    pub(crate) fn add_documents(&mut self, documents: &[(String, Bytes)]) -> Result<(), FeedError> {
        documents.iter().try_for_each(|(name, bytes)| self.add_document(name, bytes))
    }

    /// Counts an unreadable item and keeps the first reason.
    pub(crate) fn note_unreadable(&mut self, name: &str, why: &str) {
        self.index.tally.unreadable += 1;
        self.index.tally.trouble.get_or_insert_with(|| format!("{name}: {why}"));
    }

    pub(crate) fn record(&mut self, record: &OsvRecord) -> Result<(), FeedError> {
        if !record.is_about_npm() {
            self.index.tally.foreign += 1;
            return Ok(());
        }
        if self.index.tally.known() >= MAX_RECORDS {
            return Err(FeedError::broken("the feed", format!("more than {MAX_RECORDS} records")));
        }
        self.index.enter(record)?;
        let written = serde_json::to_writer(&mut self.file, record).map_err(std::io::Error::from);
        let written = written.and_then(|()| self.file.write_all(b"\n"));
        written.map_err(|error| FeedError::file("write", self.file.get_ref().path())(error))
    }

    /// Adds the stored records at `path` for whose id `stays` is true.
    pub(crate) fn keep_unchanged(&mut self, path: &Path, stays: impl Fn(&str) -> bool) -> Result<(), FeedError> {
        each_line(path, |record| if stays(&record.id) { self.record(&record) } else { Ok(()) })
    }

    /// Syncs the records to disk.
    pub(crate) fn finish(self) -> Result<(NamedTempFile, RecordIndex), FeedError> {
        let path = self.file.get_ref().path().to_owned();
        let file = self.file.into_inner().map_err(|error| FeedError::file("write", &path)(error.into_error()))?;
        file.as_file().sync_data().map_err(FeedError::file("sync", path))?;
        Ok((file, self.index))
    }
}

impl RecordIndex {
    fn new(readings: Readings) -> Self {
        Self { builder: FeedIndexBuilder::default(), tally: FeedCounts::default(), readings }
    }

    /// Loads stored records.
    pub(crate) fn load(path: &Path, readings: Readings) -> Result<Self, FeedError> {
        let mut index = Self::new(readings);
        each_line(path, |record| index.enter(&record))?;
        Ok(index)
    }

    fn enter(&mut self, record: &OsvRecord) -> Result<(), FeedError> {
        let Self { builder, tally, readings } = self;
        let (mut entries, unreadable_events) = record.advisory_records();
        for entry in &mut entries {
            // Only records that cover every version need the first-read instant.
            if let Some(since) = entry.known_since.as_mut().filter(|_| entry.spans.iter().any(AffectedRange::is_unbounded)) {
                *since = readings.first(&record.id).min(*since);
            }
            if !builder.add(entry) {
                return Err(FeedError::broken("the feed", "too much text for an index"));
            }
        }
        tally.unreadable_events += unreadable_events as u64;
        if record.is_withdrawn() {
            tally.withdrawn += 1;
        } else {
            tally.records += 1;
        }
        if let Some(modified) = timestamp::parse(&record.modified) {
            if tally.latest.is_none_or(|latest| latest < modified) {
                tally.latest = Some(modified);
                tally.latest_ids.clear();
            }
            if tally.latest == Some(modified) && tally.latest_ids.len() < 1_000 {
                tally.latest_ids.push(record.id.clone());
            }
        }
        Ok(())
    }
}

fn each_line(path: &Path, mut work: impl FnMut(OsvRecord) -> Result<(), FeedError>) -> Result<(), FeedError> {
    let file = std::fs::File::open(path).map_err(FeedError::file("read", path))?;
    let mut file = BufReader::with_capacity(1 << 18, file);
    let mut line = Vec::new();
    loop {
        line.clear();
        if file.read_until(b'\n', &mut line).map_err(FeedError::file("read", path))? == 0 {
            return Ok(());
        }
        match OsvRecord::read(&line) {
            OsvDocument::Record(record) => work(*record)?,
            OsvDocument::NoRecord => return Err(FeedError::broken(path.display().to_string(), "a line is not a record")),
            OsvDocument::Unreadable(why) => return Err(FeedError::broken(path.display().to_string(), why)),
        }
    }
}
