//! Which registries there are and what bounds them. Refuses to know files and flags: `config` and `npmrc` fill this in.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use url::Url;

use crate::net::HostPattern;
use crate::net::{Deadlines, ProxySettings};
use crate::upstream::credentials::{CredentialRules, Credentials, CredentialsError};

/// Everything the registries are made of.
#[derive(Debug, Clone)]
pub struct Config {
    /// The registry of packages whose scope has none of its own.
    pub default: RegistryConfig,
    /// The registries of scopes, by the scope with its `@`.
    pub scoped: BTreeMap<String, RegistryConfig>,
    /// What is lent to those who may borrow it, by the places that it was configured for.
    pub credentials: CredentialRules,
    /// The registries that clients' own credentials are sent to, where there are several.
    pub client_credentials: Vec<Url>,
    /// Outbound proxies.
    pub proxies: ProxySettings,
    /// Where `dist.tarball` may point besides the registry itself; the registry's credentials do not go there.
    pub tarball_hosts: Vec<HostPattern>,
    /// Where a redirect may point besides the host that sent it; the registry's credentials do not go there.
    pub redirect_hosts: Vec<HostPattern>,
    /// How long things may take.
    pub deadlines: Deadlines,
    /// The largest packument that is taken, in bytes as they come over the wire.
    pub packument_limit: u64,
    /// The largest tarball that is taken, in bytes.
    pub tarball_limit: u64,
    /// `User-UserAgent` of our own requests.
    pub user_agent: String,
}

impl Config {
    /// What is lent to a request for `url` of `registry`.
    #[must_use]
    pub fn lent_for(&self, registry: &RegistryConfig, url: &Url) -> Option<Credentials> {
        let own = || registry.credentials.clone().or_else(|| Credentials::in_address(&registry.url).ok().flatten());
        own().or_else(|| self.credentials.for_url(url).cloned())
    }
}

/// How the publish times of a registry count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TimeMode {
    /// The later of its time and our last look that did not have the version.
    #[default]
    Checked,
    /// When this server first saw the version: for a registry whose times say nothing.
    FirstSeen,
    /// Its time alone: for a mirror that fetches on demand and answers 404 at first, or a registry that holds releases back already.
    Trust,
}

/// One registry.
#[derive(Clone)]
pub struct RegistryConfig {
    /// Its address. Credentials in it are taken out and used as the registry's own unless there are others.
    pub url: Url,
    /// Credentials of its own, for everything below its address: they go before those of [`Config::credentials`].
    pub credentials: Option<Credentials>,
    /// Where the choice came from.
    pub origin: SettingOrigin,
    /// How its publish times count.
    pub time_mode: TimeMode,
}

impl RegistryConfig {
    /// A registry without credentials.
    #[must_use]
    pub fn new(url: Url, origin: SettingOrigin) -> Self {
        Self { url, credentials: None, origin, time_mode: TimeMode::default() }
    }

    /// The address as it may be shown: without credentials, query and fragment, ending in `/`.
    #[must_use]
    pub fn address(&self) -> Url {
        address(&self.url)
    }
}

impl fmt::Debug for RegistryConfig {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = out.debug_struct("RegistryConfig");
        shown
            .field("url", &self.address().as_str())
            .field("credentials", &self.credentials)
            .field("origin", &self.origin)
            .field("time_mode", &self.time_mode)
            .finish()
    }
}

/// Where a setting came from, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SettingOrigin {
    /// One of Coldframe's own settings: a flag, a variable or a key of its file.
    Setting(String),
    /// A variable of npm's.
    Variable(String),
    /// An `.npmrc`.
    File(PathBuf),
    /// Nobody said anything, so npm's built-in default holds.
    BuiltIn,
}

impl fmt::Display for SettingOrigin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setting(name) | Self::Variable(name) => write!(out, "`{name}`"),
            Self::File(path) => write!(out, "`{}`", path.display()),
            Self::BuiltIn => out.write_str("npm's built-in default"),
        }
    }
}

/// Why the registries cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamConfigError {
    /// Not an address that a registry can have. The address is shown without credentials.
    #[error("{origin} names a registry that is no `http` or `https` address: `{url}`")]
    Address {
        /// The address.
        url: String,
        /// Where it came from.
        origin: SettingOrigin,
    },
    /// A key of `scoped` is no scope.
    #[error("a scope is written `@scope`: `{0}`")]
    Scope(String),
    /// Credentials in a registry's address cannot be sent.
    #[error("the credentials in the address from {origin} cannot be used")]
    Credentials {
        /// Where they came from.
        origin: SettingOrigin,
        /// Why not.
        source: CredentialsError,
    },
    /// There is an `https` registry and nobody to trust.
    #[error("this machine trusts no certificate authority, so `{url}` cannot be asked; `--upstream-ca FILE` adds one{}", trouble(found.as_ref()))]
    NoRoots {
        /// The registry.
        url: String,
        /// What went wrong with the system's roots.
        found: Option<String>,
    },
    /// The user agent cannot be a header.
    #[error("not a user agent: `{0}`")]
    UserAgent(String),
}

fn trouble(found: Option<&String>) -> String {
    found.map_or_else(String::new, |found| format!(" ({found})"))
}

/// `url` as it may be shown and asked.
pub(crate) fn address(url: &Url) -> Url {
    let mut address = url.clone();
    // Neither can fail for an address with a host, and one without is refused when the registry is made.
    let _ = address.set_username("");
    let _ = address.set_password(None);
    address.set_query(None);
    address.set_fragment(None);
    if !address.path().ends_with('/') {
        address.set_path(&format!("{}/", url.path()));
    }
    address
}
