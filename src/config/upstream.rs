//! Resolves the upstream registries: the configured one, or else the one that npm on this machine uses. Adds npm's scoped
//! registries, credentials, CAs and proxies. A registry that is Coldframe itself is rejected.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;

use url::{Host, Url};

use crate::config::environment::DefaultsFrom;
use crate::config::parse::{self, SettingsReader};
use crate::config::settings::SettingKey;
use crate::diagnostics::{Diagnostic, Origin};
use crate::net::{Deadlines, ProxySettings};
use crate::upstream::{self, CredentialRules, NpmConfig, NpmEnvironment, RegistryConfig, npmrc};
use crate::{net, tls};

/// The addresses of this server, to detect an upstream that points back at it.
pub(crate) struct OwnAddresses<'a> {
    pub(crate) listen: &'a [SocketAddr],
    pub(crate) public_url: Option<&'a Url>,
}

/// Resolves the registries. Returns `None` after it has added an error.
pub(crate) fn resolve(
    reader: &mut SettingsReader<'_>,
    machine: &DefaultsFrom<'_>,
    own_addresses: &OwnAddresses<'_>,
    limits: (Option<u64>, Option<u64>),
) -> Option<UpstreamSettings> {
    let named = reader.one(SettingKey::Upstream, parse::url);
    if named.as_ref().is_some_and(|url| own_addresses.contains(url)) {
        reader.reject(SettingKey::Upstream, "`upstream` is Coldframe itself", "a registry other than this server");
    }
    let marked = reader.several(SettingKey::ClientCredentials, parse::public_url);
    let tarball_hosts = reader.several(SettingKey::TarballHost, parse::host_glob);
    let redirect_hosts = reader.several(SettingKey::RedirectHost, parse::host_glob);
    let time_modes = reader.several(SettingKey::UpstreamTime, parse::time_mode);
    let mut extra_roots = reader.several(SettingKey::UpstreamCa, parse::path);
    let timeout = reader.one(SettingKey::UpstreamTimeout, parse::nonzero_duration);
    let npm = npm(reader, machine, own_addresses);
    let default = match (named, &npm) {
        (Some(url), npm) => named_registry(reader, url, npm.as_ref()),
        (None, Some(npm)) => npm.found.default_registry().map_err(|error| reader.add(describe_error(&error))).ok(),
        (None, None) => {
            let missing = matches!(machine, DefaultsFrom::Nothing) && reader.is_absent(SettingKey::Upstream);
            if missing {
                reader.reject(SettingKey::Upstream, "no upstream is configured", SettingKey::Upstream.setting().kind.allowed());
            }
            None
        }
    };
    let (scoped, credentials, proxies, warnings) = match npm {
        None => (std::collections::BTreeMap::default(), CredentialRules::default(), ProxySettings::none(), Vec::new()),
        Some(npm) => {
            extra_roots.extend(npm.extra_roots());
            let scoped = npm.found.scoped_registries().map_err(|error| reader.add(describe_error(&error)));
            let proxies = npm.found.proxies(&npm.environment).map_err(|error| reader.add(describe_error(&error)));
            (scoped.ok()?, npm.found.credential_rules(), proxies.ok()?, npm.found.warnings)
        }
    };
    if !matches!(machine, DefaultsFrom::AnotherMachine) {
        check_marked(reader, &marked, default.as_ref(), &scoped);
    }
    let (mut default, mut scoped) = (default?, scoped);
    for (scope, mode) in &time_modes {
        match scope {
            None => default.time_mode = *mode,
            Some(scope) => {
                if let Some(registry) = scoped.get_mut(scope) {
                    registry.time_mode = *mode;
                } else {
                    let problem = format!("no registry is configured for the scope `{scope}`");
                    reader.reject(SettingKey::UpstreamTime, problem, "a scope with a registry in npm's configuration");
                }
            }
        }
    }
    let config = upstream::Config {
        default,
        scoped,
        credentials,
        client_credentials: marked,
        proxies,
        tarball_hosts,
        redirect_hosts,
        deadlines: deadlines(timeout?),
        packument_limit: limits.0?,
        tarball_limit: limits.1?,
        user_agent: concat!("coldframe/", env!("CARGO_PKG_VERSION")).to_owned(),
    };
    Some(UpstreamSettings { upstream: config, tls: tls::Config { extra_roots }, warnings })
}

pub(crate) struct UpstreamSettings {
    pub(crate) upstream: upstream::Config,
    /// The CAs that are trusted for upstream.
    pub(crate) tls: tls::Config,
    pub(crate) warnings: Vec<String>,
}

/// npm's configuration and the environment it was read from.
struct NpmDefaults {
    found: NpmConfig,
    environment: NpmEnvironment,
}

impl NpmDefaults {
    /// Returns the CA files that npm is configured to trust.
    fn extra_roots(&self) -> impl Iterator<Item = PathBuf> {
        [&self.found.cafile, &self.found.extra_ca].into_iter().flatten().map(|(path, _)| path.clone())
    }
}

fn npm(reader: &mut SettingsReader<'_>, machine: &DefaultsFrom<'_>, own_addresses: &OwnAddresses<'_>) -> Option<NpmDefaults> {
    let DefaultsFrom::ThisMachine(environment) = machine else { return None };
    let environment = environment.npm_environment();
    match npmrc::discover(&environment, &|url| own_addresses.contains(url)) {
        Ok(found) => Some(NpmDefaults { found, environment }),
        Err(error) => {
            reader.add(describe_error(&error));
            None
        }
    }
}

