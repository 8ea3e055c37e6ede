//! Floor 5: what outlives a process. Blobs (tarballs, raw packuments) by what they hash to, and the ledger.
//!
//! Refuses to know npm's rules: it keeps and finds, it does not judge. Every call blocks; callers on async threads go
//! through `spawn_blocking`, except [`Blobs::open`] of a blob that this process already verified, which is a look-up.

pub mod blobs;
pub mod ledger;

use std::path::PathBuf;

pub use blobs::{Blobs, PendingBlob};
pub use ledger::{
    Document, Download, Exposure, Incident, Kind, Ledger, Outcome, PackageChange, PackageKey, PackageRecord, Release, TagSighting,
};

/// What the store could not do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refused.
    #[error("cannot {action} `{}`", path.display())]
    File {
        /// What was tried: `open`, `write`, `rename`, …
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The bytes are not what the packument said.
    #[error(transparent)]
    Mismatch(#[from] crate::npm::integrity::Mismatch),
    /// SQLite refused.
    #[error("the ledger cannot {action}")]
    Ledger {
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: rusqlite::Error,
    },
    /// The ledger holds something this version does not understand.
    #[error("the ledger is damaged: {0}")]
    Damaged(String),
    /// The data directory was made by a newer Coldframe.
    #[error("`{}` was written by a newer coldframe (schema {found}, this one knows {known})", path.display())]
    Newer {
        /// The ledger's file.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest schema this program knows.
        known: i64,
    },
    /// Another process owns the data directory.
    #[error("`{}` is in use by another coldframe", path.display())]
    Locked {
        /// The data directory.
        path: PathBuf,
    },
}
