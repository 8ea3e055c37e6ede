//! One look at a feed: fetch, read, check that it is sound, keep, build the index. What is not sound changes nothing but how the
//! feed stands. Refuses to put anything in force.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use crate::feed::FeedError;
use crate::feed::config::{FeedConfig, FeedSource};
use crate::feed::first_read::Readings;
use crate::feed::format::signed_index::{self, SignedIndex};
use crate::feed::import::{self, ImportedRecords, RecordImporter};
use crate::feed::source::directory;
use crate::feed::source::download::{CacheValidators, FeedDownloader};
use crate::feed::source::remote::{FetchedFiles, RemoteFeed};
use crate::feed::store::{FeedFailure, FeedLock, FeedState, FeedStore};
use crate::net::HttpClient;
use crate::npm::{Algorithm, Digest};
use crate::policy::FeedAdvisories;

/// What a look brought.
#[derive(Debug)]
pub enum SyncOutcome {
    /// Nothing changed; what is in force stays.
    Unchanged(FeedState),
    /// Other records than before.
    Changed(LoadedFeed),
    /// It went wrong; what is in force stays.
    Failed(FeedState, FeedError),
}

/// Records that can be put in force.
#[derive(Debug)]
pub struct LoadedFeed {
    /// The index.
    pub advisories: Arc<FeedAdvisories>,
    /// How the feed stands.
    pub state: FeedState,
}

/// What is kept of a feed, from the disk alone; `None` when nothing is. Blocks.
///
/// # Errors
/// When what is kept cannot be read.
pub fn load(feed: &FeedConfig, shelf: &FeedStore) -> Result<Option<LoadedFeed>, FeedError> {
    let state = shelf.state(feed);
    if !state.is_good() {
        return Ok(None);
    }
    // What was not noted yet was read no later than the records came.
    let came = state.changed.unwrap_or(Timestamp::UNIX_EPOCH);
    let (builder, _) = import::reload(&shelf.records(feed), Readings::load(&shelf.directory(feed), came)?)?;
    Ok(Some(LoadedFeed { advisories: Arc::new(builder.build(&feed.name, feed.trust)), state }))
}

/// Reads the file or directory of a feed, for one who looks once and keeps nothing but what `shelf` holds meanwhile; when its records
/// were first read is `remembered`. `None` for a feed at an address, which is not asked. Blocks.
///
/// # Errors
/// What is wrong with it.
pub fn read_path(
    feed: &FeedConfig,
    shelf: &FeedStore,
    remembered: &FeedStore,
    now: Timestamp,
) -> Result<Option<LoadedFeed>, FeedError> {
    let FeedSource::Path(path) = &feed.source else { return Ok(None) };
    let (place, before) = (shelf.take(feed)?, FeedState::default());
    match look_at_path(feed, path, &before, now)? {
        Some(fresh) => {
            let readings = Readings::load(&remembered.directory(feed), now)?;
            take_in(feed, &place, &before, fresh, readings, now, false)
        }
        None => Ok(None),
    }
}

/// Looks at a feed's source and keeps what it finds. With `accept_shrunk` also when most of the records are gone.
pub async fn sync(feed: &FeedConfig, shelf: &FeedStore, client: &HttpClient, now: Timestamp, accept_shrunk: bool) -> SyncOutcome {
    let before = shelf.state(feed);
    let place = match shelf.take(feed) {
        Ok(place) => Arc::new(place),
        Err(wrong) => return SyncOutcome::Failed(before, wrong),
    };
    let outcome = match look(feed, &place, client, &before, now).await {
        Ok(Some(fresh)) => {
            let (feed, place, before) = (feed.clone(), Arc::clone(&place), before.clone());
            let kept = tokio::task::spawn_blocking(move || {
                let readings = Readings::load(place.directory(), now)?;
                take_in(&feed, &place, &before, fresh, readings, now, accept_shrunk)
            });
            kept.await.unwrap_or_else(|lost| Err(FeedError::broken("the feed", lost)))
        }
        Ok(None) => Ok(None),
        Err(wrong) => Err(wrong),
    };
    match outcome {
        Ok(Some(loaded)) => SyncOutcome::Changed(loaded),
        Ok(None) => {
            let state = FeedState { synced: Some(now), failure: None, ..before };
            note(&place, &state);
            SyncOutcome::Unchanged(state)
        }
        Err(wrong) => {
            let state = FeedState { failure: Some(FeedFailure { at: now, why: wrong.to_string() }), ..before };
            note(&place, &state);
            SyncOutcome::Failed(state, wrong)
        }
    }
}

