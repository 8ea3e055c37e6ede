//! Errors of requests.

use crate::firewall::FirewallError;
use crate::net::{BodyError, ClientError};
use crate::npm::endpoint::EndpointError;
use crate::telemetry::BarLabel;

/// Why an access token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenRefusal {
    #[error("malformed; compare it with what `coldframe token create` printed")]
    Malformed,
    #[error("unknown to this server")]
    Unknown,
    #[error("expired")]
    Expired,
    #[error("revoked")]
    Revoked,
}

/// Why an OIDC token is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JwtError {
    #[error("not a signed OIDC token with a key id, an issuer and an audience")]
    Malformed,
    #[error("not from a trusted issuer, or for another audience")]
    Untrusted,
    #[error("signed with another algorithm than the one that is trusted")]
    Algorithm,
    #[error("signed with a key that the issuer does not have")]
    UnknownKey,
    #[error("not signed by its issuer")]
    Signature,
    #[error("expired, or without an expiry")]
    Expired,
    #[error("not valid yet")]
    NotYet,
}

/// Why a request is refused or failed. [`super::response`] maps each case to a status.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    /// `require-auth` is set. Holds the line for `.npmrc`.
    #[error("coldframe requires an access token; add it to .npmrc: {0}")]
    TokenRequired(String),
    #[error("this access token of coldframe is {0}")]
    TokenRefused(TokenRefusal),
    /// The same in `Proxy-Authorization`.
    #[error("the access token in the proxy URL is {0}")]
    ProxyTokenRefused(TokenRefusal),
    #[error("too many invalid access tokens from this address; try again in a minute")]
    TooManyGuesses,
    /// A token in a place that is logged or forwarded. Names the place.
    #[error(
        "an access token of coldframe is in the {0} of this request, where it could leak; revoke it, and send tokens in `Authorization` only"
    )]
    TokenInRequest(&'static str),
    /// A write or an account request with an access token instead of the registry's credentials.
    #[error(
        "publishing and account requests need credentials of the registry; an access token of coldframe is never sent there, \
         so use the registry directly or the gateway"
    )]
    TokenForRegistry,
    #[error("this OIDC token is {0}")]
    ExchangeRefused(JwtError),
    #[error("the claims of this OIDC token match no entry of `trusted-issuers`")]
    ClaimsRefused,
    #[error("this OIDC token was exchanged before; request a new one")]
    AlreadyExchanged,
    /// An OIDC token for this server in place of an access token. Holds the base URL.
    #[error("exchange this OIDC token for an access token first: POST {0}/-/coldframe/token")]
    NotExchanged(String),
    #[error("the keys of the issuer of this OIDC token cannot be fetched; try again in a minute")]
    KeysUnavailable,
    #[error("too many access tokens are active; try again later")]
    TooManyTokens,
    #[error("this page needs an access token with the role `{needed}`, and the role of this one is `{role}`")]
    RoleTooLow { needed: &'static str, role: &'static str },
    /// A change of a request for an approval, without a token that says who it is.
    #[error("this page needs an access token that names who asks; or run `coldframe request` on the server")]
    IdentityRequired,
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    #[error("{0}")]
    Headers(String),
    /// A browser sent it from a page of another site.
    #[error("coldframe answers this only to its own pages and to programs: {0}")]
    CrossSite(&'static str),
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error("unsupported content encoding, expected `gzip` or `identity`")]
    Coding,
    #[error("unsupported transfer encoding, expected only `chunked`")]
    Transfer,
    #[error(transparent)]
    Rejected(#[from] FirewallError),
    #[error("coldframe does not forward writes; publish to the registry directly, or start coldframe with `--allow-writes`")]
    WritesDisabled,
    /// A packument read for a later write, without credentials of the client.
    #[error("reading a packument for a write requires your own credentials")]
    NeedsCredentials,
    #[error(
        "admin token required; send `Authorization: Bearer` with a token from `admin-token-file` \
         (for `coldframe check --server`, set `--admin-token-file`)"
    )]
    AdminTokenRequired,
    #[error("this page requires an admin token, and `admin-token-file` is not set; `explain-access` opens `check` and `explain`")]
    AdminDisabled,
    #[error("gateway authentication required; add a user name and password to the proxy URL: `http://name:password@host:port`")]
    ProxyAuthRequired,
    /// The gateway refuses the destination. Holds the metric label and the reason.
    #[error("{1}")]
    EgressDenied(BarLabel, String),
    /// The `Host` differs from the host of the connection.
    #[error("{0}")]
    HostMismatch(String),
    /// An intercepted host, but not a registry path.
    #[error("not a registry path; coldframe intercepts only the registry on this host")]
    NotARegistryPath,
    #[error("cannot reach `{place}`: {cause}")]
    Unreachable { place: String, cause: ClientError },
    #[error("you cannot sign in: {0}")]
    SignInFailed(&'static str),
    #[error("the sign-in provider cannot be reached, or has too much to do; try again in a minute")]
    ProviderUnavailable,
    #[error("the ledger cannot be read; the log of the server says why")]
    LedgerUnreadable,
    #[error("cannot read request body: internal error")]
    TaskFailed,
}
