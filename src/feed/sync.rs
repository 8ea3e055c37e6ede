//! Syncs a feed: fetches, parses, validates and stores the records, and builds the index. A failed sync changes only the feed's
//! state. The caller activates the result.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use crate::feed::config::{FeedConfig, FeedSource};
use crate::feed::error::FeedError;
use crate::feed::first_read::Readings;
use crate::feed::format::signed_index::{self, SignedIndex};
use crate::feed::import::{RecordImporter, RecordIndex};
use crate::feed::source::download::{DownloadValidators, FeedDownloader};
use crate::feed::source::remote::{RemoteChanges, RemoteFeed};
use crate::feed::source::{SourceFiles, SourceSnapshot, blocking, directory};
use crate::feed::state::{FeedCounts, FeedFailure, FeedState};
use crate::feed::store::{FeedLock, FeedStore, RECORDS};
use crate::net::HttpClient;
use crate::npm::{Algorithm, Digest};
use crate::policy::FeedAdvisories;

#[derive(Debug)]
pub enum SyncOutcome {
    Unchanged(FeedState),
    Changed(LoadedFeed),
    /// The sync failed. The active records stay.
    Failed(FeedState, FeedError),
}

/// What to do with a feed that lost most of its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnShrink {
    Reject,
    Accept,
}

/// A loaded feed that can be activated.
#[derive(Debug)]
pub struct LoadedFeed {
    pub advisories: Arc<FeedAdvisories>,
    pub state: FeedState,
}

/// Loads the stored records of a feed from disk. Returns `None` if there are none. Blocks.
///
/// # Errors
/// Returns an error if the stored records cannot be read.
pub fn load(feed: &FeedConfig, store: &FeedStore) -> Result<Option<LoadedFeed>, FeedError> {
    let state = store.state(feed);
    if !state.is_good() {
        return Ok(None);
    }
    // Records without a first-read instant were read no later than the import.
    let came = state.changed.unwrap_or(Timestamp::UNIX_EPOCH);
    let directory = store.directory(feed);
    let index = RecordIndex::load(&directory.join(RECORDS), Readings::load(&directory, came)?)?;
    Ok(Some(LoadedFeed { advisories: Arc::new(index.builder.build(&feed.name, feed.trust)), state }))
}

/// Loads the file or directory of a feed once, into the temporary store `store`. First-read instants come from `remembered`.
/// Returns `None` for a feed at a URL, without a request. Blocks.
///
/// # Errors
/// Returns an error if the feed cannot be read or is invalid.
pub fn load_path_once(
    feed: &FeedConfig,
    store: &FeedStore,
    remembered: &FeedStore,
    now: Timestamp,
) -> Result<Option<LoadedFeed>, FeedError> {
    let FeedSource::Path(path) = &feed.source else { return Ok(None) };
    let sync = FeedSync { feed: feed.clone(), lock: store.lock(feed)?, before: FeedState::default(), now };
    let Some(snapshot) = sync.check_path(path)? else { return Ok(None) };
    let readings = Readings::load(&remembered.directory(feed), now)?;
    sync.import_and_store(snapshot, readings, OnShrink::Reject).map(Some)
}

pub async fn sync(feed: &FeedConfig, store: &FeedStore, client: &HttpClient, now: Timestamp, on_shrink: OnShrink) -> SyncOutcome {
    let before = store.state(feed);
    let lock = match store.lock(feed) {
        Ok(lock) => lock,
        Err(error) => return SyncOutcome::Failed(before, error),
    };
    let sync = Arc::new(FeedSync { feed: feed.clone(), lock, before, now });
    let error = match sync.run(client, on_shrink).await {
        Ok(Some(loaded)) => return SyncOutcome::Changed(loaded),
        Ok(None) => None,
        Err(error) => Some(error),
    };
    let before = sync.before.clone();
    let state = match &error {
        None => FeedState { synced: Some(now), failure: None, ..before },
        Some(error) => FeedState { failure: Some(FeedFailure { at: now, why: error.to_string() }), ..before },
    };
    if let Err(error) = sync.lock.write_state(&state) {
        tracing::error!(error = &error as &dyn std::error::Error, "feed state write failed");
    }
    match error {
        None => SyncOutcome::Unchanged(state),
        Some(error) => SyncOutcome::Failed(state, error),
    }
}

/// One sync of one feed.
struct FeedSync {
    feed: FeedConfig,
    lock: FeedLock,
    before: FeedState,
    now: Timestamp,
}

