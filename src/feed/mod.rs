//! Threat intelligence feeds. Imports OSV records and plain lists as [`Advisories`](crate::policy::Advisories) and keeps the last
//! good records on disk. The caller schedules syncs.

pub mod config;
mod error;
mod export;
mod first_read;
pub(crate) mod format;
mod import;
mod osv;
pub(crate) mod source;
mod state;
mod store;
mod sync;

pub use config::{FeedConfig, FeedSource, PublicKey};
pub use error::FeedError;
pub use export::{ExportSummary, FeedExport, FeedSigner, export};
pub use osv::{OsvAffected, OsvEvent, OsvPackage, OsvRange, OsvRecord};
pub use state::{FeedCounts, FeedFailure, FeedState};
pub use store::FeedStore;
pub use sync::{LoadedFeed, OnShrink, SyncOutcome, load, load_path_once, sync};
