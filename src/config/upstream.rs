//! Which registries stand behind us: the one that is named, else the one that npm on this machine uses, with npm's scoped
//! registries, credentials, authorities and proxies. Refuses one that is Coldframe itself.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;

use url::{Host, Url};

use crate::config::DefaultsFrom;
use crate::config::mistake::{Diagnostic, Origin};
use crate::config::parse::{self, SettingsReader};
use crate::config::settings::SettingKey;
use crate::net::{Deadlines, ProxySettings};
use crate::upstream::{self, CredentialRules, NpmConfig, NpmEnvironment, RegistryConfig, npmrc};
use crate::{net, tls};

/// What is known of ourselves: enough to recognise a registry that is us.
pub(crate) struct OwnAddresses<'a> {
    /// Where we listen.
    pub(crate) listen: &'a [SocketAddr],
    /// How clients reach us.
    pub(crate) public_url: Option<&'a Url>,
}

/// The registries, and what people should know of npm's configuration; `None` when something is wrong, which is noted.
pub(crate) fn choose(
    reader: &mut SettingsReader<'_>,
    machine: &DefaultsFrom<'_>,
    ourselves: &OwnAddresses<'_>,
    limits: (Option<u64>, Option<u64>),
) -> Option<UpstreamSettings> {
    let named = reader.one(SettingKey::Upstream, parse::url);
    if named.as_ref().is_some_and(|url| ourselves.answer_at(url)) {
        reader.object(SettingKey::Upstream, "`upstream` is coldframe itself", "the registry that packages come from");
    }
    let marked = reader.several(SettingKey::ClientCredentials, parse::public_url);
    let tarball_hosts = reader.several(SettingKey::TarballHost, parse::host_glob);
    let redirect_hosts = reader.several(SettingKey::RedirectHost, parse::host_glob);
    let time_modes = reader.several(SettingKey::UpstreamTime, parse::time_mode);
    let mut extra_roots = reader.several(SettingKey::UpstreamCa, parse::path);
    let timeout = reader.one(SettingKey::UpstreamTimeout, parse::some_duration);
    let npm = npm(reader, machine, ourselves);
    let default = match (named, &npm) {
        (Some(url), npm) => named_registry(reader, url, npm.as_ref()),
        (None, Some(npm)) => npm.found.default_registry().map_err(|wrong| reader.note(tell(&wrong))).ok(),
        (None, None) => {
            let missing = matches!(machine, DefaultsFrom::Apart) && reader.is_absent(SettingKey::Upstream);
            if missing {
                reader.object(SettingKey::Upstream, "no upstream is named", SettingKey::Upstream.setting().kind.allowed());
            }
            None
        }
    };
    let (scoped, credentials, proxies, warnings) = match npm {
        None => (std::collections::BTreeMap::default(), CredentialRules::default(), ProxySettings::none(), Vec::new()),
        Some(npm) => {
            extra_roots.extend(npm.extra_roots());
            let scoped = npm.found.scoped_registries().map_err(|wrong| reader.note(tell(&wrong)));
            let proxies = npm.found.proxies(&npm.environment).map_err(|wrong| reader.note(tell(&wrong)));
            (scoped.ok()?, npm.found.credential_rules(), proxies.ok()?, npm.found.warnings)
        }
    };
    if !matches!(machine, DefaultsFrom::Unknown) {
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
                    let problem = format!("`{scope}` has no registry of its own");
                    reader.object(SettingKey::UpstreamTime, problem, "a scope that npm's configuration gives a registry");
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

/// What stands behind us.
pub(crate) struct UpstreamSettings {
    /// The registries.
    pub(crate) upstream: upstream::Config,
    /// Whom they are trusted by.
    pub(crate) tls: tls::Config,
    /// What people should know of npm's configuration.
    pub(crate) warnings: Vec<String>,
}

/// npm's configuration, and what it was read from.
struct NpmDefaults {
    found: NpmConfig,
    environment: NpmEnvironment,
}

impl NpmDefaults {
    /// The files of authorities that npm would trust.
    fn extra_roots(&self) -> impl Iterator<Item = PathBuf> {
        [&self.found.cafile, &self.found.extra_ca].into_iter().flatten().map(|(path, _)| path.clone())
    }
}

fn npm(reader: &mut SettingsReader<'_>, machine: &DefaultsFrom<'_>, ourselves: &OwnAddresses<'_>) -> Option<NpmDefaults> {
    let DefaultsFrom::Here(surroundings) = machine else { return None };
    let environment = surroundings.of_npm();
    match npmrc::discover(&environment, &|url| ourselves.answer_at(url)) {
        Ok(found) => Some(NpmDefaults { found, environment }),
        Err(wrong) => {
            reader.note(tell(&wrong));
            None
        }
    }
}

/// The registry that a setting names, with the credentials that npm has for it unless it brings its own.
fn named_registry(reader: &mut SettingsReader<'_>, url: Url, npm: Option<&NpmDefaults>) -> Option<RegistryConfig> {
    let setting = upstream::SettingOrigin::Setting(reader.origin(SettingKey::Upstream).to_string());
    let brings_own = !url.username().is_empty() || url.password().is_some();
    // Those of npm are found by the URL that is fetched; they are read here so that one that cannot be sent is a mistake.
    if let Some(Err(wrong)) = npm.filter(|_| !brings_own).map(|npm| npm.found.credentials(&url)) {
        reader.note(tell(&wrong));
        return None;
    }
    Some(RegistryConfig::new(url, setting))
}

/// Notes which of the `marked` addresses belong to no registry: a misspelled one would silently receive nothing.
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
        reader.object(
            SettingKey::ClientCredentials,
            format!("`client-credentials` names no registry that packages come from: `{address}`"),
            allowed,
        );
    }
}

/// A mistake in npm's configuration: its text says where it stands.
fn tell(wrong: &dyn Error) -> Diagnostic {
    let mut problem = wrong.to_string();
    let mut source = wrong.source();
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
    /// Whether a request to `url` would come back to us. Names other than `localhost` are not looked up: starting asks
    /// nobody anything.
    fn answer_at(&self, url: &Url) -> bool {
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

/// Whether a listener at `listening` takes connections to `ip`.
fn takes(listening: IpAddr, ip: IpAddr) -> bool {
    // Only an address of this machine can be bound.
    listening == ip || (listening.is_unspecified() && (ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()))
}

fn same_place(left: &Url, right: &Url) -> bool {
    let path = |url: &Url| url.path().trim_end_matches('/').to_owned();
    left.origin() == right.origin() && path(left) == path(right)
}

/// Returns the paths of all registries that have one, without a slash at their end, the longest first.
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
    fn we_recognise_ourselves_by_address_and_by_public_url() {
        let public = Url::parse("https://npm.example/registry/").unwrap();
        let listen = ["127.0.0.1:4873".parse().unwrap(), "0.0.0.0:80".parse().unwrap()];
        let ourselves = OwnAddresses { listen: &listen, public_url: Some(&public) };
        let answers = |url| ourselves.answer_at(&Url::parse(url).unwrap());
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