impl FeedSync {
    /// Checks the source, and imports it if it changed. Returns `None` if it is unchanged.
    async fn run(self: &Arc<Self>, client: &HttpClient, on_shrink: OnShrink) -> Result<Option<LoadedFeed>, FeedError> {
        let Some(snapshot) = self.check_source(client).await? else { return Ok(None) };
        let sync = Arc::clone(self);
        let import = move || {
            let readings = Readings::load(&sync.lock.directory, sync.now)?;
            sync.import_and_store(snapshot, readings, on_shrink).map(Some)
        };
        blocking(import).await?
    }

    /// Fetches or lists the source. Returns `None` if it is unchanged.
    async fn check_source(self: &Arc<Self>, client: &HttpClient) -> Result<Option<SourceSnapshot>, FeedError> {
        match &self.feed.source {
            FeedSource::Url(url) => {
                let fetcher = FeedDownloader(client.clone());
                let (feed, directory, before, now) = (&self.feed, &*self.lock.directory, &self.before, self.now);
                let remote = RemoteFeed { feed, fetcher: &fetcher, directory, before, now };
                match remote.fetch(url).await? {
                    RemoteChanges::Unchanged => Ok(None),
                    RemoteChanges::Changed(snapshot) => Ok(Some(*snapshot)),
                }
            }
            FeedSource::Path(path) => {
                let (sync, path) = (Arc::clone(self), path.clone());
                blocking(move || sync.check_path(&path)).await?
            }
        }
    }

    /// Lists the files at `path`. Returns `None` if they are unchanged. Blocks.
    fn check_path(&self, path: &Path) -> Result<Option<SourceSnapshot>, FeedError> {
        let index = self.local_index(path)?;
        let archive = index.as_ref().map(|_| path.join(signed_index::ARCHIVE));
        let found = directory::scan(archive.as_deref().unwrap_or(path))?;
        // A new index may list the same archive.
        let serial = index.as_ref().map(|index| format!(", serial {}", index.serial)).unwrap_or_default();
        let stamp = Some(format!("{}{serial}", found.stamp));
        if self.before.is_good() && self.before.stamp == stamp {
            return Ok(None);
        }
        Ok(Some(SourceSnapshot { files: SourceFiles::Found(found), validators: DownloadValidators::default(), stamp, index }))
    }

    /// Reads and checks the signed index in a directory. Returns `None` if there is no Coldframe index.
    fn local_index(&self, path: &Path) -> Result<Option<SignedIndex>, FeedError> {
        let read = |name: &str| Some(path.join(name)).filter(|path| path.is_file()).and_then(|path| read_small(&path).ok());
        let bytes = read(signed_index::INDEX);
        let index = bytes.as_ref().and_then(|bytes| SignedIndex::read(bytes));
        let (Some(bytes), Some(index)) = (bytes, index) else {
            return if self.feed.key.is_some() { Err(FeedError::Index("`index.json` not found".into())) } else { Ok(None) };
        };
        if let Some(key) = &self.feed.key {
            let signature = read(signed_index::SIGNATURE);
            signed_index::verify(key, &bytes, signature.as_deref())?;
        }
        index.check(&self.before, self.now)?;
        Ok(Some(index))
    }

    /// Imports and validates new records and replaces the stored ones. Blocks.
    fn import_and_store(
        &self,
        snapshot: SourceSnapshot,
        readings: Readings,
        on_shrink: OnShrink,
    ) -> Result<LoadedFeed, FeedError> {
        let importer = self.import(&snapshot, readings)?;
        let may_be_empty = importer.may_be_empty;
        let (file, RecordIndex { builder, tally, readings }) = importer.finish()?;
        check(&tally, may_be_empty, &self.before, on_shrink)?;
        let SourceSnapshot { validators, stamp, index, .. } = snapshot;
        let state = FeedState {
            source: self.feed.source.to_string(),
            synced: Some(self.now),
            changed: Some(self.now),
            failure: None,
            generation: self.before.generation + 1,
            tally,
            etag: validators.etag,
            last_modified: validators.last_modified,
            stamp,
            serial: index.as_ref().map(|index| index.serial).or(self.before.serial),
            expires: index.map(|index| index.expires),
        };
        let advisories = Arc::new(builder.build(&self.feed.name, self.feed.trust));
        // Save before the records, so that a crash in between does not lose a first-read instant.
        readings.save(&self.lock.directory)?;
        self.lock.replace_records(file, &state)?;
        Ok(LoadedFeed { advisories, state })
    }

