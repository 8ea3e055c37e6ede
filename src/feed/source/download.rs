//! Downloads feed files over HTTP with cache validators, size limits and resumption of interrupted downloads.

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

use crate::feed::config::redacted;
use crate::feed::error::FeedError;
use crate::net::{AddressScope, BodyStream, ClientRequest, HttpClient};

/// Maximum size of a file, in bytes: five times OSV's npm archive.
const MAX_FILE_BYTES: u64 = 2 << 30;

/// Maximum number of consecutive redirects.
const MAX_REDIRECTS: usize = 5;

/// How often an interrupted download is resumed before it is left to the next sync.
const MAX_RESUMES: usize = 5;

/// Size of a single write to disk, in bytes.
const WRITE_BYTES: usize = 1 << 20;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DownloadValidators {
    pub(crate) etag: Option<String>,
    pub(crate) last_modified: Option<String>,
}

pub(crate) enum DownloadResult {
    Unchanged,
    Missing,
    /// The complete file is at `path`.
    File {
        path: PathBuf,
        validators: DownloadValidators,
    },
}

/// The head of a response and its streaming body.
pub(crate) struct DownloadReply {
    status: u16,
    headers: HeaderMap,
    body: BodyStream,
}

/// HTTP client for feeds. Redirects to other hosts are followed only to public addresses and without credentials.
#[derive(Clone)]
pub(crate) struct FeedDownloader(pub(crate) HttpClient);

impl FeedDownloader {
    /// Fetches a small file into memory. Returns `None` if it does not exist.
    pub(crate) async fn fetch_small(&self, url: &Url, limit: u64) -> Result<Option<Bytes>, FeedError> {
        let DownloadReply { status, body, .. } = self.ask(url, HeaderMap::new()).await?;
        match status {
            200 => body.collect(limit, None).await.map(Some).map_err(|error| failed(url, error)),
            404 | 410 => Ok(None),
            status => Err(failed(url, format!("unexpected status {status}"))),
        }
    }

