//! The configuration of registries, their routes and their limits. A name that a route matches is asked at its registry only.
//! `config` and `npmrc` build it from files and flags.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use url::Url;

use crate::net::{Deadlines, HostPattern, ProxySettings, remove_credentials};
use crate::npm::PackageName;
use crate::upstream::credential_source::CredentialSource;
use crate::upstream::credentials::{CredentialRules, Credentials, CredentialsError};

#[derive(Debug, Clone)]
pub struct Config {
    /// The registry of packages that no route matches.
    pub default: RegistryConfig,
    /// The registries of some packages.
    pub routes: Routes,
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
    /// Returns the registry of a package.
    pub(crate) fn registry_of(&self, name: &PackageName) -> &RegistryConfig {
        let route = self.routes.find(name).and_then(|at| self.routes.get(at));
        route.map_or(&self.default, |route| &route.registry)
    }

    /// Returns all registries, the default one first.
    pub(crate) fn registries(&self) -> impl Iterator<Item = &RegistryConfig> {
        std::iter::once(&self.default).chain(self.routes.iter().map(|route| &route.registry))
    }

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
    /// Provides the credentials for all URLs below the registry's URL, instead of all others.
    pub source: Option<CredentialSource>,
    /// A PEM file of further CAs to trust for this registry.
    pub ca: Option<PathBuf>,
    pub origin: SettingOrigin,
    pub time_mode: TimeMode,
}

impl RegistryConfig {
    pub(crate) fn new(url: Url, origin: SettingOrigin) -> Self {
        Self { url, credentials: None, source: None, ca: None, origin, time_mode: TimeMode::default() }
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
    #[error("invalid package glob of an upstream, expected some packages such as `acme-*`: `{0}`")]
    Glob(String),
    #[error("cannot use the credentials in the registry URL from {origin}")]
    Credentials { origin: SettingOrigin, source: CredentialsError },
    /// `found` is the error of loading the system's roots.
    #[error("no trusted certificate authority for `{url}`; add one with `--upstream-ca FILE`{}", roots_hint(found.as_ref()))]
    NoRoots { url: String, found: Option<String> },
    /// The CAs of one registry were not loaded.
    #[error("cannot use the CA file of an upstream: `{}`", .0.display())]
    Ca(PathBuf),
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

/// The packages of one registry.
#[derive(Debug, Clone)]
pub struct Route {
    /// Scopes with their `@`.
    pub scopes: Vec<String>,
    /// Globs of package names, in which `*` stops at `/`.
    pub packages: Vec<String>,
    pub registry: RegistryConfig,
    /// Whether rules on ages do not apply to its packages.
    pub ignores_age: bool,
}

/// Routes in their order: the first that matches a name applies. Case is ignored, because a registry may ignore it too.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    list: Vec<Route>,
    /// The first route of each scope, in lower case.
    by_scope: HashMap<Box<str>, usize>,
    globs: GlobSet,
    /// The route of each glob.
    by_glob: Vec<usize>,
}

impl Route {
    /// Creates the route of one scope.
    pub(crate) fn for_scope(scope: &str, registry: RegistryConfig) -> Self {
        Self { scopes: vec![scope.to_owned()], packages: Vec::new(), registry, ignores_age: false }
    }

