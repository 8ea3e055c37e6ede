//! Admin tokens in a file. The file is read for each request with a token, so a removed token is invalid at once.

use std::path::{Path, PathBuf};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::files;
use crate::net::headers::single;

/// Minimum length of a token, to prevent guessing.
const MIN_TOKEN_BYTES: usize = 16;

const MAX_FILE_BYTES: u64 = 64 << 10;

#[derive(Debug, Clone)]
pub(crate) struct AdminTokens(PathBuf);

/// Why a token file is invalid. Never contains a token.
#[derive(Debug, thiserror::Error)]
pub enum AdminTokenError {
    #[error("cannot read admin tokens: `{}`", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("line {line} of `{}` is not a token; a token has at least {MIN_TOKEN_BYTES} visible ASCII characters", path.display())]
    Line {
        path: PathBuf,
        /// The line number, from 1.
        line: usize,
    },
    #[error("no admin token in file: `{}`", path.display())]
    Empty { path: PathBuf },
}

impl AdminTokens {
    /// Opens the tokens in `path`, one per line. Lines that start with `#` are comments.
    pub(crate) fn open(path: &Path) -> Result<Self, AdminTokenError> {
        read(path)?;
        Ok(Self(path.to_owned()))
    }

    /// Checks whether a request has a valid bearer token.
    pub(crate) async fn authenticate(&self, headers: &HeaderMap) -> bool {
        let Ok(Some(authorization)) = single(headers, &AUTHORIZATION) else { return false };
        let Some((scheme, token)) = authorization.split_once(' ') else { return false };
        if !scheme.eq_ignore_ascii_case("bearer") {
            return false;
        }
        self.contains(token.trim()).await
    }

    /// Checks whether a token is in the file.
    pub(crate) async fn contains(&self, token: &str) -> bool {
        let token = digest(&SHA256, token.as_bytes());
        let same = |known: &String| verify_slices_are_equal(digest(&SHA256, known.as_bytes()).as_ref(), token.as_ref()).is_ok();
        self.read().await.iter().any(same)
    }

    /// Returns the tokens in the file; none if it cannot be read.
    pub(crate) async fn read(&self) -> Vec<String> {
        let path = self.0.clone();
        match tokio::task::spawn_blocking(move || read(&path)).await {
            Ok(Ok(known)) => known,
            Ok(Err(error)) => {
                tracing::error!(error = &error as &dyn std::error::Error, "admin tokens cannot be read");
                Vec::new()
            }
            // The request is refused.
            Err(error) => {
                tracing::error!(error = %error, "admin token task failed");
                Vec::new()
            }
        }
    }
}

/// Returns the first token in `path`, for use as a client.
pub(crate) fn first(path: &Path) -> Result<String, AdminTokenError> {
    parse(path, files::read_pipe_bounded(path, MAX_FILE_BYTES))?
        .into_iter()
        .next()
        .ok_or_else(|| AdminTokenError::Empty { path: path.to_owned() })
}

fn read(path: &Path) -> Result<Vec<String>, AdminTokenError> {
    parse(path, files::read_bounded(path, MAX_FILE_BYTES))
}

fn parse(path: &Path, read: std::io::Result<Vec<u8>>) -> Result<Vec<String>, AdminTokenError> {
    let text = read.and_then(files::into_text).map_err(|source| AdminTokenError::File { path: path.to_owned(), source })?;
    let mut tokens = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        let token = text.trim();
        if token.is_empty() || token.starts_with('#') {
            continue;
        }
        if token.len() < MIN_TOKEN_BYTES || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(AdminTokenError::Line { path: path.to_owned(), line });
        }
        tokens.push(token.to_owned());
    }
    if tokens.is_empty() { Err(AdminTokenError::Empty { path: path.to_owned() }) } else { Ok(tokens) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn token_must_match_the_current_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        assert!(AdminTokens::open(&path).is_err());
        std::fs::write(&path, "# ours\n\n0123456789abcdef\nfedcba9876543210\n").unwrap();
        let tokens = AdminTokens::open(&path).unwrap();
        let asks = async |value: &'static str| {
            tokens.authenticate(&HeaderMap::from_iter([(AUTHORIZATION, http::HeaderValue::from_static(value))])).await
        };
        assert!(asks("Bearer 0123456789abcdef").await && asks("bearer fedcba9876543210").await);
        for header in
            ["Bearer 0123456789abcde", "Bearer ", "Bearer", "Bearer # ours", "Basic 0123456789abcdef", "0123456789abcdef"]
        {
            assert!(!asks(header).await, "{header}");
        }
        assert!(!tokens.authenticate(&HeaderMap::new()).await);
        assert_eq!(first(&path).unwrap(), "0123456789abcdef");
        std::fs::write(&path, "fedcba9876543210").unwrap();
        assert!(!asks("Bearer 0123456789abcdef").await && asks("Bearer fedcba9876543210").await);
        std::fs::write(&path, "short").unwrap();
        assert!(!asks("Bearer short").await);
        assert!(AdminTokens::open(&path).unwrap_err().to_string().contains("line 1"));
    }
}
