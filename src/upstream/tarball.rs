//! Asking a registry for a tarball, wherever it says that it lies. Refuses to look inside and to check its integrity: the
//! store does.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::registry::{failure, refusal};
use super::route::Route;
use super::{Authorization, Registry, UpstreamError};
use crate::net::BodyStream;

/// A tarball on its way.
pub struct TarballBody {
    stream: BodyStream,
    host: Arc<str>,
    limit: u64,
    taken: u64,
}

impl TarballBody {
    /// How many bytes it has, if upstream said so.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        self.stream.length()
    }

    /// The next bytes, `None` at a clean end.
    ///
    /// # Errors
    /// When the connection breaks, stalls, or the body is not as long as upstream said, or longer than is taken.
    pub async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        let bytes = self.stream.next().await.map_err(|error| failure(&self.host, &error))?;
        self.taken += bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
        if self.taken > self.limit {
            return Err(UpstreamError::TooLarge { host: Arc::clone(&self.host), limit: self.limit });
        }
        Ok(bytes)
    }
}

impl fmt::Debug for TarballBody {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("TarballBody")
            .field("host", &self.host)
            .field("length", &self.length())
            .field("taken", &self.taken)
            .finish_non_exhaustive()
    }
}

impl Registry {
    /// Asks for a tarball by the URL its manifest states; another host is refused unless `--tarball-host` allows it.
    ///
    /// Bytes are taken as they come even where upstream declares an encoding: none is asked for, and a registry that serves
    /// a `.tgz` from a file server often has it labelled `gzip`, which it is, but not for us to undo.
    ///
    /// # Errors
    /// Whatever upstream did not do; [`UpstreamError::TarballHost`] before anything is asked.
    pub async fn tarball(&self, url: &str, authorization: &Authorization) -> Result<TarballBody, UpstreamError> {
        let route = Route::to_tarball(&self.url, url, self.tarball_hosts())?;
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let (route, response) = self.get(route, headers, authorization).await?;
        if response.status != StatusCode::OK {
            return Err(refusal(&route, response).await);
        }
        let (host, limit) = (route.host(), self.tarball_limit());
        if response.body.length().is_some_and(|length| length > limit) {
            return Err(UpstreamError::TooLarge { host, limit });
        }
        Ok(TarballBody { stream: response.body, host, limit, taken: 0 })
    }
}
