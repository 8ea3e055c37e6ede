//! Records on their way in: each is read, written down in the one form that is kept, and put into the index. Refuses to know
//! where they come from.

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::feed::FeedError;
use crate::feed::first_read::Readings;
use crate::feed::osv::{OsvDocument, OsvRecord};
use crate::policy::AffectedRange;
use crate::policy::advisories::index::FeedIndexBuilder;
use crate::units::timestamp;

/// The largest document that is read, in bytes. The largest real record has a few hundred thousand.
pub(crate) const LARGEST: u64 = 16 << 20;

/// The most records that are taken.
const MOST: u64 = 3_000_000;

/// What was found in a feed, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FeedCounts {
    /// Records in force.
    pub records: u64,
    /// Records that were withdrawn.
    pub withdrawn: u64,
    /// Records about other ecosystems.
    pub foreign: u64,
    /// JSON that is no record.
    pub skipped: u64,
    /// Documents or lines that cannot be read.
    pub unreadable: u64,
    /// Events whose version cannot be read: they count for the worse.
    pub unreadable_events: u64,
    /// The first document that cannot be read, and why.
    pub trouble: Option<String>,
    /// The latest `modified` of all records, and the records that have it.
    pub latest: Option<Timestamp>,
    /// See `latest`; at most a thousand.
    pub latest_ids: Vec<String>,
}

impl FeedCounts {
    /// Records that are known, withdrawn or not: what a feed must not lose half of at once.
    #[must_use]
    pub fn known(&self) -> u64 {
        self.records + self.withdrawn
    }
}

/// Records being gathered.
pub(crate) struct RecordImporter {
    file: BufWriter<NamedTempFile>,
    builder: FeedIndexBuilder,
    tally: FeedCounts,
    readings: Readings,
    may_be_empty: bool,
}

/// What was gathered.
pub(crate) struct ImportedRecords {
    /// The records, one a line.
    pub(crate) file: NamedTempFile,
    /// The index, not yet built.
    pub(crate) builder: FeedIndexBuilder,
    /// The numbers.
    pub(crate) tally: FeedCounts,
    /// When records were first read.
    pub(crate) readings: Readings,
    /// Whether it is a list that people write, which may begin with nothing in it.
    pub(crate) may_be_empty: bool,
}

impl RecordImporter {
    /// Begins one whose records are written to a temporary file in `directory`.
    pub(crate) fn begin(directory: &Path, readings: Readings) -> Result<Self, FeedError> {
        let file = NamedTempFile::new_in(directory).map_err(FeedError::file("create a file in", directory))?;
        Ok(Self {
            file: BufWriter::with_capacity(1 << 18, file),
            builder: FeedIndexBuilder::default(),
            tally: FeedCounts::default(),
            readings,
            may_be_empty: false,
        })
    }

    /// Nothing is something to say, in this format.
    pub(crate) fn allow_nothing(&mut self) {
        self.may_be_empty = true;
    }

    /// Takes a document; `name` is for people. `withdrawn` says that the place it lies in says so.
    pub(crate) fn document(&mut self, name: &str, bytes: &[u8], withdrawn: bool) -> Result<(), FeedError> {
        match OsvRecord::read(bytes) {
            OsvDocument::Record(mut record) => {
                if withdrawn && !record.is_withdrawn() {
                    record.withdrawn = Some(record.modified.clone()).filter(|at| !at.is_empty()).or(Some("unknown".to_owned()));
                }
                self.record(&record)
            }
            OsvDocument::NoRecord => {
                self.tally.skipped += 1;
                Ok(())
            }
            OsvDocument::Unreadable(why) => {
                self.unreadable(name, &why);
                Ok(())
            }
        }
    }

    /// Notes something that cannot be read.
    pub(crate) fn unreadable(&mut self, name: &str, why: &str) {
        self.tally.unreadable += 1;
        self.tally.trouble.get_or_insert_with(|| format!("{name}: {why}"));
    }

    /// Takes a record.
    pub(crate) fn record(&mut self, record: &OsvRecord) -> Result<(), FeedError> {
        if !record.is_about_npm() {
            self.tally.foreign += 1;
            return Ok(());
        }
        if self.tally.known() >= MOST {
            return Err(FeedError::broken("the feed", format!("more than {MOST} records")));
        }
        enter(record, &mut self.builder, &mut self.tally, &mut self.readings)?;
        let written = serde_json::to_writer(&mut self.file, record).map_err(std::io::Error::from);
        let written = written.and_then(|()| self.file.write_all(b"\n"));
        written.map_err(|error| FeedError::file("write", self.file.get_ref().path())(error))
    }

    /// Takes the kept records at `path` whose id `stays`.
    pub(crate) fn carry(&mut self, path: &Path, stays: impl Fn(&str) -> bool) -> Result<(), FeedError> {
        each_line(path, |record| if stays(&record.id) { self.record(&record) } else { Ok(()) })
    }

    /// What was gathered, safely on disk.
    pub(crate) fn finish(self) -> Result<ImportedRecords, FeedError> {
        let Self { file, builder, tally, readings, may_be_empty } = self;
        let path = file.get_ref().path().to_owned();
        let file = file.into_inner().map_err(|error| FeedError::file("write", &path)(error.into_error()))?;
        file.as_file().sync_data().map_err(FeedError::file("sync", path))?;
        Ok(ImportedRecords { file, builder, tally, readings, may_be_empty })
    }
}

/// Reads what is kept back into an index.
pub(crate) fn reload(path: &Path, mut readings: Readings) -> Result<(FeedIndexBuilder, FeedCounts), FeedError> {
    let (mut builder, mut tally) = (FeedIndexBuilder::default(), FeedCounts::default());
    each_line(path, |record| enter(&record, &mut builder, &mut tally, &mut readings))?;
    Ok((builder, tally))
}

/// Puts a record into an index and counts it.
fn enter(
    record: &OsvRecord,
    builder: &mut FeedIndexBuilder,
    tally: &mut FeedCounts,
    readings: &mut Readings,
) -> Result<(), FeedError> {
    let (mut entries, unreadable_events) = record.entries();
    for entry in &mut entries {
        // Nothing is asked of the others.
        if let Some(since) = entry.known_since.as_mut().filter(|_| entry.spans.iter().any(AffectedRange::is_everything)) {
            *since = readings.first(&record.id).min(*since);
        }
        if !builder.add(entry) {
            return Err(FeedError::broken("the feed", "more text than an index holds"));
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
            OsvDocument::NoRecord => return Err(FeedError::broken(path.display().to_string(), "a line that is no record")),
            OsvDocument::Unreadable(why) => return Err(FeedError::broken(path.display().to_string(), why)),
        }
    }
}