/// Returns the registry that a setting names. npm's credentials for it are used unless the URL contains some.
fn named_registry(reader: &mut SettingsReader<'_>, url: Url, npm: Option<&NpmDefaults>) -> Option<RegistryConfig> {
    let setting = upstream::SettingOrigin::Setting(reader.origin(SettingKey::Upstream).to_string());
    let brings_own = !url.username().is_empty() || url.password().is_some();
    // npm's credentials are looked up by URL at each fetch. They are read here to report unusable ones as errors.
    if let Some(Err(error)) = npm.filter(|_| !brings_own).map(|npm| npm.found.credentials(&url)) {
        reader.add(describe_error(&error));
        return None;
    }
    Some(RegistryConfig::new(url, setting))
}

/// Notes an error for each `marked` URL that is no registry. A misspelt URL would silently receive no credentials.
fn check_marked(
    reader: &mut SettingsReader<'_>,
    marked: &[Url],
    default: Option<&RegistryConfig>,
    scoped: &std::collections::BTreeMap<String, RegistryConfig>,
) {
    let Some(default) = default else { return };
    let mut known: Vec<Url> = std::iter::once(default).chain(scoped.values()).map(RegistryConfig::address).collect();
    known.sort_unstable();
    known.dedup();
    for address in marked.iter().filter(|address| !known.contains(address)) {
        let allowed = known.iter().map(|url| format!("`{url}`")).collect::<Vec<_>>().join(", ");
        reader.reject(
            SettingKey::ClientCredentials,
            format!("`client-credentials` is not a configured registry: `{address}`"),
            allowed,
        );
    }
}

/// Converts an error in npm's configuration, whose text contains its location.
fn describe_error(error: &dyn Error) -> Diagnostic {
    let mut problem = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        problem = format!("{problem}: {cause}");
        source = cause.source();
    }
    Diagnostic::new(Origin::Default, problem, "")
}

fn deadlines(timeout: std::time::Duration) -> net::Deadlines {
    Deadlines { connect: Deadlines::default().connect.min(timeout), headers: timeout, idle: timeout, ..Deadlines::default() }
}

impl OwnAddresses<'_> {
    /// Checks whether a request to `url` would reach this server. Names other than `localhost` are not resolved, because startup
    /// makes no network requests.
    fn contains(&self, url: &Url) -> bool {
        if self.public_url.is_some_and(|public| same_place(public, url)) {
            return true;
        }
        let addresses = match url.host() {
            Some(Host::Ipv4(ip)) => vec![IpAddr::V4(ip)],
            Some(Host::Ipv6(ip)) => vec![IpAddr::V6(ip).to_canonical()],
            Some(Host::Domain(name)) if name.trim_end_matches('.') == "localhost" => {
                vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]
            }
            _ => Vec::new(),
        };
        let port = url.port_or_known_default();
        let ours = |listen: &SocketAddr| Some(listen.port()) == port && addresses.iter().any(|ip| takes(listen.ip(), *ip));
        self.listen.iter().any(ours)
    }
}

/// Checks whether a listener at `listening` accepts connections to `ip`.
fn takes(listening: IpAddr, ip: IpAddr) -> bool {
    // Binding succeeds only for addresses of this machine.
    listening == ip || (listening.is_unspecified() && (ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()))
}

fn same_place(left: &Url, right: &Url) -> bool {
    let path = |url: &Url| url.path().trim_end_matches('/').to_owned();
    left.origin() == right.origin() && path(left) == path(right)
}

/// Returns the non-empty paths of all registries without a trailing slash, the longest first.
pub(crate) fn prefixes(upstream: &upstream::Config) -> Vec<Box<str>> {
    let all = std::iter::once(&upstream.default).chain(upstream.scoped.values());
    let paths = all.map(|registry| registry.address().path().trim_end_matches('/').to_owned());
    let mut prefixes: Vec<Box<str>> = paths.filter(|path| !path.is_empty()).map(Into::into).collect();
    prefixes.sort_unstable_by_key(|path| std::cmp::Reverse(path.len()));
    prefixes.dedup();
    prefixes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses_are_recognised_by_listener_and_public_url() {
        let public = Url::parse("https://npm.example/registry/").unwrap();
        let listen = ["127.0.0.1:4873".parse().unwrap(), "0.0.0.0:80".parse().unwrap()];
        let own_addresses = OwnAddresses { listen: &listen, public_url: Some(&public) };
        let answers = |url| own_addresses.contains(&Url::parse(url).unwrap());
        for ours in [
            "http://127.0.0.1:4873/",
            "http://localhost:4873/deep/",
            "http://localhost./",
            "http://127.0.0.9/",
            "https://npm.example:443/registry",
        ] {
            assert!(answers(ours), "{ours}");
        }
        for other in [
            "http://127.0.0.2:4873/",
            "http://127.0.0.1:4874/",
            "https://npm.example/other/",
            "http://registry.example/",
            "http://192.0.2.1/",
        ] {
            assert!(!answers(other), "{other}");
        }
    }
}
