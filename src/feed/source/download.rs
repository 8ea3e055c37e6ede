//! Files from a server into the place of a feed: with validators, within limits, resumed where they broke off. Refuses to know
//! what is in them.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONTENT_RANGE, ETAG, HeaderName, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED,
    LOCATION, RANGE,
};
use http::{HeaderMap, Method};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::feed::FeedError;
use crate::feed::config::shown;
use crate::net::{AddressScope, BodyStream, ClientRequest, HttpClient};

/// The largest file that is taken, in bytes: five times OSV's archive of npm.
const LARGEST: u64 = 2 << 30;

/// Redirects in a row that are followed.
const MOST_REDIRECTS: usize = 5;

/// How often a download that broke off is taken up again before it is left for the next time.
const RESUMPTIONS: usize = 5;

/// What is written to disk at once, in bytes.
const PIECE: usize = 1 << 20;

/// What tells whether a file changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CacheValidators {
    pub(crate) etag: Option<String>,
    pub(crate) last_modified: Option<String>,
}

/// What came of asking for a file.
pub(crate) enum DownloadResult {
    /// It is what it was.
    Unchanged,
    /// There is no such file.
    Missing,
    /// It lies here now, whole.
    File { path: PathBuf, validators: CacheValidators },
}

/// The head of an answer, and its body on its way.
pub(crate) struct DownloadReply {
    status: u16,
    headers: HeaderMap,
    body: BodyStream,
}

/// Asks servers. Redirects are followed, to other hosts with a public address only and without credentials.
#[derive(Clone)]
pub(crate) struct FeedDownloader(pub(crate) HttpClient);

impl FeedDownloader {
    /// A small file whole; `None` when it is not there.
    pub(crate) async fn small(&self, url: &Url, limit: u64) -> Result<Option<Bytes>, FeedError> {
        let DownloadReply { status, body, .. } = self.ask(url, HeaderMap::new()).await?;
        match status {
            200 => body.collect(limit).await.map(Some).map_err(|wrong| failed(url, wrong)),
            404 | 410 => Ok(None),
            status => Err(failed(url, format!("it answered {status}"))),
        }
    }

    /// A file into `directory`, unless `known` says that it did not change. What broke off is taken up where it broke off, also
    /// after a restart, if the server says that it is the same file still.
    pub(crate) async fn large(&self, url: &Url, directory: &Path, known: &CacheValidators) -> Result<DownloadResult, FeedError> {
        let mut left = RESUMPTIONS;
        loop {
            let part = PartialDownload::of(directory, url);
            let resumed = part.length > 0;
            let answer = self.ask(url, part.headers(known)).await?;
            match answer.status {
                304 if !resumed => return Ok(DownloadResult::Unchanged),
                404 | 410 => return Ok(DownloadResult::Missing),
                200 | 206 => {}
                // What is here is no beginning of what is there.
                416 if resumed => {
                    part.discard();
                    continue;
                }
                status => return Err(failed(url, format!("it answered {status}"))),
            }
            match receive(part, url, answer).await {
                Ok(done) => return Ok(done),
                Err(wrong @ FeedError::Fetch { .. }) if left > 0 => {
                    tracing::debug!(error = %wrong, "a download broke off and is taken up again");
                    left -= 1;
                }
                Err(wrong) => return Err(wrong),
            }
        }
    }

    async fn ask(&self, url: &Url, headers: HeaderMap) -> Result<DownloadReply, FeedError> {
        let mut at = url.clone();
        for _ in 0..=MOST_REDIRECTS {
            let same_place = at.origin() == url.origin();
            let mut headers = headers.clone();
            if let Some(value) = credentials(url).filter(|_| same_place) {
                headers.insert(AUTHORIZATION, value);
            }
            let reach = if at.host() == url.host() { AddressScope::Anywhere } else { AddressScope::Public };
            let request = ClientRequest { method: Method::GET, url: at.clone(), headers, body: Bytes::new(), reach };
            let response = self.0.send(&request).await.map_err(|wrong| failed(&at, wrong))?;
            let status = response.status.as_u16();
            if !matches!(status, 301 | 302 | 303 | 307 | 308) {
                return Ok(DownloadReply { status, headers: response.headers, body: response.body });
            }
            let location = text(&response.headers, &LOCATION).and_then(|location| at.join(&location).ok());
            let next = location.filter(|next| next.scheme() == "https" || (at.scheme() == "http" && next.scheme() == "http"));
            at = next.ok_or_else(|| failed(&at, "it redirects to nowhere that is followed"))?;
        }
        Err(failed(url, format!("more than {MOST_REDIRECTS} redirects in a row")))
    }
}

/// A file that is not whole yet, and what it is a part of.
struct PartialDownload {
    path: PathBuf,
    note: PathBuf,
    validators: CacheValidators,
    length: u64,
}

