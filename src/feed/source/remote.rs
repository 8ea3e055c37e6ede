//! A feed at an address: which of its files are asked for, in which order, so that little is asked for twice. Refuses to read
//! records.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tokio::task::JoinSet;
use url::Url;

use crate::feed::FeedError;
use crate::feed::config::FeedConfig;
use crate::feed::format::changes::{self, ChangeList};
use crate::feed::format::signed_index::{self, SignedIndex};
use crate::feed::import::LARGEST;
use crate::feed::source::directory;
use crate::feed::source::download::{CacheValidators, DownloadResult, FeedDownloader, failed};
use crate::feed::store::FeedState;
use jiff::Timestamp;

/// Records asked for at once.
const AT_ONCE: usize = 8;

/// The most records that are fetched one by one from a directory that has no archive.
const MOST_SINGLE: usize = 20_000;

/// The largest list of a directory, in bytes.
const LARGEST_LISTING: u64 = 16 << 20;

/// The largest list of changes, in bytes: ten times what OSV's has.
const LARGEST_CHANGES: u64 = 128 << 20;

/// The most that records fetched one by one may have together, in bytes: they are in memory until all have come.
const MAX_RECORDS_BYTES: u64 = 256 << 20;

/// What was fetched, not yet read.
pub(crate) enum FetchedFiles {
    /// A file of any format.
    File(PathBuf),
    /// Records by name; one that is not there any more is left out.
    Documents(Vec<(String, Bytes)>),
    /// What changed: new documents, and of the old ones those whose id is in `all` and not among the `changed`.
    Changes { documents: Vec<(String, Bytes)>, changed: HashSet<String>, all: HashSet<String> },
}

/// What came of looking.
pub(crate) struct RemoteChanges {
    /// `None` when nothing changed.
    pub(crate) material: Option<FetchedFiles>,
    pub(crate) validators: CacheValidators,
    pub(crate) index: Option<SignedIndex>,
}

/// One look at the feed at `url`.
pub(crate) struct RemoteFeed<'a> {
    pub(crate) feed: &'a FeedConfig,
    pub(crate) fetcher: &'a FeedDownloader,
    pub(crate) directory: &'a Path,
    pub(crate) before: &'a FeedState,
    pub(crate) now: Timestamp,
}

