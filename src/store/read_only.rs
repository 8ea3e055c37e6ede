//! A read-only ledger for queries that must not change anything. Needs no lock on the data directory.

use jiff::Timestamp;

use crate::npm::{Digest, Integrity, PackageName};
use crate::policy::decisions::Decision;
use crate::store::error::StoreError;
use crate::store::ledger::{
    DownloadEvent, Exposure, InspectedTarball, Ledger, LedgerEvent, PackageChange, PackageKey, PackageRecord, Release,
    ServedTarball, StoredPackument, TarballSource,
};
use crate::store::sqlite::SqliteLedger;

/// The ledger of a data directory; empty if there is none yet. Writes are dropped.
pub(crate) struct ReadOnlyLedger(pub(crate) Option<SqliteLedger>);

impl ReadOnlyLedger {
    fn read<T: Default>(&self, query: impl FnOnce(&SqliteLedger) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.0.as_ref().map_or_else(|| Ok(T::default()), query)
    }
}

impl Ledger for ReadOnlyLedger {
    fn package(&self, key: &PackageKey) -> Result<PackageRecord, StoreError> {
        self.read(|ledger| ledger.package(key))
    }

    fn tarballs(&self, key: &PackageKey, version: &str) -> Result<Vec<TarballSource>, StoreError> {
        self.read(|ledger| ledger.tarballs(key, version))
    }

    fn record_package(&self, _key: &PackageKey, _change: &PackageChange) -> Result<(), StoreError> {
        Ok(())
    }

    fn tarball_summary(&self, sha512: &Digest, code: u32) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(|ledger| ledger.tarball_summary(sha512, code))
    }

    fn record_tarball_summary(&self, _sha512: &Digest, _code: u32, _summary: &[u8]) -> Result<(), StoreError> {
        Ok(())
    }

    fn record_absence(&self, _key: &PackageKey, _document: &StoredPackument, _expired: Timestamp) -> Result<bool, StoreError> {
        Ok(true)
    }

    fn record_download(&self, _download: DownloadEvent, _at: Timestamp) {}

    fn record_event(&self, _event: LedgerEvent, _at: Timestamp) {}

    fn exposure(&self, name: &PackageName, version: Option<&str>) -> Result<Vec<Exposure>, StoreError> {
        self.read(|ledger| ledger.exposure(name, version))
    }

    fn decisions(&self) -> Result<(u64, Vec<Decision>), StoreError> {
        self.read(SqliteLedger::decisions)
    }

    fn names(&self) -> Result<Vec<PackageName>, StoreError> {
        self.read(Ledger::names)
    }

    fn releases(&self, name: &PackageName) -> Result<Vec<Release>, StoreError> {
        self.read(|ledger| ledger.releases(name))
    }

    fn downloaded(&self, name: &PackageName) -> Result<Vec<TarballSource>, StoreError> {
        self.read(|ledger| ledger.downloaded(name))
    }

    fn downloaded_with(&self, is_wanted: &dyn Fn(&Integrity) -> bool) -> Result<Vec<(PackageName, TarballSource)>, StoreError> {
        self.read(|ledger| ledger.downloaded_with(is_wanted))
    }

    fn inspected_with_listed_files(&self) -> Result<Vec<(PackageKey, InspectedTarball)>, StoreError> {
        self.read(Ledger::inspected_with_listed_files)
    }

    fn served_tarballs(&self, since: Timestamp, limit: usize) -> Result<Vec<ServedTarball>, StoreError> {
        self.read(|ledger| ledger.served_tarballs(since, limit))
    }

    fn package_keys(&self, name: &PackageName) -> Result<Vec<PackageKey>, StoreError> {
        self.read(|ledger| ledger.package_keys(name))
    }

    fn has_event(&self, event: &LedgerEvent) -> Result<bool, StoreError> {
        self.read(|ledger| ledger.has_event(event))
    }

    fn flush(&self) {}
}
