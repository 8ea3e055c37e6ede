//! Requests to the firewall and its responses, independent of HTTP.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use crate::firewall::policy_state::Profile;
pub use crate::npm::PackumentForm;
use crate::npm::compression::SegmentFormat;
use crate::npm::tarball_address::{Intercepted, Rewriting};
use crate::npm::{AuditFormat, Integrity, PackageName, UserAgent};
use crate::policy::Identity;
use crate::upstream::{Addressed, Authorization, PassthroughRequest, PassthroughResponse};

/// The URL under which clients reach the registry endpoint: scheme, authority and path prefix, without a trailing slash. Tarball
/// URLs are written below it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BaseUrl {
    /// The URL, such as `http://127.0.0.1:4873` or `https://npm.example/registry`.
    pub text: Arc<str>,
    /// Whether responses for it are cached. An arbitrary `Host` header must not fill the memory.
    pub cacheable: bool,
    /// Whether the admin pages are below it. They are not if the client addressed an intercepted host.
    pub serves_admin: bool,
    /// For an intercepted host, the original tarball addresses that are served here.
    pub intercepted: Option<Arc<Intercepted>>,
}

impl BaseUrl {
    /// Returns how tarball addresses are rewritten for this base URL.
    pub(crate) fn rewriting(&self) -> Rewriting<'_> {
        Rewriting { base: &self.text, origins: self.intercepted.as_deref().map(|intercepted| &*intercepted.origins) }
    }

    /// Returns the cache key of its rendered views: the base URL, and whether original addresses are kept.
    pub(crate) fn view(&self) -> &Arc<str> {
        self.intercepted.as_ref().map_or(&self.text, |intercepted| &intercepted.view)
    }
}

/// The client of a request, as far as the response or the ledger depends on it.
#[derive(Clone)]
pub struct Client {
    /// The peer address, or the one that a trusted proxy forwards.
    pub address: IpAddr,
    /// Who the client is, if it authenticated.
    pub identity: Option<Arc<Identity>>,
    pub agent: UserAgent,
    /// Whether the client resolves versions and will request their dependencies next.
    pub is_installing: bool,
    pub authorization: Authorization,
    /// The host or registry that the client addressed. It decides which registries receive the client's own credentials,
    /// including those in a body.
    pub addressed: Addressed,
    pub base: BaseUrl,
    /// The policy profile of the listener.
    pub profile: Profile,
}

impl Client {
    /// Returns the name of the authenticated client, as the ledger and the log show it.
    pub fn user(&self) -> Option<&Arc<str>> {
        self.identity.as_ref().map(|identity| &identity.subject)
    }
}

/// The content coding of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ContentCoding {
    Identity,
    /// One gzip member.
    Gzip,
    Zstd,
}

impl ContentCoding {
    /// Returns the compression of the rendered view for this coding. Uncompressed responses use zstd, which compresses and
    /// decompresses fastest.
    pub(crate) fn segment_format(self) -> SegmentFormat {
        match self {
            ContentCoding::Gzip => SegmentFormat::Gzip,
            ContentCoding::Identity | ContentCoding::Zstd => SegmentFormat::Zstd,
        }
    }

    /// Checks whether the response is the view's compressed segments, joined: this takes microseconds and shares the view's
    /// memory.
    pub(crate) fn is_segmented(self) -> bool {
        matches!(self, ContentCoding::Gzip | ContentCoding::Zstd)
    }
}

/// A packument response.
#[derive(Debug, Clone)]
pub struct PackumentResponse {
    /// The body in chunks that are shared with the cache.
    pub chunks: Arc<[Bytes]>,
    /// The total length in bytes.
    pub length: u64,
    pub form: PackumentForm,
    /// The coding: the requested one, or identity.
    pub coding: ContentCoding,
    /// The strong entity tag, with quotes.
    pub etag: Arc<str>,
    /// When this response last changed. Never upstream's date.
    pub last_modified: Timestamp,
    /// The time since upstream confirmed it, if it is stale.
    pub stale: Option<Duration>,
}

/// A tarball that may be served.
#[derive(Debug, Clone)]
pub struct TarballResponse {
    /// The bytes, memory-mapped if they are in the store.
    pub bytes: Bytes,
    pub integrity: Integrity,
    /// Whether the tarball was in the store already.
    pub kept: bool,
}

/// A request of a client to the registry.
pub enum RegistryRequest {
    /// The packument without the hidden versions.
    Packument { name: PackageName, form: PackumentForm, coding: ContentCoding },
    /// One manifest. `spec` is a version, a dist-tag or a range.
    Manifest { name: PackageName, spec: String },
    /// The dist-tags as clients see them.
    DistTags { name: PackageName },
    /// A tarball, verified against its packument.
    Tarball { name: PackageName, version: String },
    /// A search, whose results are filtered.
    Search(Box<PassthroughRequest>),
    /// An audit, whose response gets the advisories of the feeds too. `body` is the body of `request`, decoded.
    Audit { request: Box<PassthroughRequest>, body: Bytes, format: AuditFormat },
    /// The attestations of a version. Those of a hidden version are not found, which pnpm tolerates.
    Attestations { name: PackageName, version: String, request: Box<PassthroughRequest> },
    /// Any other read: ping, keys, whoami, accounts. `name` selects the registry, else it is the default one.
    PassThrough { name: Option<PackageName>, request: Box<PassthroughRequest> },
    /// A write, after which the package is revalidated before its next response.
    Write { name: Option<PackageName>, request: Box<PassthroughRequest> },
}

/// The response to a [`RegistryRequest`].
#[derive(Debug)]
pub enum RegistryResponse {
    Packument(PackumentResponse),
    /// A manifest, as JSON.
    Manifest(Bytes),
    /// Dist-tags, as JSON.
    DistTags(Bytes),
    Tarball(TarballResponse),
    Passthrough {
        response: PassthroughResponse,
        /// A text for `npm-notice`. It lists held releases of the audited packages.
        notice: Option<String>,
    },
}

impl From<PassthroughResponse> for RegistryResponse {
    fn from(response: PassthroughResponse) -> Self {
        Self::Passthrough { response, notice: None }
    }
}