    /// Downloads a file into `directory` unless it is unchanged according to `known`. An interrupted download is resumed, also
    /// after a restart, if the server confirms that the file is still the same.
    pub(crate) async fn fetch_large(
        &self,
        url: &Url,
        directory: &Path,
        known: &DownloadValidators,
    ) -> Result<DownloadResult, FeedError> {
        let mut left = MAX_RESUMES;
        loop {
            let part = PartialDownload::of(directory, url);
            let resumed = part.length > 0;
            let answer = self.ask(url, part.headers(known)).await?;
            match answer.status {
                304 if !resumed => return Ok(DownloadResult::Unchanged),
                404 | 410 => return Ok(DownloadResult::Missing),
                200 | 206 => {}
                // The partial file is not a prefix of the current file.
                416 if resumed => {
                    part.discard();
                    continue;
                }
                status => return Err(failed(url, format!("unexpected status {status}"))),
            }
            match receive(part, url, answer).await {
                Ok(done) => return Ok(done),
                Err(error @ FeedError::Fetch { .. }) if left > 0 => {
                    tracing::debug!(error = %error, "feed download interrupted");
                    left -= 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn ask(&self, url: &Url, headers: HeaderMap) -> Result<DownloadReply, FeedError> {
        let mut at = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let same_origin = at.origin() == url.origin();
            let mut headers = headers.clone();
            if let Some(value) = credentials(url).filter(|_| same_origin) {
                headers.insert(AUTHORIZATION, value);
            }
            let reach = if at.host() == url.host() { AddressScope::Anywhere } else { AddressScope::Public };
            let request = ClientRequest { method: Method::GET, url: at.clone(), headers, body: Bytes::new(), reach };
            let response = self.0.send(&request).await.map_err(|error| failed(&at, error))?;
            let status = response.status.as_u16();
            if !matches!(status, 301 | 302 | 303 | 307 | 308) {
                return Ok(DownloadReply { status, headers: response.headers, body: response.body });
            }
            let location = text(&response.headers, &LOCATION).and_then(|location| at.join(&location).ok());
            let next = location.filter(|next| next.scheme() == "https" || (at.scheme() == "http" && next.scheme() == "http"));
            at = next.ok_or_else(|| failed(&at, "unsupported redirect"))?;
        }
        Err(failed(url, format!("more than {MAX_REDIRECTS} redirects")))
    }
}

/// A partial download and its metadata.
struct PartialDownload {
    path: PathBuf,
    note: PathBuf,
    validators: DownloadValidators,
    length: u64,
}

/// The metadata file of a partial download.
#[derive(Serialize, Deserialize)]
struct PartialMetadata {
    url: String,
    validators: DownloadValidators,
}

impl PartialDownload {
    /// Returns the partial download of this URL. Starts empty if the file belongs to another URL or has no usable validator.
    fn of(directory: &Path, url: &Url) -> Self {
        let (path, note) = (directory.join("download.part"), directory.join("download.json"));
        let noted: Option<PartialMetadata> = std::fs::read(&note).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let noted = noted.filter(|noted| noted.url == redacted(url).as_str() && noted.validators.strong().is_some());
        let length = noted.as_ref().and_then(|_| std::fs::metadata(&path).ok()).map_or(0, |metadata| metadata.len());
        Self { path, note, validators: noted.map(|noted| noted.validators).unwrap_or_default(), length }
    }

    fn headers(&self, known: &DownloadValidators) -> HeaderMap {
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
        // A file that cannot be removed is overwritten later.
        let _ = std::fs::remove_file(&self.note);
        let _ = std::fs::remove_file(&self.path);
    }
}

impl DownloadValidators {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        Self { etag: text(headers, &ETAG), last_modified: text(headers, &LAST_MODIFIED) }
    }

    /// Returns a validator for `If-Range`.
    fn strong(&self) -> Option<&str> {
        self.etag.as_deref().filter(|etag| !etag.starts_with("W/")).or(self.last_modified.as_deref())
    }
}

async fn receive(part: PartialDownload, url: &Url, answer: DownloadReply) -> Result<DownloadResult, FeedError> {
    let DownloadReply { status, headers, mut body } = answer;
    let begins_at = if status == 206 { part.length } else { 0 };
    if status == 206 && !continues(&headers, begins_at) {
        part.discard();
        return Err(failed(url, "unexpected `Content-Range`"));
    }
    let validators = if status == 206 { part.validators.clone() } else { DownloadValidators::of(&headers) };
    let note = PartialMetadata { url: redacted(url).to_string(), validators: validators.clone() };
    let file = OpenOptions::new().create(true).write(true).append(status == 206).truncate(status != 206).open(&part.path);
    let mut file = file.map_err(FeedError::file("open", &part.path))?;
    let noted = serde_json::to_vec(&note).map_err(std::io::Error::from).and_then(|text| std::fs::write(&part.note, text));
    noted.map_err(FeedError::file("write", &part.note))?;
    let (mut length, mut chunk) = (begins_at, Vec::with_capacity(WRITE_BYTES));
    loop {
        let next = body.next().await.map_err(|error| failed(url, error));
        // Keep the data received before a failure: the next attempt resumes after it.
        let ended = !matches!(next, Ok(Some(_)));
        if let Ok(Some(bytes)) = &next {
            length += bytes.len() as u64;
            chunk.extend_from_slice(bytes);
        }
        if length > MAX_FILE_BYTES {
            part.discard();
            return Err(FeedError::TooLarge { what: redacted(url).as_str().into(), limit: MAX_FILE_BYTES });
        }
        if ended || chunk.len() >= WRITE_BYTES {
            (file, chunk) = write(file, chunk, &part.path).await?;
        }
        match next {
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(error) => return Err(error),
        }
    }
    let path = part.path.with_extension("whole");
    std::fs::rename(&part.path, &path).map_err(FeedError::file("rename", &part.path))?;
    let _ = std::fs::remove_file(&part.note);
    Ok(DownloadResult::File { path, validators })
}

/// Writes a chunk on a blocking thread.
async fn write(mut file: File, mut chunk: Vec<u8>, path: &Path) -> Result<(File, Vec<u8>), FeedError> {
    let path = path.to_owned();
    let written = tokio::task::spawn_blocking(move || {
        file.write_all(&chunk).map_err(FeedError::file("write", path))?;
        chunk.clear();
        Ok((file, chunk))
    });
    written.await.map_err(|error| FeedError::broken("a download", error))?
}

/// Checks whether a partial response starts at offset `at`.
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
    FeedError::Fetch { url: Arc::from(redacted(url).as_str()), detail: detail.to_string().into() }
}
