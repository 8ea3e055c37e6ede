//! Fetches the changed files of a feed at a URL, with as few requests as possible.

use std::collections::HashSet;
use std::path::Path;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::task::JoinSet;
use url::Url;

use crate::feed::config::FeedConfig;
use crate::feed::error::FeedError;
use crate::feed::format::changes::{self, ChangeList};
use crate::feed::format::signed_index::{self, SignedIndex};
use crate::feed::import::MAX_DOCUMENT_BYTES;
use crate::feed::osv;
use crate::feed::source::download::{DownloadResult, DownloadValidators, FeedDownloader, failed};
use crate::feed::source::{SourceFiles, SourceSnapshot, blocking};
use crate::feed::state::FeedState;

/// Maximum number of concurrent record requests.
const MAX_CONCURRENT: usize = 8;

/// Maximum number of records that are fetched one by one from a directory without an archive.
const MAX_SINGLE_RECORDS: usize = 20_000;

/// Maximum size of a directory listing, in bytes.
const MAX_LISTING_BYTES: u64 = 16 << 20;

/// Maximum size of a change list, in bytes: ten times the size of OSV's.
const MAX_CHANGES_BYTES: u64 = 128 << 20;

/// Maximum total size of records that are fetched one by one, in bytes. They stay in memory until all have arrived.
const MAX_RECORDS_BYTES: u64 = 256 << 20;

pub(crate) enum RemoteChanges {
    Unchanged,
    Changed(Box<SourceSnapshot>),
}

impl RemoteChanges {
    fn new(files: SourceFiles, validators: DownloadValidators, index: Option<SignedIndex>) -> Self {
        Self::Changed(Box::new(SourceSnapshot { files, validators, stamp: None, index }))
    }
}

pub(crate) struct RemoteFeed<'a> {
    pub(crate) feed: &'a FeedConfig,
    pub(crate) fetcher: &'a FeedDownloader,
    pub(crate) directory: &'a Path,
    pub(crate) before: &'a FeedState,
    pub(crate) now: Timestamp,
}

