//! Sources of feeds: directories and HTTP.

pub(crate) mod directory;
pub(crate) mod download;
pub(crate) mod remote;

use std::collections::HashSet;
use std::path::PathBuf;

use bytes::Bytes;

use crate::feed::error::FeedError;
use crate::feed::format::signed_index::SignedIndex;
use crate::feed::source::directory::DirectoryFiles;
use crate::feed::source::download::DownloadValidators;

/// The changed files of a source before parsing, with the data that later detects changes.
pub(crate) struct SourceSnapshot {
    pub(crate) files: SourceFiles,
    pub(crate) validators: DownloadValidators,
    pub(crate) stamp: Option<String>,
    pub(crate) index: Option<SignedIndex>,
}

pub(crate) enum SourceFiles {
    Found(DirectoryFiles),
    Downloaded(PathBuf),
    /// Records by file name. Records that no longer exist are left out.
    Documents(Vec<(String, Bytes)>),
    /// Incremental changes: new documents, plus the stored records whose id is in `all` but not in `changed`.
    Changes {
        documents: Vec<(String, Bytes)>,
        changed: HashSet<String>,
        all: HashSet<String>,
    },
}

/// Works on files or server data on a blocking thread, since they may be large.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, FeedError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| FeedError::broken("the feed", error))
}
