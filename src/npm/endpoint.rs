//! What a request to a registry asks for. Refuses to know HTTP types, who asks, and whether it will be answered.

use super::PackageName;

/// One thing a registry can be asked, with every name decoded and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// `GET /` — the registry's own root document (`npm ping` of old, curl of the curious).
    Root,
    /// `GET /{package}` — the packument.
    Packument(PackageName),
    /// `GET /{package}/{wanted}` — one manifest by version, dist-tag or range.
    Manifest {
        /// The package.
        name: PackageName,
        /// Decoded version, dist-tag or range.
        wanted: String,
    },
    /// `GET /{package}/-/{file}.tgz`, or another shape that names one version's tarball.
    Tarball {
        /// The package.
        name: PackageName,
        /// The key in `versions`, taken out of the file name.
        version: String,
    },
    /// `GET /-/package/{package}/dist-tags`.
    DistTags(PackageName),
    /// `GET /-/v1/search?…`, the query as it came.
    Search {
        /// Everything after the `?`.
        query: String,
    },
    /// `GET /-/ping`.
    Ping,
    /// `GET /-/whoami`.
    Whoami,
    /// `GET /-/npm/v1/keys`.
    Keys,
    /// `GET /-/npm/v1/attestations/{package}@{version}`.
    Attestations {
        /// The package.
        name: PackageName,
        /// The version.
        version: String,
    },
    /// `POST /-/npm/v1/security/advisories/bulk`, `…/audits`, `…/audits/quick`.
    Audit {
        /// Whether the body is the bulk form (`{"name": ["version"]}`), the only one whose packages are read.
        bulk: bool,
    },
    /// `GET` of an account's own data (`/-/npm/v1/user`, `/-/npm/v1/tokens`, `/-/org/…`, `/-/package/…/access`): passed on
    /// with the client's own credentials, never remembered.
    Account,
    /// Anything that changes the registry: publish, unpublish, login, tokens, dist-tag add and rm, owner, deprecate, star.
    Write,
    /// `/-/coldframe/…`: Coldframe's own, the rest of the path without the leading slash.
    Own(String),
}
