//! The tokens by which operators are known on addresses that others reach too: a file of them, read anew for each request that
//! brings one, so that one that is taken out opens nothing any more. Refuses to know what operators may see.

use std::path::{Path, PathBuf};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::files;
use crate::net::headers::single;

/// The fewest characters of a token: fewer can be guessed.
const SHORTEST: usize = 16;

/// The largest file of tokens, in bytes.
const LARGEST: u64 = 64 << 10;

/// The file of operators' tokens.
#[derive(Debug, Clone)]
pub struct AdminTokens(PathBuf);

/// Why a file of tokens is of no use. Never holds any of them.
#[derive(Debug, thiserror::Error)]
pub enum AdminTokenError {
    /// It cannot be read.
    #[error("cannot read the tokens in `{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A line is no token.
    #[error("a token is one line of at least {SHORTEST} visible characters, which line {line} of `{}` is not", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// There is none.
    #[error("there is no token in `{}`", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

impl AdminTokens {
    /// The tokens in `path`, one a line; lines that begin with `#` are remarks.
    ///
    /// # Errors
    /// When they cannot be used as they are now.
    pub fn open(path: &Path) -> Result<Self, AdminTokenError> {
        read(path)?;
        Ok(Self(path.to_owned()))
    }

    /// Whether a request brings one of them as its bearer token.
    pub(crate) async fn admit(&self, headers: &HeaderMap) -> bool {
        let Ok(Some(authorization)) = single(headers, &AUTHORIZATION) else { return false };
        let Some((scheme, token)) = authorization.split_once(' ') else { return false };
        if !scheme.eq_ignore_ascii_case("bearer") {
            return false;
        }
        let (path, token) = (self.0.clone(), digest(&SHA256, token.trim().as_bytes()));
        let known = tokio::task::spawn_blocking(move || read(&path)).await;
        match known {
            Ok(Ok(known)) => {
                let same =
                    |known: &String| verify_slices_are_equal(digest(&SHA256, known.as_bytes()).as_ref(), token.as_ref()).is_ok();
                known.iter().any(same)
            }
            Ok(Err(error)) => {
                tracing::error!(error = &error as &dyn std::error::Error, "no operator can be known");
                false
            }
            // No operator is known then.
            Err(lost) => {
                tracing::error!(error = %lost, "a task that reads the admin tokens was lost");
                false
            }
        }
    }
}

/// The first token in `path`: what a client of another Coldframe says.
///
/// # Errors
/// As [`AdminTokens::open`].
pub fn first(path: &Path) -> Result<String, AdminTokenError> {
    parse(path, files::read_once(path, LARGEST))?
        .into_iter()
        .next()
        .ok_or_else(|| AdminTokenError::Empty { path: path.to_owned() })
}

fn read(path: &Path) -> Result<Vec<String>, AdminTokenError> {
    parse(path, files::read(path, LARGEST))
}

fn parse(path: &Path, read: std::io::Result<Vec<u8>>) -> Result<Vec<String>, AdminTokenError> {
    let text = read.and_then(files::text).map_err(|source| AdminTokenError::File { path: path.to_owned(), source })?;
    let mut tokens = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        let token = text.trim();
        if token.is_empty() || token.starts_with('#') {
            continue;
        }
        if token.len() < SHORTEST || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
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
    async fn only_a_whole_token_that_is_there_now_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        assert!(AdminTokens::open(&path).is_err());
        std::fs::write(&path, "# ours\n\n0123456789abcdef\nfedcba9876543210\n").unwrap();
        let tokens = AdminTokens::open(&path).unwrap();
        let asks = async |value: &'static str| {
            tokens.admit(&HeaderMap::from_iter([(AUTHORIZATION, http::HeaderValue::from_static(value))])).await
        };
        assert!(asks("Bearer 0123456789abcdef").await && asks("bearer fedcba9876543210").await);
        for wrong in
            ["Bearer 0123456789abcde", "Bearer ", "Bearer", "Bearer # ours", "Basic 0123456789abcdef", "0123456789abcdef"]
        {
            assert!(!asks(wrong).await, "{wrong}");
        }
        assert!(!tokens.admit(&HeaderMap::new()).await);
        assert_eq!(first(&path).unwrap(), "0123456789abcdef");
        std::fs::write(&path, "fedcba9876543210").unwrap();
        assert!(!asks("Bearer 0123456789abcdef").await && asks("Bearer fedcba9876543210").await);
        std::fs::write(&path, "short").unwrap();
        assert!(!asks("Bearer short").await);
        assert!(AdminTokens::open(&path).unwrap_err().to_string().contains("line 1"));
    }
}