    /// Formats what it matches, such as `@acme acme-*`.
    pub(crate) fn label(&self) -> String {
        self.scopes.iter().chain(&self.packages).map(String::as_str).collect::<Vec<_>>().join(" ")
    }
}

impl Routes {
    /// Compiles routes. Returns an error if a scope or glob is invalid, or if a glob matches nearly every name.
    pub(crate) fn new(list: Vec<Route>) -> Result<Self, UpstreamConfigError> {
        let (mut by_scope, mut by_glob, mut globs) = (HashMap::new(), Vec::new(), GlobSetBuilder::new());
        for (at, route) in list.iter().enumerate() {
            for scope in &route.scopes {
                if !is_scope(scope) {
                    return Err(UpstreamConfigError::Scope(scope.escape_debug().to_string()));
                }
                by_scope.entry(scope.to_ascii_lowercase().into()).or_insert(at);
            }
            for glob in &route.packages {
                let invalid = || UpstreamConfigError::Glob(glob.escape_debug().to_string());
                if !names_packages(glob) {
                    return Err(invalid());
                }
                let compiled = GlobBuilder::new(glob).literal_separator(true).case_insensitive(true).build();
                globs.add(compiled.map_err(|_| invalid())?);
                by_glob.push(at);
            }
        }
        let globs = globs.build().map_err(|error| UpstreamConfigError::Glob(error.to_string()))?;
        Ok(Self { list, by_scope, globs, by_glob })
    }

    /// Returns the index of the route of a package.
    pub(crate) fn find(&self, name: &PackageName) -> Option<usize> {
        let of_scope = name.scope().and_then(|scope| {
            let is_lower = !scope.bytes().any(|byte| byte.is_ascii_uppercase());
            if is_lower { self.by_scope.get(scope) } else { self.by_scope.get(&*scope.to_ascii_lowercase()) }
        });
        if self.by_glob.is_empty() {
            return of_scope.copied();
        }
        let of_globs = self.globs.matches(name.as_str()).into_iter().filter_map(|at| self.by_glob.get(at));
        of_globs.chain(of_scope).min().copied()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.list.iter()
    }

    pub(crate) fn get(&self, at: usize) -> Option<&Route> {
        self.list.get(at)
    }
}

/// Checks for a scope with its `@`, in characters that npm allows.
pub(crate) fn is_scope(text: &str) -> bool {
    PackageName::parse(&format!("{text}/x")).is_ok_and(|name| name.scope() == Some(text))
}

/// Checks whether a glob names some packages and not all: it has a letter or digit.
fn names_packages(glob: &str) -> bool {
    glob.bytes().any(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::*;

    fn routes(list: &[(&[&str], &[&str])]) -> Result<Routes, String> {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let registry = || RegistryConfig::new(Url::parse("http://acme.example/").unwrap(), SettingOrigin::BuiltIn);
        let route = |(scopes, packages): &(&[&str], &[&str])| Route {
            scopes: texts(scopes),
            packages: texts(packages),
            registry: registry(),
            ignores_age: false,
        };
        Routes::new(list.iter().map(route).collect()).map_err(|error| error.to_string())
    }

    #[test]
    fn first_route_that_matches_applies_in_any_case() {
        let routes = routes(&[(&["@acme"], &["acme-*"]), (&["@Other", "@acme"], &["acme-ui", "@third/*-private"])]).unwrap();
        let find = |name: &str| routes.find(&PackageName::parse(name).unwrap());
        for (name, expected) in [
            ("@acme/ui", Some(0)),
            ("@Acme/ui", Some(0)),
            ("acme-ui", Some(0)),
            ("ACME-ui", Some(0)),
            ("@other/ui", Some(1)),
            ("@third/ui-private", Some(1)),
            ("@third/ui", None),
            ("@acmes/ui", None),
            ("acme", None),
            ("@x/acme-ui", None),
        ] {
            assert_eq!(find(name), expected, "{name}");
        }
        assert_eq!(Routes::default().find(&PackageName::parse("@acme/ui").unwrap()), None);
    }

    #[test]
    fn invalid_scopes_and_globs_for_everything_are_refused() {
        for scope in ["acme", "@", "@a/b", "@acme/", "", "@аcme", "@a b"] {
            assert!(routes(&[(&[scope], &[])]).unwrap_err().contains("invalid scope"), "{scope}");
        }
        for glob in ["*", "@*/*", "**", "?*", "{*,@*/*}", "", "a[", "{a"] {
            assert!(routes(&[(&[], &[glob])]).unwrap_err().contains("invalid package glob of an upstream"), "{glob}");
        }
    }
}
