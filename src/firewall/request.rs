//! What is asked of the firewall and what it answers, free of HTTP.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use crate::firewall::policy_state::Profile;
pub use crate::npm::PackumentForm;
use crate::npm::compression::SegmentFormat;
use crate::npm::tarball_address::{Intercepted, Rewriting};
use crate::npm::{Integrity, UserAgent};
use crate::upstream::{Addressed, Authorization};

/// The address under which clients reach us: scheme, authority and path prefix, without a trailing slash. Tarball URLs are
/// written under it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BaseUrl {
    /// `http://127.0.0.1:4873`, `https://npm.example/registry`.
    pub text: Arc<str>,
    /// Whether answers made for it are kept. A stranger's `Host` fills no memory.
    pub remembered: bool,
    /// Whether our own pages lie below it too: not where a client named a host that we answer for.
    pub explains: bool,
    /// Where a client named such a host: the addresses on which tarballs are asked for here, whatever they are.
    pub intercepted: Option<Arc<Intercepted>>,
}

impl BaseUrl {
    /// Returns how addresses are written under it.
    #[must_use]
    pub fn rewriting(&self) -> Rewriting<'_> {
        Rewriting { base: &self.text, origins: self.intercepted.as_deref().map(|intercepted| &*intercepted.origins) }
    }

    /// Returns the key of its views: the base URL, and where addresses are kept.
    #[must_use]
    pub fn view(&self) -> &Arc<str> {
        self.intercepted.as_ref().map_or(&self.text, |intercepted| &intercepted.view)
    }
}

/// Who asks, as far as an answer or the ledger depends on it.
#[derive(Clone)]
pub struct Client {
    /// The client's address: the peer's, or the one a trusted proxy forwards.
    pub address: IpAddr,
    /// Its name, if it logged in.
    pub user: Option<Arc<str>>,
    /// Its tool.
    pub agent: UserAgent,
    /// Whether it resolves what it asks for, and will ask for what that depends on.
    pub resolves: bool,
    /// Whose credentials its request carries upstream.
    pub authorization: Authorization,
    /// What it addressed: which registries credentials of its own are for, those in a body too.
    pub addressed: Addressed,
    /// Where it reached us.
    pub base: BaseUrl,
    /// By which of the policies it is answered.
    pub profile: Profile,
}

/// How the bytes are coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ContentCoding {
    /// As they are.
    Identity,
    /// One gzip member.
    Gzip,
    /// zstd frames.
    Zstd,
    /// One brotli stream.
    Brotli,
}

impl ContentCoding {
    /// How the view is packed that such an answer is made from: zstd's packs and unpacks quickest.
    pub(crate) fn packing(self) -> SegmentFormat {
        match self {
            ContentCoding::Gzip => SegmentFormat::Gzip,
            ContentCoding::Identity | ContentCoding::Zstd | ContentCoding::Brotli => SegmentFormat::Zstd,
        }
    }

    /// Whether the answer is the view's segments, joined: in microseconds, and in the view's own memory.
    pub(crate) fn is_joined(self) -> bool {
        matches!(self, ContentCoding::Gzip | ContentCoding::Zstd)
    }
}

/// A packument, ready to send.
#[derive(Debug, Clone)]
pub struct PackumentResponse {
    /// The bytes, in pieces that are shared with the memory.
    pub chunks: Arc<[Bytes]>,
    /// Their length together.
    pub length: u64,
    /// Which form this is.
    pub form: PackumentForm,
    /// How it is coded: what was asked for, or identity.
    pub coding: ContentCoding,
    /// A strong entity tag, quotes included.
    pub etag: Arc<str>,
    /// When this view last changed; never upstream's date.
    pub last_modified: Timestamp,
    /// How long ago upstream confirmed it, when upstream could not be asked now.
    pub stale: Option<Duration>,
}

/// A tarball that was admitted.
#[derive(Debug, Clone)]
pub struct TarballResponse {
    /// All its bytes, mapped.
    pub bytes: Bytes,
    /// What they hash to.
    pub integrity: Integrity,
    /// Whether they lay in the store already.
    pub kept: bool,
}