/// What lies beside a part.
#[derive(Serialize, Deserialize)]
struct PartialMetadata {
    url: String,
    validators: CacheValidators,
}

impl PartialDownload {
    /// What is there already; nothing of another file, and nothing of one that cannot be recognised again.
    fn of(directory: &Path, url: &Url) -> Self {
        let (path, note) = (directory.join("download.part"), directory.join("download.json"));
        let noted: Option<PartialMetadata> = std::fs::read(&note).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let noted = noted.filter(|noted| noted.url == shown(url).as_str() && noted.validators.strong().is_some());
        let length = noted.as_ref().and_then(|_| std::fs::metadata(&path).ok()).map_or(0, |metadata| metadata.len());
        Self { path, note, validators: noted.map(|noted| noted.validators).unwrap_or_default(), length }
    }

    fn headers(&self, known: &CacheValidators) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let mut set = |name: HeaderName, value: Option<&str>| {
            if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
                headers.insert(name, value);
            }
        };
        if self.length > 0 {
            set(RANGE, Some(&format!("bytes={}-", self.length)));
            set(IF_RANGE, self.validators.strong());
            return headers;
        }
        set(IF_NONE_MATCH, known.etag.as_deref());
        set(IF_MODIFIED_SINCE, known.last_modified.as_deref());
        headers
    }

    fn discard(&self) {
        // What cannot be removed is written over.
        let _ = std::fs::remove_file(&self.note);
        let _ = std::fs::remove_file(&self.path);
    }
}

impl CacheValidators {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        Self { etag: text(headers, &ETAG), last_modified: text(headers, &LAST_MODIFIED) }
    }

    /// What `If-Range` takes.
    fn strong(&self) -> Option<&str> {
        self.etag.as_deref().filter(|etag| !etag.starts_with("W/")).or(self.last_modified.as_deref())
    }
}

async fn receive(part: PartialDownload, url: &Url, answer: DownloadReply) -> Result<DownloadResult, FeedError> {
    let DownloadReply { status, headers, mut body } = answer;
    let begins_at = if status == 206 { part.length } else { 0 };
    if status == 206 && !continues(&headers, begins_at) {
        part.discard();
        return Err(failed(url, "it sent another part than was asked for"));
    }
    let validators = if status == 206 { part.validators.clone() } else { CacheValidators::of(&headers) };
    let note = PartialMetadata { url: shown(url).to_string(), validators: validators.clone() };
    let file = OpenOptions::new().create(true).write(true).append(status == 206).truncate(status != 206).open(&part.path);
    let mut file = file.map_err(FeedError::file("open", &part.path))?;
    let noted = serde_json::to_vec(&note).map_err(std::io::Error::from).and_then(|text| std::fs::write(&part.note, text));
    noted.map_err(FeedError::file("write", &part.note))?;
    let (mut length, mut piece) = (begins_at, Vec::with_capacity(PIECE));
    loop {
        let next = body.next().await.map_err(|wrong| failed(url, wrong));
        // What came before a failure is kept: the next attempt goes on behind it.
        let ended = !matches!(next, Ok(Some(_)));
        if let Ok(Some(bytes)) = &next {
            length += bytes.len() as u64;
            piece.extend_from_slice(bytes);
        }
        if length > LARGEST {
            part.discard();
            return Err(FeedError::TooLarge { what: shown(url).as_str().into(), limit: LARGEST });
        }
        if ended || piece.len() >= PIECE {
            (file, piece) = write(file, piece, &part.path).await?;
        }
        match next {
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(wrong) => return Err(wrong),
        }
    }
    let path = part.path.with_extension("whole");
    std::fs::rename(&part.path, &path).map_err(FeedError::file("rename", &part.path))?;
    let _ = std::fs::remove_file(&part.note);
    Ok(DownloadResult::File { path, validators })
}

/// Writes a piece off the async threads.
async fn write(mut file: File, mut piece: Vec<u8>, path: &Path) -> Result<(File, Vec<u8>), FeedError> {
    let path = path.to_owned();
    let written = tokio::task::spawn_blocking(move || {
        file.write_all(&piece).map_err(FeedError::file("write", path))?;
        piece.clear();
        Ok((file, piece))
    });
    written.await.map_err(|lost| FeedError::broken("a download", lost))?
}

/// Whether a part begins where we are.
fn continues(headers: &HeaderMap, at: u64) -> bool {
    text(headers, &CONTENT_RANGE).is_some_and(|range| range.trim_start_matches("bytes ").starts_with(&format!("{at}-")))
}

fn credentials(url: &Url) -> Option<HeaderValue> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let decode = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    let pair = format!("{}:{}", decode(url.username()), decode(url.password().unwrap_or_default()));
    let mut value = HeaderValue::from_str(&format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

pub(crate) fn failed(url: &Url, detail: impl std::fmt::Display) -> FeedError {
    FeedError::Fetch { url: Arc::from(shown(url).as_str()), detail: detail.to_string().into() }
}
