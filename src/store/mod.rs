//! Persistent state: blobs (tarballs and raw packuments, stored by digest) and the ledger.
//!
//! Calls block; async callers use `spawn_blocking`, except for [`BlobStore::open`], a future, and [`BlobStore::mapped`].

pub(crate) mod access_token;
pub(crate) mod blobs;
mod config;
#[cfg(test)]
mod conformance;
pub(crate) mod data_dir;
mod error;
pub(crate) mod indicator_hit;
pub(crate) mod ledger;
pub(crate) mod ledger_rows;
pub(crate) mod read_only;
pub(crate) mod report;
#[cfg(test)]
mod request_conformance;
pub(crate) mod request_ledger;
pub(crate) mod sqlite;

pub(crate) use access_token::{MAX_USABLE_TOKENS, NewToken};
pub use access_token::{TokenCreation, TokenLedger, TokenRecord, TokenSelector, TokenState};
pub(crate) use blobs::disk::DiskBlobs;
pub(crate) use blobs::{BlobKind, BlobStore, Committed, PendingBlob};
pub use config::Config;
pub(crate) use data_dir::DataDir;
pub use error::StoreError;
pub(crate) use indicator_hit::IndicatorHit;
pub(crate) use ledger::{
    DownloadEvent, DownloadKind, Exposure, InspectedTarball, LearnedDigests, LedgerEvent, PackageKey, RecordedSignals, Release,
    ReleaseState, ServedTarball, TarballSource, VerifiedProvenance,
};
pub use ledger::{DownloadOutcome, Ledger, PackageChange, PackageRecord, StoredPackument, TagSighting};
pub(crate) use ledger_rows::{ClientRow, DownloadRow, RowFilter, RowOrder};
pub(crate) use report::{RefusalReport, ReportLedger, SeenClient, YoungRelease, YoungReleases};
pub use request_ledger::{ApprovedRequest, AskOutcome, RequestEnd, RequestFilter, RequestLedger};
pub use sqlite::SqliteLedger;
pub(crate) use sqlite::decision_writer::DecisionWriter;
pub(crate) use sqlite::events::DownloadSummary;
pub use sqlite::outside_writer::ApplyStatus;
pub use sqlite::request_writer::RequestWriter;
pub(crate) use sqlite::token_writer::TokenWriter;

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::path::Path;
    use std::process::{Command, Stdio};
    use std::sync::Arc;

    use super::*;
    use crate::npm::{Algorithm, Digest, PackageName};
    use crate::store::conformance::{at, download, key, opened, put, release};

    const CHILD: &str = "COLDFRAME_TEST_STORE";

    /// Runs itself as a child that is killed while it writes. All writes that the child acknowledged must be there afterwards.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "an environment variable marks the child process")]
    fn acknowledged_writes_survive_a_kill_and_partial_files_do_not() {
        if let Some(home) = std::env::var_os(CHILD) {
            return write_long(Path::new(&home));
        }
        let home = tempfile::tempdir().unwrap();
        for acknowledged in [1, 40, 97] {
            let first = count_acknowledged(home.path());
            write_until_killed(home.path(), first + acknowledged);
            let (data_dir, expected) = (DataDir::open(home.path()).unwrap(), first + acknowledged);
            assert_eq!(std::fs::read_dir(data_dir.temporary()).unwrap().count(), 0);
            let (ledger, blobs) = (SqliteLedger::open(&data_dir).unwrap(), DiskBlobs::open(&data_dir, 1 << 30).unwrap());
            let record = ledger.package(&key("axios")).unwrap();
            for number in 0..expected {
                let bytes = content(number);
                assert_eq!(opened(&*blobs, &Digest::of(Algorithm::Sha512, &bytes)).unwrap().unwrap(), bytes, "{number}");
                let version = format!("{number}.0.0");
                assert!(record.releases.iter().any(|release| *release.version == *version), "{version}");
            }
            let blobs: Arc<dyn BlobStore> = blobs;
            put(&blobs, b"one more tarball");
        }
        let seen = SqliteLedger::read_only(home.path()).unwrap().exposure(&PackageName::parse("axios").unwrap(), None).unwrap();
        assert!(!seen.is_empty());
    }

    fn content(number: usize) -> Vec<u8> {
        format!("tarball {number} ").repeat(3000 + number).into_bytes()
    }

    fn count_acknowledged(home: &Path) -> usize {
        SqliteLedger::read_only(home).map_or(0, |ledger| ledger.package(&key("axios")).unwrap().releases.len())
    }

    fn write_until_killed(home: &Path, acknowledged: usize) {
        let test = "store::tests::acknowledged_writes_survive_a_kill_and_partial_files_do_not";
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(CHILD, home)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let last = format!("acknowledged {acknowledged}");
        let is_acknowledged = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap).any(|line| line == last);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_acknowledged, "the child ended before it was killed");
    }

    fn write_long(home: &Path) {
        let data_dir = DataDir::open(home).unwrap();
        let ledger = SqliteLedger::open(&data_dir).unwrap();
        let blobs: Arc<dyn BlobStore> = DiskBlobs::open(&data_dir, 1 << 30).unwrap();
        let done = ledger.package(&key("axios")).unwrap().releases.len();
        for number in done..done + 5_000 {
            put(&blobs, &content(number));
            let change = PackageChange { releases: vec![release(&format!("{number}.0.0"), b"")], ..PackageChange::default() };
            ledger.record_package(&key("axios"), &change).unwrap();
            ledger.record_download(download(&format!("{number}.0.0"), [127, 0, 0, 1]), at(0));
            if number % 16 == 0 {
                ledger.flush();
            }
            let mut out = std::io::stdout();
            // Starts on a new line, because the test harness may have written part of one.
            writeln!(out, "\nacknowledged {}", number + 1).unwrap();
        }
    }
}
