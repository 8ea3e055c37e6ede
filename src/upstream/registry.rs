//! One registry, and which registry a package belongs to.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;

use super::UpstreamError;
use crate::npm::PackageName;

/// Whose credentials a request upstream carries.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Authorization {
    /// Nobody's.
    None,
    /// The ones from Coldframe's own configuration, if the registry has any (DESIGN §4: lent to loopback clients only).
    Lent,
    /// The client's own `Authorization` header, as it came.
    Own(Arc<str>),
}

/// How to ask upstream whether its answer changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Validators {
    /// Its ETag, as it came.
    pub etag: Option<Box<str>>,
    /// Its Last-Modified, as it came.
    pub last_modified: Option<Box<str>>,
}

/// Upstream's answer to a question for a packument.
#[derive(Debug)]
pub struct Fetched {
    /// Upstream's clock: its `Date` plus its `Age`, if it sent a `Date`.
    pub date: Option<Timestamp>,
    /// Same bytes or new ones.
    pub freshness: Freshness,
}

/// Same bytes or new ones.
#[derive(Debug)]
pub enum Freshness {
    /// 304: what the validators named still holds.
    NotModified,
    /// 200: the body as it came over the wire.
    Changed {
        /// The body, complete.
        body: Bytes,
        /// Whether it is gzip.
        gzip: bool,
        /// Its validators.
        validators: Validators,
    },
}

/// A tarball on its way.
pub struct TarballBody;

impl TarballBody {
    /// The next bytes, `None` at a clean end.
    ///
    /// # Errors
    /// When the connection breaks, stalls, or the body is not as long as upstream said.
    pub async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        todo!()
    }
}

/// A request that is passed on as it came: audit, search, ping, writes.
pub struct Passage {
    /// The method.
    pub method: http::Method,
    /// Path and query, encoded, below the registry's address; without a leading slash.
    pub path: String,
    /// The end-to-end headers that may be passed on (content type and encoding, accept, npm's own, `user-agent`).
    pub headers: http::HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// What upstream answered to a [`Passage`], whatever its status.
pub struct Passed {
    /// The status.
    pub status: http::StatusCode,
    /// The end-to-end headers that may be passed back.
    pub headers: http::HeaderMap,
    /// The whole body, bounded.
    pub body: Bytes,
}

/// One registry.
pub struct Registry;

impl Registry {
    /// Its address without credentials, ending in `/`: the ledger's key and what people read.
    pub fn id(&self) -> &Arc<str> {
        todo!()
    }

    /// Whether it has credentials that could be lent.
    pub fn has_credentials(&self) -> bool {
        todo!()
    }

    /// Asks for the full packument; with `validators`, only if it changed.
    pub async fn packument(
        &self,
        name: &PackageName,
        authorization: &Authorization,
        validators: Option<&Validators>,
    ) -> Result<Fetched, UpstreamError> {
        let _ = (name, authorization, validators);
        todo!()
    }

    /// Asks for a tarball by the URL its manifest states; another host is refused unless `--tarball-host` allows it.
    pub async fn tarball(&self, url: &str, authorization: &Authorization) -> Result<TarballBody, UpstreamError> {
        let _ = (url, authorization);
        todo!()
    }

    /// Passes a request on and its answer back, whatever the status.
    pub async fn pass(&self, passage: Passage, authorization: &Authorization) -> Result<Passed, UpstreamError> {
        let _ = (passage, authorization);
        todo!()
    }
}

/// Which registry a package belongs to: the default one, or its scope's.
pub struct Registries {
    default: Arc<Registry>,
    scoped: HashMap<Box<str>, Arc<Registry>>,
}

impl Registries {
    /// The registry of a package.
    #[must_use]
    pub fn of(&self, name: &PackageName) -> &Arc<Registry> {
        name.scope().and_then(|scope| self.scoped.get(scope)).unwrap_or(&self.default)
    }

    /// The registry of what belongs to no package.
    #[must_use]
    pub fn default_registry(&self) -> &Arc<Registry> {
        &self.default
    }
}