/// What a source has, not yet read, and what tells later whether it changed.
struct SourceSnapshot {
    source: SourceFiles,
    validators: CacheValidators,
    stamp: Option<String>,
    index: Option<SignedIndex>,
}

enum SourceFiles {
    Found(directory::DirectoryFiles),
    Fetched(FetchedFiles),
}

/// What the source has; `None` when it is what it was.
async fn look(
    feed: &FeedConfig,
    place: &FeedLock,
    client: &HttpClient,
    before: &FeedState,
    now: Timestamp,
) -> Result<Option<SourceSnapshot>, FeedError> {
    match &feed.source {
        FeedSource::Url(url) => {
            let fetcher = FeedDownloader(client.clone());
            let look = RemoteFeed { feed, fetcher: &fetcher, directory: place.directory(), before, now };
            let found = look.fetch(url).await?;
            let fresh = |material| SourceSnapshot {
                source: SourceFiles::Fetched(material),
                validators: found.validators,
                stamp: None,
                index: found.index,
            };
            Ok(found.material.map(fresh))
        }
        FeedSource::Path(path) => {
            let (feed, path, before) = (feed.clone(), path.clone(), before.clone());
            let looked = tokio::task::spawn_blocking(move || look_at_path(&feed, &path, &before, now));
            looked.await.unwrap_or_else(|lost| Err(FeedError::broken("the feed", lost)))
        }
    }
}

fn look_at_path(feed: &FeedConfig, path: &Path, before: &FeedState, now: Timestamp) -> Result<Option<SourceSnapshot>, FeedError> {
    let index = local_index(feed, path, before, now)?;
    let found = match &index {
        Some(_) => directory::look(&path.join(signed_index::ARCHIVE))?,
        None => directory::look(path)?,
    };
    // An index may be written anew for the archive of the one before.
    let serial = index.as_ref().map(|index| format!(", serial {}", index.serial)).unwrap_or_default();
    let stamp = Some(format!("{}{serial}", found.stamp));
    if before.is_good() && before.stamp == stamp {
        return Ok(None);
    }
    Ok(Some(SourceSnapshot { source: SourceFiles::Found(found), validators: CacheValidators::default(), stamp, index }))
}

/// The index in a directory, if it has one of ours and it holds.
fn local_index(feed: &FeedConfig, path: &Path, before: &FeedState, now: Timestamp) -> Result<Option<SignedIndex>, FeedError> {
    let read = |name: &str| Some(path.join(name)).filter(|path| path.is_file()).and_then(|path| read_small(&path).ok());
    let bytes = read(signed_index::INDEX);
    let index = bytes.as_ref().and_then(|bytes| SignedIndex::read(bytes));
    let (Some(bytes), Some(index)) = (bytes, index) else {
        return if feed.key.is_some() { Err(FeedError::Index("there is none".into())) } else { Ok(None) };
    };
    if let Some(key) = &feed.key {
        let signature = read(signed_index::SIGNATURE);
        signed_index::verify(key, &bytes, signature.as_deref())?;
    }
    index.check(before, now)?;
    Ok(Some(index))
}