    fn import(&self, snapshot: &SourceSnapshot, readings: Readings) -> Result<RecordImporter, FeedError> {
        let (feed, index) = (&self.feed, snapshot.index.as_ref());
        let mut importer = RecordImporter::begin(&self.lock.directory, readings)?;
        // A signed archive may be empty at first, and `feed-may-be-empty` allows an empty directory.
        importer.may_be_empty = index.is_some() || (feed.may_be_empty && matches!(feed.source, FeedSource::Path(_)));
        match &snapshot.files {
            SourceFiles::Found(found) => {
                check_archive(index, &found.root)?;
                directory::import_all(&mut importer, &feed.name, found)?;
            }
            SourceFiles::Downloaded(path) => {
                check_archive(index, path)?;
                let imported = directory::import_file(&mut importer, &feed.name, path);
                // The download is not needed again, even if the import failed.
                let _ = std::fs::remove_file(path);
                imported?;
            }
            SourceFiles::Documents(documents) => importer.add_documents(documents)?,
            SourceFiles::Changes { documents, changed, all } => {
                importer.keep_unchanged(&self.lock.records(), |id| all.contains(id) && !changed.contains(id))?;
                importer.add_documents(documents)?;
            }
        }
        Ok(importer)
    }
}

/// Reads an index file. A file above the limit is truncated and then invalid.
fn read_small(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(signed_index::MAX_INDEX_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Checks the archive against the hash and size in the index, if there is one.
fn check_archive(index: Option<&SignedIndex>, path: &Path) -> Result<(), FeedError> {
    let Some(index) = index else { return Ok(()) };
    let invalid = |text: &str| FeedError::Index(format!("`{}` {text}", signed_index::ARCHIVE).into());
    let listed = index.files.get(signed_index::ARCHIVE).ok_or_else(|| invalid("is not listed"))?;
    let bytes = std::fs::read(path).map_err(FeedError::file("read", path))?;
    let same = bytes.len() as u64 == listed.size && Digest::of(Algorithm::Sha256, &bytes).to_hex() == listed.sha256;
    if same { Ok(()) } else { Err(invalid("differs from the listed file")) }
}

/// Checks whether imported records may replace the active ones.
fn check(tally: &FeedCounts, may_be_empty: bool, before: &FeedState, on_shrink: OnShrink) -> Result<(), FeedError> {
    let (now, had) = (tally.known(), if before.is_good() { before.tally.known() } else { 0 });
    if tally.unreadable > now {
        let trouble = tally.trouble.as_deref().unwrap_or("unknown reason");
        return Err(FeedError::broken(format!("{} documents of the feed", tally.unreadable), trouble));
    }
    if on_shrink == OnShrink::Accept && (now > 0 || may_be_empty) {
        return Ok(());
    }
    // One of two records may disappear legitimately, but not half of many.
    let shrunk = if had > 2 { now * 2 <= had } else { now == 0 && had > 0 && !may_be_empty };
    if shrunk {
        return Err(FeedError::Shrunk { before: had, now });
    }
    if now == 0 && !may_be_empty {
        return Err(FeedError::NoRecords);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;
    use crate::net::{ClientConfig, Deadlines, ProxySettings};
    use crate::policy::FeedTrust;

    struct Scene {
        home: tempfile::TempDir,
        feed: FeedConfig,
        now: Timestamp,
    }

    impl Scene {
        fn of(source: &str) -> Self {
            let home = tempfile::tempdir().unwrap();
            let feed = FeedConfig {
                name: "osv".to_owned(),
                source: FeedSource::Path(home.path().join(source)),
                trust: FeedTrust::Deny,
                interval: Duration::from_secs(60),
                expiry: Duration::from_secs(3600),
                key: None,
                may_be_empty: false,
            };
            Self { home, feed, now: Timestamp::from_second(1_780_000_000).unwrap() }
        }

        fn write(&self, path: &str, text: impl AsRef<[u8]>) {
            let path = self.home.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn store(&self) -> FeedStore {
            FeedStore::of(&self.home.path().join("data"))
        }

        async fn sync(&self) -> SyncOutcome {
            let tls = crate::net::testing::TestIdentity::no_roots();
            let user_agent = http::HeaderValue::from_static("trial/1");
            let client = HttpClient::new(&ClientConfig {
                deadlines: Deadlines::default(),
                proxies: ProxySettings::none(),
                tls,
                user_agent,
            });
            sync(&self.feed, &self.store(), &client, self.now, OnShrink::Reject).await
        }

        async fn fails(&self) -> String {
            match self.sync().await {
                SyncOutcome::Failed(state, error) => {
                    assert_eq!(state.failure.as_ref().map(|failure| failure.why.clone()), Some(error.to_string()));
                    assert_eq!(self.store().state(&self.feed), state);
                    error.to_string()
                }
                other => panic!("{other:?}"),
            }
        }

        async fn changes(&self) -> FeedCounts {
            match self.sync().await {
                SyncOutcome::Changed(loaded) => {
                    let kept = load(&self.feed, &self.store()).unwrap().unwrap();
                    assert_eq!(kept.advisories.count(), loaded.advisories.count());
                    assert_eq!(kept.state, loaded.state);
                    loaded.state.tally
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn record(id: &str, more: &str) -> String {
        format!(
            r#"{{"id":"{id}","modified":"2026-01-01T00:00:00Z"{more},"affected":[{{"package":{{"ecosystem":"npm","name":"p-{id}"}},"versions":["1.0.0"]}}]}}"#
        )
    }

    #[tokio::test]
    async fn directory_is_imported_and_other_documents_are_counted() {
        let scene = Scene::of("osv");
        scene.write("osv/MAL-1.json", record("MAL-1", ""));
        scene.write("osv/deep/@a/MAL-2.json", record("MAL-2", ""));
        scene.write("osv/withdrawn/MAL-3.json", record("MAL-3", ""));
        scene.write("osv/MAL-0000-x.json", record("MAL-0000-x", ""));
        scene.write("osv/INDEX.json", r#"{"count":3,"records":[]}"#);
        scene.write("osv/MAL-4.json", "{\"id\":");
        let tally = scene.changes().await;
        assert_eq!((tally.records, tally.withdrawn, tally.skipped, tally.unreadable), (2, 1, 1, 1));
        assert!(matches!(scene.sync().await, SyncOutcome::Unchanged(_)));
        scene.write("osv/MAL-1.json", record("MAL-1", r#","withdrawn":"2026-02-01T00:00:00Z""#));
        let tally = scene.changes().await;
        assert_eq!((tally.records, tally.withdrawn), (1, 2));
    }

    #[tokio::test]
    async fn archive_is_imported_and_a_damaged_one_changes_nothing() {
        let scene = Scene::of("all.zip");
        let records: Vec<_> = (0..50).map(|at| (format!("MAL-{at}.json"), record(&format!("MAL-{at}"), ""))).collect();
        let files = records.iter().map(|(name, text)| (name.as_str(), text.as_bytes()));
        crate::feed::format::zip::write_zip(&scene.home.path().join("all.zip"), files).unwrap();
        assert_eq!(scene.changes().await.records, 50);
        let whole = fs::read(scene.home.path().join("all.zip")).unwrap();
        for length in [0, 10, whole.len() / 2, whole.len() - 1] {
            scene.write("all.zip", &whole[..length]);
            scene.fails().await;
            assert_eq!(load(&scene.feed, &scene.store()).unwrap().unwrap().advisories.count(), 50, "{length}");
        }
        let mut bent = whole.clone();
        bent[60] ^= 0xff;
        scene.write("all.zip", &bent);
        scene.fails().await;
        scene.write("all.zip", &whole);
        assert_eq!(scene.changes().await.records, 50);
    }

    #[tokio::test]
    async fn feed_that_lost_half_of_its_records_is_rejected() {
        let scene = Scene::of("list.txt");
        scene.write("list.txt", "a@1.0.0\nb@1.0.0\nc@1.0.0 # why\n\n# nothing\nd\nrubbish@^1\n");
        let tally = scene.changes().await;
        assert_eq!((tally.records, tally.unreadable), (4, 1));
        scene.write("list.txt", "a@1.0.0\nb@1.0.0\n");
        let why = scene.fails().await;
        assert!(why.starts_with("the feed shrank from 4 to 2 records"), "{why}");
        scene.write("list.txt", "a@1.0.0\nb@1.0.0\nc@1.0.0\n");
        assert_eq!(scene.changes().await.records, 3);
    }

    #[tokio::test]
    async fn list_format_is_detected_from_the_content() {
        let scene = Scene::of("list");
        scene.write(
            "list",
            r#"[{"package_name":"a","version":"1.0.0","reason":"MALWARE"},{"package_name":"@b/c","version":"*"},{"x":1}]"#,
        );
        let tally = scene.changes().await;
        assert_eq!((tally.records, tally.unreadable), (2, 1));
        let advisories =
            crate::policy::Advisories::of_feeds(vec![load(&scene.feed, &scene.store()).unwrap().unwrap().advisories]);
        let found: Vec<_> =
            advisories.iter().map(|advisory| (advisory.id, advisory.summary, advisory.affects_every_version())).collect();
        assert_eq!(found, [("osv:a@1.0.0", "malware", false), ("osv:@b/c", "listed", true)]);
    }

    #[tokio::test]
    async fn source_without_records_fails_and_another_source_ignores_stored_records() {
        let mut scene = Scene::of("osv");
        scene.fails().await;
        scene.write("osv/README.json", "{}");
        let why = scene.fails().await;
        assert!(why.contains("the feed has no record of an npm package"), "{why}");
        scene.write("osv/MAL-1.json", record("MAL-1", ""));
        scene.changes().await;
        scene.feed.source = FeedSource::Path(scene.home.path().join("other"));
        assert!(load(&scene.feed, &scene.store()).unwrap().is_none());
    }
}