impl RemoteFeed<'_> {
    /// Fetches what changed.
    pub(crate) async fn fetch(&self, url: &Url) -> Result<RemoteChanges, FeedError> {
        if url.path().ends_with('/') {
            return self.directory(url).await;
        }
        if self.feed.key.is_some() {
            return Err(FeedError::Index(
                "a feed with a `key` is a directory with a signed index; its address ends in `/`".into(),
            ));
        }
        // Beside an archive that was read before lies the list of what changed since.
        if url.path().ends_with("/all.zip") && self.before.is_good() {
            let base = below(url, "")?;
            if let Ok(Some(found)) = self.changes(&base).await {
                return Ok(found);
            }
        }
        match self.fetcher.large(url, self.directory, &self.known()).await? {
            DownloadResult::Unchanged => Ok(self.unchanged()),
            DownloadResult::Missing => Err(failed(url, "it is not there")),
            DownloadResult::File { path, validators } => {
                Ok(RemoteChanges { material: Some(FetchedFiles::File(path)), validators, index: None })
            }
        }
    }

    async fn directory(&self, base: &Url) -> Result<RemoteChanges, FeedError> {
        let index = self.fetcher.small(&below(base, signed_index::INDEX)?, signed_index::LARGEST).await?;
        if let Some((bytes, index)) = index.as_ref().and_then(|bytes| Some((bytes, SignedIndex::read(bytes)?))) {
            return self.signed(base, bytes, index).await;
        }
        if self.feed.key.is_some() {
            return Err(FeedError::Index("there is none".into()));
        }
        if let Some(found) = self.changes(base).await? {
            return Ok(found);
        }
        // The list of changes lets nothing be told, so what the archive says of itself counts.
        for name in ["all.zip", "npm/all.zip"] {
            match self.fetcher.large(&below(base, name)?, self.directory, &self.known()).await? {
                DownloadResult::Unchanged => return Ok(self.unchanged()),
                DownloadResult::Missing => {}
                DownloadResult::File { path, validators } => {
                    return Ok(RemoteChanges { material: Some(FetchedFiles::File(path)), validators, index: None });
                }
            }
        }
        self.listing(base).await
    }

    /// By the list of what changed; `None` when there is none, or when the whole archive is the shorter way.
    async fn changes(&self, base: &Url) -> Result<Option<RemoteChanges>, FeedError> {
        let Some(csv) = self.fetcher.small(&below(base, "modified_id.csv")?, LARGEST_CHANGES).await? else { return Ok(None) };
        let tally = self.before.tally.clone();
        let ChangeList { changed, all } = blocking(move || changes::read(&csv, &tally)).await??;
        let Some(changed) = changed.filter(|_| self.before.is_good()) else {
            return self.without_archive(base, all).await;
        };
        if changed.is_empty() && all.len() as u64 >= self.before.tally.known() {
            return Ok(Some(self.unchanged()));
        }
        let documents = self.records(base, changed.iter().map(|id| format!("{id}.json")).collect()).await?;
        let material = FetchedFiles::Changes { documents, changed: changed.into_iter().collect(), all };
        Ok(Some(RemoteChanges { material: Some(material), validators: self.known(), index: None }))
    }

    /// The records themselves, where there is a list of them and no archive.
    async fn without_archive(&self, base: &Url, all: HashSet<String>) -> Result<Option<RemoteChanges>, FeedError> {
        for name in ["all.zip", "npm/all.zip"] {
            if let DownloadResult::File { path, validators } =
                self.fetcher.large(&below(base, name)?, self.directory, &CacheValidators::default()).await?
            {
                return Ok(Some(RemoteChanges { material: Some(FetchedFiles::File(path)), validators, index: None }));
            }
        }
        let documents = self.records(base, all.into_iter().map(|id| format!("{id}.json")).collect()).await?;
        Ok(Some(RemoteChanges {
            material: Some(FetchedFiles::Documents(documents)),
            validators: CacheValidators::default(),
            index: None,
        }))
    }

    async fn signed(&self, base: &Url, bytes: &[u8], index: SignedIndex) -> Result<RemoteChanges, FeedError> {
        if let Some(key) = &self.feed.key {
            let signature = self.fetcher.small(&below(base, signed_index::SIGNATURE)?, 4_096).await?;
            signed_index::verify(key, bytes, signature.as_deref())?;
        }
        index.check(self.before, self.now)?;
        if self.before.is_good() && self.before.serial == Some(index.serial) {
            return Ok(RemoteChanges { index: Some(index), ..self.unchanged() });
        }
        let url = below(base, signed_index::ARCHIVE)?;
        match self.fetcher.large(&url, self.directory, &CacheValidators::default()).await? {
            DownloadResult::File { path, validators } => {
                Ok(RemoteChanges { material: Some(FetchedFiles::File(path)), validators, index: Some(index) })
            }
            DownloadResult::Unchanged | DownloadResult::Missing => Err(failed(&url, "it is not there")),
        }
    }

    /// What a web server lists of a directory: the records it links to.
    async fn listing(&self, base: &Url) -> Result<RemoteChanges, FeedError> {
        let page = self.fetcher.small(base, LARGEST_LISTING).await?.ok_or_else(|| failed(base, "it is not there"))?;
        let names = blocking(move || links(&String::from_utf8_lossy(&page))).await?;
        if names.is_empty() {
            return Err(failed(base, "neither `modified_id.csv` nor `all.zip` is there, nor a list of records"));
        }
        let documents = self.records(base, names).await?;
        Ok(RemoteChanges {
            material: Some(FetchedFiles::Documents(documents)),
            validators: CacheValidators::default(),
            index: None,
        })
    }

    async fn records(&self, base: &Url, names: Vec<String>) -> Result<Vec<(String, Bytes)>, FeedError> {
        if names.len() > MOST_SINGLE {
            return Err(failed(base, format!("{} records without an archive", names.len())));
        }
        let mut urls = Vec::with_capacity(names.len());
        for name in names {
            urls.push((below(base, &name)?, name));
        }
        let (mut waiting, mut asked, mut documents, mut left) = (urls.into_iter(), JoinSet::new(), Vec::new(), MAX_RECORDS_BYTES);
        loop {
            while asked.len() < AT_ONCE
                && let Some((url, name)) = waiting.next()
            {
                let fetcher = self.fetcher.clone();
                asked.spawn(async move { fetcher.small(&url, LARGEST).await.map(|bytes| (name, bytes)) });
            }
            let Some(answer) = asked.join_next().await else { return Ok(documents) };
            let (name, bytes) = answer.map_err(|lost| failed(base, lost))??;
            let length = bytes.as_ref().map_or(0, Bytes::len) as u64;
            left = left
                .checked_sub(length)
                .ok_or_else(|| failed(base, format!("more than {MAX_RECORDS_BYTES} bytes of records without an archive")))?;
            documents.extend(bytes.map(|bytes| (name, bytes)));
        }
    }

    fn known(&self) -> CacheValidators {
        // Validators of records that are not there any more say nothing.
        let good = self.before.is_good().then_some(self.before);
        CacheValidators {
            etag: good.and_then(|state| state.etag.clone()),
            last_modified: good.and_then(|state| state.last_modified.clone()),
        }
    }

    fn unchanged(&self) -> RemoteChanges {
        RemoteChanges { material: None, validators: self.known(), index: None }
    }
}

/// The address of a name below a directory. The query, which may be a token, goes along.
fn below(base: &Url, name: &str) -> Result<Url, FeedError> {
    let mut url = base.join(name).map_err(|_| failed(base, "an address that cannot be put together"))?;
    url.set_query(base.query());
    Ok(url)
}

/// The `.json` files that a page links to and that are next to it, each once; one more than are fetched at most.
fn links(page: &str) -> Vec<String> {
    let (mut names, mut known) = (Vec::new(), HashSet::new());
    for link in page.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
        let name = link.trim_start_matches("./");
        if directory::is_json(Path::new(name)) && !name.contains(['/', '?', ':']) && known.insert(name) {
            names.push(name.to_owned());
        }
        if names.len() > MOST_SINGLE {
            break;
        }
    }
    names
}

/// Reads what a server sent off the async threads: it may be large.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, FeedError> {
    tokio::task::spawn_blocking(work).await.map_err(|lost| FeedError::broken("the feed", lost))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_links_to_the_records_beside_it() {
        let page = r#"<a href="MAL-1.json">MAL-1.json</a><a href="./MAL-2.json"><a href="sub/MAL-3.json"><a href="../x.json"><a href="INDEX.html">"#;
        assert_eq!(links(page), ["MAL-1.json", "MAL-2.json"]);
    }

    #[test]
    fn a_name_lies_below_its_directory() {
        let base = Url::parse("https://feeds.example/npm/?token=x").unwrap();
        assert_eq!(below(&base, "all.zip").unwrap().as_str(), "https://feeds.example/npm/all.zip?token=x");
        let archive = Url::parse("https://feeds.example/npm/all.zip").unwrap();
        assert_eq!(below(&archive, "modified_id.csv").unwrap().as_str(), "https://feeds.example/npm/modified_id.csv");
    }
}