/// Reads a file that is small if it is what it is called. A larger one is cut, and is no index then.
fn read_small(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(signed_index::LARGEST + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads what is new, makes sure that it is sound, and puts it in the place of the old. Blocks.
fn take_in(
    feed: &FeedConfig,
    place: &FeedLock,
    before: &FeedState,
    fresh: SourceSnapshot,
    readings: Readings,
    now: Timestamp,
    accept_shrunk: bool,
) -> Result<Option<LoadedFeed>, FeedError> {
    let gathered = gather(feed, place, &fresh, readings)?;
    check(&gathered, before, accept_shrunk)?;
    let SourceSnapshot { validators, stamp, index, .. } = fresh;
    let state = FeedState {
        source: feed.source.to_string(),
        synced: Some(now),
        changed: Some(now),
        failure: None,
        generation: before.generation + 1,
        tally: gathered.tally.clone(),
        etag: validators.etag,
        last_modified: validators.last_modified,
        stamp,
        serial: index.as_ref().map(|index| index.serial).or(before.serial),
        expires: index.map(|index| index.expires),
    };
    let ImportedRecords { file, builder, readings, .. } = gathered;
    let advisories = Arc::new(builder.build(&feed.name, feed.trust));
    // Before the records: killed in between, nothing is read for the first time twice.
    readings.save(place.directory())?;
    place.put(file, &state)?;
    Ok(Some(LoadedFeed { advisories, state }))
}

fn gather(feed: &FeedConfig, place: &FeedLock, fresh: &SourceSnapshot, readings: Readings) -> Result<ImportedRecords, FeedError> {
    let mut harvest = RecordImporter::begin(place.directory(), readings)?;
    if fresh.index.is_some() || (feed.may_be_empty && matches!(feed.source, FeedSource::Path(_))) {
        // An archive that is signed may be empty at first, and an operator may begin with an empty directory.
        harvest.allow_nothing();
    }
    match &fresh.source {
        SourceFiles::Found(found) => {
            if let Some(index) = &fresh.index {
                check_archive(index, &found.root)?;
            }
            directory::take(&mut harvest, &feed.name, found)?;
        }
        SourceFiles::Fetched(FetchedFiles::File(path)) => {
            if let Some(index) = &fresh.index {
                check_archive(index, path)?;
            }
            let taken = directory::take_file(&mut harvest, &feed.name, path);
            // It was read or cannot be; either way it is fetched anew the next time.
            let _ = std::fs::remove_file(path);
            taken?;
        }
        SourceFiles::Fetched(FetchedFiles::Documents(documents)) => {
            for (name, bytes) in documents {
                harvest.document(name, bytes, false)?;
            }
        }
        SourceFiles::Fetched(FetchedFiles::Changes { documents, changed, all }) => {
            harvest.carry(&place.records(), |id| all.contains(id) && !changed.contains(id))?;
            for (name, bytes) in documents {
                harvest.document(name, bytes, false)?;
            }
        }
    }
    harvest.finish()
}

/// Whether the archive is the one that the index vouches for.
fn check_archive(index: &SignedIndex, path: &Path) -> Result<(), FeedError> {
    let wrong = |text: &str| FeedError::Index(format!("`{}` {text}", signed_index::ARCHIVE).into());
    let vouched = index.files.get(signed_index::ARCHIVE).ok_or_else(|| wrong("is not vouched for"))?;
    let bytes = std::fs::read(path).map_err(FeedError::file("read", path))?;
    let same = bytes.len() as u64 == vouched.size && Digest::of(Algorithm::Sha256, &bytes).to_hex() == vouched.sha256;
    if same { Ok(()) } else { Err(wrong("is not the file that it vouches for")) }
}

/// Whether what was gathered may take the place of what is in force.
fn check(gathered: &ImportedRecords, before: &FeedState, accept_shrunk: bool) -> Result<(), FeedError> {
    let tally = &gathered.tally;
    let (now, had) = (tally.known(), if before.is_good() { before.tally.known() } else { 0 });
    if tally.unreadable > now {
        let trouble = tally.trouble.as_deref().unwrap_or("nobody knows why");
        return Err(FeedError::broken(format!("{} of its documents", tally.unreadable), trouble));
    }
    if accept_shrunk && (now > 0 || gathered.may_be_empty) {
        return Ok(());
    }
    // Of two records one may well go; of many, half do not by themselves.
    let shrunk = if had > 2 { now * 2 <= had } else { now == 0 && had > 0 && !gathered.may_be_empty };
    if shrunk {
        return Err(FeedError::Shrunk { before: had, now });
    }
    if now == 0 && !gathered.may_be_empty {
        return Err(FeedError::NoRecords);
    }
    Ok(())
}

fn note(place: &FeedLock, state: &FeedState) {
    if let Err(wrong) = place.note(state) {
        tracing::error!(error = &wrong as &dyn std::error::Error, "how a feed stands cannot be written down");
    }
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

        fn shelf(&self) -> FeedStore {
            FeedStore::of(&self.home.path().join("data"))
        }

        async fn sync(&self) -> SyncOutcome {
            let tls = crate::net::testing::TestIdentity::nobody();
            let user_agent = http::HeaderValue::from_static("trial/1");
            let client = HttpClient::new(&ClientConfig {
                deadlines: Deadlines::default(),
                proxies: ProxySettings::none(),
                tls,
                user_agent,
            });
            sync(&self.feed, &self.shelf(), &client, self.now, false).await
        }

        async fn fails(&self) -> String {
            match self.sync().await {
                SyncOutcome::Failed(state, wrong) => {
                    assert_eq!(state.failure.as_ref().map(|failure| failure.why.clone()), Some(wrong.to_string()));
                    assert_eq!(self.shelf().state(&self.feed), state);
                    wrong.to_string()
                }
                other => panic!("{other:?}"),
            }
        }

        async fn changes(&self) -> FeedCounts {
            match self.sync().await {
                SyncOutcome::Changed(loaded) => {
                    let kept = load(&self.feed, &self.shelf()).unwrap().unwrap();
                    assert_eq!(kept.advisories.count(), loaded.advisories.count());
                    assert_eq!(kept.state, loaded.state);
                    loaded.state.tally
                }
                other => panic!("{other:?}"),
            }
        }
    }

    use crate::feed::import::FeedCounts;

    fn record(id: &str, more: &str) -> String {
        format!(
            r#"{{"id":"{id}","modified":"2026-01-01T00:00:00Z"{more},"affected":[{{"package":{{"ecosystem":"npm","name":"p-{id}"}},"versions":["1.0.0"]}}]}}"#
        )
    }

    #[tokio::test]
    async fn a_directory_is_read_whole_and_what_is_no_record_is_counted() {
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
    async fn an_archive_says_what_its_files_say_and_a_truncated_one_changes_nothing() {
        let scene = Scene::of("all.zip");
        let records: Vec<_> = (0..50).map(|at| (format!("MAL-{at}.json"), record(&format!("MAL-{at}"), ""))).collect();
        let files = records.iter().map(|(name, text)| (name.as_str(), text.as_bytes()));
        crate::feed::format::pack::write(&scene.home.path().join("all.zip"), files).unwrap();
        assert_eq!(scene.changes().await.records, 50);
        let whole = fs::read(scene.home.path().join("all.zip")).unwrap();
        for length in [0, 10, whole.len() / 2, whole.len() - 1] {
            scene.write("all.zip", &whole[..length]);
            scene.fails().await;
            assert_eq!(load(&scene.feed, &scene.shelf()).unwrap().unwrap().advisories.count(), 50, "{length}");
        }
        let mut bent = whole.clone();
        bent[60] ^= 0xff;
        scene.write("all.zip", &bent);
        scene.fails().await;
        scene.write("all.zip", &whole);
        assert_eq!(scene.changes().await.records, 50);
    }

    #[tokio::test]
    async fn a_feed_that_lost_half_is_not_believed_and_one_of_two_may_go() {
        let scene = Scene::of("list.txt");
        scene.write("list.txt", "a@1.0.0\nb@1.0.0\nc@1.0.0 # why\n\n# nothing\nd\nrubbish@^1\n");
        let tally = scene.changes().await;
        assert_eq!((tally.records, tally.unreadable), (4, 1));
        scene.write("list.txt", "a@1.0.0\nb@1.0.0\n");
        let why = scene.fails().await;
        assert!(why.starts_with("it shrank from 4 records to 2"), "{why}");
        scene.write("list.txt", "a@1.0.0\nb@1.0.0\nc@1.0.0\n");
        assert_eq!(scene.changes().await.records, 3);
    }

    #[tokio::test]
    async fn both_lists_are_told_by_how_they_begin() {
        let scene = Scene::of("list");
        scene.write(
            "list",
            r#"[{"package_name":"a","version":"1.0.0","reason":"MALWARE"},{"package_name":"@b/c","version":"*"},{"x":1}]"#,
        );
        let tally = scene.changes().await;
        assert_eq!((tally.records, tally.unreadable), (2, 1));
        let advisories =
            crate::policy::Advisories::of_feeds(vec![load(&scene.feed, &scene.shelf()).unwrap().unwrap().advisories]);
        let found: Vec<_> = advisories.iter().map(|advisory| (advisory.id, advisory.summary, advisory.is_wholesale())).collect();
        assert_eq!(found, [("osv:a@1.0.0", "malware", false), ("osv:@b/c", "listed", true)]);
    }

    #[tokio::test]
    async fn what_is_no_feed_says_so_and_another_source_starts_anew() {
        let mut scene = Scene::of("osv");
        scene.fails().await;
        scene.write("osv/README.json", "{}");
        let why = scene.fails().await;
        assert!(why.contains("there is no record of an npm package in it"), "{why}");
        scene.write("osv/MAL-1.json", record("MAL-1", ""));
        scene.changes().await;
        scene.feed.source = FeedSource::Path(scene.home.path().join("other"));
        assert!(load(&scene.feed, &scene.shelf()).unwrap().is_none());
    }
}
