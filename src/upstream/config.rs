//! The configuration of registries and their limits. `config` and `npmrc` build it from files and flags.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use url::Url;

use crate::net::{Deadlines, HostPattern, ProxySettings, remove_credentials};
use crate::upstream::credentials::{CredentialRules, Credentials, CredentialsError};

#[derive(Debug, Clone)]
pub struct Config {
    /// The registry of packages whose scope has no registry.
    pub default: RegistryConfig,
    /// The registries of scopes. Keys are scopes with their `@`.
    pub scoped: BTreeMap<String, RegistryConfig>,
    /// Credentials lent to clients that may borrow them, by the URL they were configured for.
    pub credentials: CredentialRules,
    /// The registries that receive clients' own credentials, if there are several registries.
    pub client_credentials: Vec<Url>,
    pub proxies: ProxySettings,
    /// Hosts that `dist.tarball` may name in addition to the registry. The registry's credentials are not sent there.
    pub tarball_hosts: Vec<HostPattern>,
    /// Hosts that a redirect may name in addition to its own. The registry's credentials are not sent there.
    pub redirect_hosts: Vec<HostPattern>,
    pub deadlines: Deadlines,
    /// Maximum size of a packument, in bytes on the wire.
    pub packument_limit: u64,
    /// Maximum size of a tarball, in bytes.
    pub tarball_limit: u64,
    /// The `User-Agent` of Coldframe's own requests.
    pub user_agent: String,
}

impl Config {
    pub(crate) fn lent_for(&self, registry: &RegistryConfig, url: &Url) -> Option<Credentials> {
        let own = || registry.credentials.clone().or_else(|| Credentials::from_url(&registry.url).ok().flatten());
        own().or_else(|| self.credentials.for_url(url).cloned())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TimeMode {
    /// The later of its stated time and the last lookup without the version.
    #[default]
    Checked,
    /// The time when this server first saw the version. For registries whose times are meaningless.
    FirstSeen,
    /// Its stated time only. For mirrors that fetch on demand and first answer 404, and registries that delay releases.
    Trust,
}

#[derive(Clone)]
pub struct RegistryConfig {
    /// The registry's URL. Credentials in it are removed and used unless [`RegistryConfig::credentials`] is set.
    pub url: Url,
    /// Credentials for all URLs below the registry's URL. They take precedence over [`Config::credentials`].
    pub credentials: Option<Credentials>,
    pub origin: SettingOrigin,
    pub time_mode: TimeMode,
}

impl RegistryConfig {
    pub(crate) fn new(url: Url, origin: SettingOrigin) -> Self {
        Self { url, credentials: None, origin, time_mode: TimeMode::default() }
    }

    /// Returns the URL without credentials, query and fragment, ending in `/`. Safe to display.
    pub fn address(&self) -> Url {
        address(&self.url)
    }
}

impl fmt::Debug for RegistryConfig {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (url, Self { credentials, origin, .. }) = (self.address(), self);
        out.debug_tuple("RegistryConfig").field(&url.as_str()).field(credentials).field(origin).finish_non_exhaustive()
    }
}

/// Where a setting was configured, for display.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SettingOrigin {
    /// A setting of Coldframe: a flag, a variable or a key of its file.
    Setting(String),
    /// An environment variable of npm.
    Variable(String),
    File(PathBuf),
    /// Not configured; npm's built-in default applies.
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

#[derive(Debug, thiserror::Error)]
pub enum UpstreamConfigError {
    /// The URL is without credentials.
    #[error("registry from {origin} is not an `http` or `https` URL: `{url}`")]
    Address { url: String, origin: SettingOrigin },
    #[error("invalid scope, expected `@scope`: `{0}`")]
    Scope(String),
    #[error("cannot use the credentials in the registry URL from {origin}")]
    Credentials { origin: SettingOrigin, source: CredentialsError },
    /// `found` is the error of loading the system's roots.
    #[error("no trusted certificate authority for `{url}`; add one with `--upstream-ca FILE`{}", roots_hint(found.as_ref()))]
    NoRoots { url: String, found: Option<String> },
    #[error("invalid user agent: `{0}`")]
    UserAgent(String),
}

fn roots_hint(found: Option<&String>) -> String {
    found.map_or_else(String::new, |found| format!(" ({found})"))
}

/// Removes credentials, query and fragment from `url` and adds a final slash.
pub(crate) fn address(url: &Url) -> Url {
    let mut address = url.clone();
    remove_credentials(&mut address);
    address.set_query(None);
    address.set_fragment(None);
    add_final_slash(&mut address);
    address
}

pub(crate) fn add_final_slash(url: &mut Url) {
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
}
