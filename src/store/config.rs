//! Configuration of the store.

use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The data directory. Created if missing, and owned by one process at a time.
    pub data_dir: PathBuf,
    /// Maximum bytes on disk for tarballs and raw packuments. Excludes the ledger, which its retention bounds.
    pub cache_size: u64,
    pub ledger_retention: Duration,
}