impl RemoteFeed<'_> {
    /// Fetches the changes of the feed at `url`.
    pub(crate) async fn fetch(&self, url: &Url) -> Result<RemoteChanges, FeedError> {
        if url.path().ends_with('/') {
            return self.directory(url).await;
        }
        if self.feed.key.is_some() {
            return Err(FeedError::Index(
                "a feed with a `key` must be a directory with a signed index; use a URL that ends in `/`".into(),
            ));
        }
        // After the first import, the change list next to the archive is enough.
        if url.path().ends_with("/all.zip") && self.before.is_good() {
            let base = below(url, "")?;
            if let Ok(Some(found)) = self.changes(&base).await {
                return Ok(found);
            }
        }
        match self.fetcher.fetch_large(url, self.directory, &self.known()).await? {
            DownloadResult::Unchanged => Ok(RemoteChanges::Unchanged),
            DownloadResult::Missing => Err(failed(url, "not found")),
            DownloadResult::File { path, validators } => Ok(RemoteChanges::new(SourceFiles::Downloaded(path), validators, None)),
        }
    }

    async fn directory(&self, base: &Url) -> Result<RemoteChanges, FeedError> {
        let index = self.fetcher.fetch_small(&below(base, signed_index::INDEX)?, signed_index::MAX_INDEX_BYTES).await?;
        if let Some((bytes, index)) = index.as_ref().and_then(|bytes| Some((bytes, SignedIndex::read(bytes)?))) {
            return self.signed(base, bytes, index).await;
        }
        if self.feed.key.is_some() {
            return Err(FeedError::Index("`index.json` not found".into()));
        }
        if let Some(found) = self.changes(base).await? {
            return Ok(found);
        }
        // There is no change list, so rely on the validators of the archive.
        match self.archive(base, &self.known()).await? {
            Some(found) => Ok(found),
            None => self.listing(base).await,
        }
    }

    /// Fetches the archive. Returns `None` if there is none.
    async fn archive(&self, base: &Url, known: &DownloadValidators) -> Result<Option<RemoteChanges>, FeedError> {
        for name in ["all.zip", "npm/all.zip"] {
            match self.fetcher.fetch_large(&below(base, name)?, self.directory, known).await? {
                DownloadResult::Unchanged if *known != DownloadValidators::default() => {
                    return Ok(Some(RemoteChanges::Unchanged));
                }
                DownloadResult::Unchanged | DownloadResult::Missing => {}
                DownloadResult::File { path, validators } => {
                    return Ok(Some(RemoteChanges::new(SourceFiles::Downloaded(path), validators, None)));
                }
            }
        }
        Ok(None)
    }

    /// Fetches changes by the change list. Returns `None` if there is no list.
    async fn changes(&self, base: &Url) -> Result<Option<RemoteChanges>, FeedError> {
        let Some(csv) = self.fetcher.fetch_small(&below(base, "modified_id.csv")?, MAX_CHANGES_BYTES).await? else {
            return Ok(None);
        };
        let tally = self.before.tally.clone();
        let ChangeList { changed, all } = blocking(move || changes::read(&csv, &tally)).await??;
        let Some(changed) = changed.filter(|_| self.before.is_good()) else {
            return match self.archive(base, &DownloadValidators::default()).await? {
                Some(found) => Ok(Some(found)),
                None => self.documents(base, record_names(all)).await.map(Some),
            };
        };
        if changed.is_empty() && all.len() as u64 >= self.before.tally.known() {
            return Ok(Some(RemoteChanges::Unchanged));
        }
        let documents = self.records(base, record_names(changed.iter())).await?;
        let files = SourceFiles::Changes { documents, changed: changed.into_iter().collect(), all };
        Ok(Some(RemoteChanges::new(files, self.known(), None)))
    }

    async fn signed(&self, base: &Url, bytes: &[u8], index: SignedIndex) -> Result<RemoteChanges, FeedError> {
        if let Some(key) = &self.feed.key {
            let signature = self.fetcher.fetch_small(&below(base, signed_index::SIGNATURE)?, 4_096).await?;
            signed_index::verify(key, bytes, signature.as_deref())?;
        }
        index.check(self.before, self.now)?;
        if self.before.is_good() && self.before.serial == Some(index.serial) {
            return Ok(RemoteChanges::Unchanged);
        }
        let url = below(base, signed_index::ARCHIVE)?;
        match self.fetcher.fetch_large(&url, self.directory, &DownloadValidators::default()).await? {
            DownloadResult::File { path, validators } => {
                Ok(RemoteChanges::new(SourceFiles::Downloaded(path), validators, Some(index)))
            }
            DownloadResult::Unchanged | DownloadResult::Missing => Err(failed(&url, "not found")),
        }
    }

    /// Fetches the records that the directory listing of a web server links to.
    async fn listing(&self, base: &Url) -> Result<RemoteChanges, FeedError> {
        let page = self.fetcher.fetch_small(base, MAX_LISTING_BYTES).await?.ok_or_else(|| failed(base, "not found"))?;
        let names = blocking(move || links(&String::from_utf8_lossy(&page))).await?;
        if names.is_empty() {
            return Err(failed(base, "no `modified_id.csv`, no `all.zip` and no links to records found"));
        }
        self.documents(base, names).await
    }

    /// Fetches all records one by one.
    async fn documents(&self, base: &Url, names: Vec<String>) -> Result<RemoteChanges, FeedError> {
        let documents = self.records(base, names).await?;
        Ok(RemoteChanges::new(SourceFiles::Documents(documents), DownloadValidators::default(), None))
    }

    async fn records(&self, base: &Url, names: Vec<String>) -> Result<Vec<(String, Bytes)>, FeedError> {
        if names.len() > MAX_SINGLE_RECORDS {
            return Err(failed(base, format!("{} records without an archive", names.len())));
        }
        let urls = names.into_iter().map(|name| Ok((below(base, &name)?, name))).collect::<Result<Vec<_>, FeedError>>()?;
        let (mut pending, mut left) = (urls.into_iter(), MAX_RECORDS_BYTES);
        let (mut requests, mut documents) = (JoinSet::new(), Vec::new());
        loop {
            while requests.len() < MAX_CONCURRENT
                && let Some((url, name)) = pending.next()
            {
                let fetcher = self.fetcher.clone();
                requests.spawn(async move { fetcher.fetch_small(&url, MAX_DOCUMENT_BYTES).await.map(|bytes| (name, bytes)) });
            }
            let Some(answer) = requests.join_next().await else { return Ok(documents) };
            let (name, bytes) = answer.map_err(|error| failed(base, error))??;
            let length = bytes.as_ref().map_or(0, Bytes::len) as u64;
            let too_large = || failed(base, format!("more than {MAX_RECORDS_BYTES} bytes of records without an archive"));
            left = left.checked_sub(length).ok_or_else(too_large)?;
            documents.extend(bytes.map(|bytes| (name, bytes)));
        }
    }

    fn known(&self) -> DownloadValidators {
        // Without stored records, the validators of an earlier download must not be used.
        if !self.before.is_good() {
            return DownloadValidators::default();
        }
        DownloadValidators { etag: self.before.etag.clone(), last_modified: self.before.last_modified.clone() }
    }
}

fn record_names(ids: impl IntoIterator<Item = impl std::fmt::Display>) -> Vec<String> {
    ids.into_iter().map(|id| format!("{id}.json")).collect()
}

/// Joins a file name to a directory URL and keeps the query, which may be a token.
fn below(base: &Url, name: &str) -> Result<Url, FeedError> {
    let mut url = base.join(name).map_err(|_| failed(base, "invalid URL"))?;
    url.set_query(base.query());
    Ok(url)
}

/// Returns the unique `.json` files in the same directory that a page links to. Stops one file above the limit.
fn links(page: &str) -> Vec<String> {
    let (mut names, mut known) = (Vec::new(), HashSet::new());
    for link in page.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
        let name = link.trim_start_matches("./");
        if osv::is_json(Path::new(name)) && !name.contains(['/', '?', ':']) && known.insert(name) {
            names.push(name.to_owned());
        }
        if names.len() > MAX_SINGLE_RECORDS {
            break;
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listing_yields_records_in_the_same_directory() {
        let page = r#"<a href="MAL-1.json">MAL-1.json</a><a href="./MAL-2.json"><a href="sub/MAL-3.json"><a href="../x.json"><a href="INDEX.html">"#;
        assert_eq!(links(page), ["MAL-1.json", "MAL-2.json"]);
    }

    #[test]
    fn file_name_is_joined_to_the_directory() {
        let base = Url::parse("https://feeds.example/npm/?token=x").unwrap();
        assert_eq!(below(&base, "all.zip").unwrap().as_str(), "https://feeds.example/npm/all.zip?token=x");
        let archive = Url::parse("https://feeds.example/npm/all.zip").unwrap();
        assert_eq!(below(&archive, "modified_id.csv").unwrap().as_str(), "https://feeds.example/npm/modified_id.csv");
    }
}
