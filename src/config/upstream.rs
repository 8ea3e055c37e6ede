//! Resolves the upstream registries: the configured one, or else the one that npm on this machine uses. Adds npm's scoped
//! registries, credentials, CAs and proxies. A registry that is Coldframe itself is rejected.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use url::{Host, Url};

use crate::config::environment::DefaultsFrom;
use crate::config::parse::{self, SettingsReader};
use crate::config::raw::RawValue;
use crate::config::settings::SettingKey;
use crate::diagnostics::{Diagnostic, Origin};
use crate::net::{Deadlines, ListenAddress, ProxySettings};
use crate::policy::PackageGlob;
use crate::tls;
use crate::upstream::credential_source::FILE_LIFE;
use crate::upstream::{
    self, CredentialRules, CredentialSource, CredentialSourceKind, NpmConfig, RegistryConfig, Route, Routes, TimeMode, npmrc,
};

/// The addresses of this server, to detect an upstream that points back at it.
pub(crate) struct OwnAddresses<'a> {
    pub(crate) listen: &'a [ListenAddress],
    pub(crate) public_url: Option<&'a Url>,
}

/// Resolves the registries. Also returns the CAs that are trusted for them, and warnings. Returns `None` after it has added an error.
pub(crate) fn resolve(
    reader: &mut SettingsReader<'_>,
    machine: &DefaultsFrom<'_>,
    own_addresses: &OwnAddresses<'_>,
    limits: (u64, u64),
) -> Option<(upstream::Config, tls::Config, Vec<String>)> {
    let named = reader.optional(SettingKey::Upstream, parse::url);
    if named.as_ref().is_some_and(|url| own_addresses.contains(url)) {
        reader.reject(SettingKey::Upstream, "`upstream` is Coldframe itself", "a registry other than this server");
    }
    let marked = reader.several(SettingKey::ClientCredentials, parse::public_url);
    let tarball_hosts = reader.several(SettingKey::TarballHost, parse::host_glob);
    let redirect_hosts = reader.several(SettingKey::RedirectHost, parse::host_glob);
    let time_modes = reader.several(SettingKey::UpstreamTime, parse::time_mode);
    let mut extra_roots = reader.several(SettingKey::UpstreamCa, parse::path);
    let timeout = reader.one(SettingKey::UpstreamTimeout, parse::nonzero_duration);
    let variables = Variables(machine);
    let routes = read_routes(reader, own_addresses, &variables);
    let npm = match machine {
        DefaultsFrom::ThisMachine(environment) => {
            let environment = environment.npm_environment();
            let found = valid(reader, npmrc::discover(&environment, &|url| own_addresses.contains(url)));
            found.map(|npm| (npm, environment))
        }
        DefaultsFrom::Nothing | DefaultsFrom::AnotherMachine => None,
    };
    let default = match (named, &npm) {
        (Some(url), npm) => named_registry(reader, url, npm.as_ref().map(|(npm, _)| npm), &variables),
        (None, Some((npm, _))) => valid(reader, npm.default_registry()),
        (None, None) => {
            if matches!(machine, DefaultsFrom::Nothing) && reader.is_absent(SettingKey::Upstream) {
                reader.reject(SettingKey::Upstream, "no upstream is configured", SettingKey::Upstream.setting().kind.allowed());
            }
            None
        }
    };
    let (of_scopes, credentials, proxies, warnings) = match npm {
        None => (Vec::new(), CredentialRules::default(), ProxySettings::none(), Vec::new()),
        Some((npm, environment)) => {
            extra_roots.extend([&npm.cafile, &npm.extra_ca].into_iter().flatten().map(|(path, _)| path.clone()));
            let (scoped, proxies) = (valid(reader, npm.routes()), valid(reader, npm.proxies(&environment)));
            (scoped?, npm.credential_rules(), proxies?, npm.warnings)
        }
    };
    let mut routes: Vec<Route> = routes.into_iter().chain(of_scopes).collect();
    if !matches!(machine, DefaultsFrom::AnotherMachine) {
        check_marked(reader, &marked, default.as_ref(), &routes);
    }
    let mut default = default?;
    apply_time_modes(reader, &time_modes, &mut default, &mut routes);
    let routes =
        Routes::new(routes).map_err(|error| reader.reject(SettingKey::Route, error.to_string(), "another pattern")).ok()?;
    let connect = Deadlines::default().connect.min(timeout);
    let separate_roots = std::iter::once(&default).chain(routes.iter().map(|route| &route.registry));
    let separate_roots = separate_roots.filter_map(|registry| registry.ca.clone()).collect();
    let config = upstream::Config {
        default,
        routes,
        credentials,
        client_credentials: marked,
        proxies,
        tarball_hosts,
        redirect_hosts,
        deadlines: Deadlines { connect, headers: timeout, idle: timeout, ..Deadlines::default() },
        packument_limit: limits.0,
        tarball_limit: limits.1,
        user_agent: concat!("coldframe/", env!("CARGO_PKG_VERSION")).to_owned(),
    };
    Some((config, tls::Config { extra_roots, separate_roots }, warnings))
}

/// Returns the registry that a setting names. npm's credentials for it are used unless the URL contains some.
fn named_registry(
    reader: &mut SettingsReader<'_>,
    url: Url,
    npm: Option<&NpmConfig>,
    variables: &Variables<'_>,
) -> Option<RegistryConfig> {
    let setting = upstream::SettingOrigin::Setting(reader.origin(SettingKey::Upstream).to_string());
    let brings_own = !url.username().is_empty() || url.password().is_some();
    // npm's credentials are looked up by URL at each fetch. They are read here to report unusable ones as errors.
    if let Some(npm) = npm.filter(|_| !brings_own) {
        valid(reader, npm.credentials(&url))?;
    }
    let mut registry = RegistryConfig::new(url, setting);
    if let Some(value) = reader.raw.values(SettingKey::Upstream).first() {
        let read = read_fields(value, &mut registry, variables).and_then(|ages| match ages {
            AgeRules::Apply => Ok(()),
            AgeRules::Ignored => {
                Err(value.flawed("time", "cannot be `ignore-age` for the default upstream", "`min-release-age = \"0s\"`"))
            }
        });
        read.map_err(|error| reader.errors.push(error)).ok()?;
    }
    Some(registry)
}

/// Reads the registries of some packages. Leaves out those with errors, which it adds.
fn read_routes(reader: &mut SettingsReader<'_>, own_addresses: &OwnAddresses<'_>, variables: &Variables<'_>) -> Vec<Route> {
    let mut routes: Vec<Route> = Vec::new();
    for value in reader.raw.values(SettingKey::Route) {
        let read = read_route(&value, own_addresses, variables).and_then(|route| {
            // Such names are excluded by their patterns alone, so no earlier route may take some of them.
            let may_overlap =
                |earlier: &Route| !(earlier.ignores_age || earlier.packages.is_empty() && route.packages.is_empty());
            if route.ignores_age && routes.iter().any(may_overlap) {
                let allowed = "it before all upstreams with `packages`";
                return Err(value.flawed("time", "is `ignore-age` after an upstream that may serve the same names", allowed));
            }
            Ok(route)
        });
        match read {
            Ok(route) => routes.push(route),
            Err(error) => reader.errors.push(error),
        }
    }
    routes
}

/// Returns the packages to which rules on ages do not apply, because their upstream says so.
pub(crate) fn packages_without_age(routes: &Routes) -> Vec<PackageGlob> {
    let routes = routes.iter().filter(|route| route.ignores_age);
    let globs = routes.flat_map(|route| {
        let of_scopes = route.scopes.iter().map(|scope| format!("{scope}/*"));
        of_scopes.chain(route.packages.iter().cloned())
    });
    globs.filter_map(|glob| PackageGlob::parse(&glob).ok()).collect()
}

/// The environment variables that a configuration may name.
struct Variables<'a>(&'a DefaultsFrom<'a>);

impl Variables<'_> {
    /// Returns the value of a variable. A file that is checked for another machine has a placeholder.
    fn get(&self, name: &str) -> Option<String> {
        match self.0 {
            DefaultsFrom::ThisMachine(environment) => {
                let found = environment.variables.iter().find(|(known, _)| known == name);
                found.and_then(|(_, value)| value.to_str()).filter(|value| !value.is_empty()).map(str::to_owned)
            }
            DefaultsFrom::AnotherMachine => Some("unknown".to_owned()),
            DefaultsFrom::Nothing => None,
        }
    }
}

/// Whether rules on ages apply to the packages of an upstream.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AgeRules {
    Apply,
    Ignored,
}

/// How long a helper's credentials are used, unless `token-life` says otherwise.
const HELPER_LIFE: Duration = Duration::from_secs(3600);

/// Applies the keys of an upstream's table other than its URL and packages.
fn read_fields(value: &RawValue, registry: &mut RegistryConfig, variables: &Variables<'_>) -> Result<AgeRules, Diagnostic> {
    let mut ages = AgeRules::Apply;
    match value.field("time") {
        Some(time) if time.text.trim() == "ignore-age" => ages = AgeRules::Ignored,
        Some(time) => {
            let mode = parse::time_mode(&time.text).ok().filter(|(scope, _)| scope.is_none());
            let allowed = "`checked`, `first-seen`, `trust`, `ignore-age`";
            registry.time_mode = mode.ok_or_else(|| time.flawed("time", "has an unknown value", allowed))?.1;
        }
        None => {}
    }
    registry.ca = match value.field("ca") {
        Some(ca) => Some(parse::path(&ca.text).map_err(|flaw| ca.flawed("ca", &flaw, "a path"))?),
        None => None,
    };
    read_credentials(value, registry, variables)?;
    Ok(ages)
}

/// Reads where the credentials of an upstream come from.
fn read_credentials(value: &RawValue, registry: &mut RegistryConfig, variables: &Variables<'_>) -> Result<(), Diagnostic> {
    let username = value.field("username").map(|username| username.text.clone());
    let (file, variable) = (value.field("token-file"), value.field("token-variable"));
    let words: Vec<String> =
        value.fields.iter().filter(|(name, _)| name == "token-command").map(|(_, word)| word.text.clone()).collect();
    let one = "one of `token-file`, `token-variable` and `token-command`";
    let count = usize::from(file.is_some()) + usize::from(variable.is_some()) + usize::from(!words.is_empty());
    let life = match value.field("token-life") {
        None => HELPER_LIFE,
        Some(life) if words.is_empty() => return Err(life.flawed("token-life", "is without `token-command`", one)),
        Some(life) => {
            let parsed = parse::nonzero_duration(&life.text);
            parsed.map_err(|flaw| life.flawed("token-life", &flaw, "a duration, such as `10h`"))?
        }
    };
    if count > 1 {
        return Err(value.flawed("upstream", "has several sources of its token", one));
    }
    if count == 0 && username.is_some() {
        return Err(value.flawed("username", "is without a token", one));
    }
    let source = |kind, life| Some(CredentialSource { kind, username: username.clone(), life });
    if let Some(file) = file {
        let path = parse::path(&file.text).map_err(|flaw| file.flawed("token-file", &flaw, "a path"))?;
        registry.source = source(CredentialSourceKind::File(path), FILE_LIFE);
    } else if let Some(variable) = variable {
        // The value may be a token that was written here by mistake.
        let missing =
            || Diagnostic::new(variable.origin.clone(), "the variable of `token-variable` is not set", "a variable with a token");
        let secret = variables.get(&variable.text).ok_or_else(missing)?;
        let credentials = CredentialSource::credentials(username.as_deref(), &secret);
        let invalid = |flaw| Diagnostic::new(variable.origin.clone(), format!("cannot use `token-variable`: {flaw}"), "a token");
        registry.credentials = Some(credentials.map_err(invalid)?);
    } else if !words.is_empty() {
        registry.source = source(CredentialSourceKind::Command(words), life);
    }
    Ok(())
}

/// Reads one registry: a table, or `PACKAGES=URL`.
fn read_route(value: &RawValue, own_addresses: &OwnAddresses<'_>, variables: &Variables<'_>) -> Result<Route, Diagnostic> {
    let allowed = || SettingKey::Route.setting().kind.allowed();
    let ((scopes, packages), url) = if value.fields.is_empty() {
        let (patterns, url) = value.text.split_once('=').ok_or_else(|| value.flawed("route", "names no URL", allowed()))?;
        let is_scope = |pattern: &String| pattern.starts_with('@') && !pattern.contains('/');
        (patterns.split_whitespace().map(str::to_owned).partition(is_scope), url)
    } else {
        let all =
            |wanted: &str| value.fields.iter().filter(|(name, _)| name == wanted).map(|(_, text)| text.text.clone()).collect();
        ((all("scopes"), all("packages")), value.text.as_str())
    };
    let (scopes, packages): (Vec<String>, Vec<String>) = (scopes, packages);
    let url = parse::url(url).map_err(|flaw| value.flawed("url", &flaw, allowed()))?;
    if own_addresses.contains(&url) {
        return Err(value.flawed("url", "is Coldframe itself", "a registry other than this server"));
    }
    if scopes.is_empty() && packages.is_empty() {
        return Err(value.flawed("route", "names no packages", allowed()));
    }
    let mut registry = RegistryConfig::new(url, upstream::SettingOrigin::Setting(value.origin.to_string()));
    let ignores_age = read_fields(value, &mut registry, variables)? == AgeRules::Ignored;
    Ok(Route { scopes, packages, registry, ignores_age })
}

/// Applies the setting `upstream-time`.
fn apply_time_modes(
    reader: &mut SettingsReader<'_>,
    modes: &[(Option<String>, TimeMode)],
    default: &mut RegistryConfig,
    routes: &mut [Route],
) {
    for (scope, mode) in modes {
        let Some(scope) = scope else {
            default.time_mode = *mode;
            continue;
        };
        let route = routes.iter_mut().find(|route| route.scopes.iter().any(|known| known.eq_ignore_ascii_case(scope)));
        if let Some(route) = route {
            route.registry.time_mode = *mode;
        } else {
            let problem = format!("no registry is configured for the scope `{scope}`");
            reader.reject(SettingKey::UpstreamTime, problem, "a scope with a registry in npm's configuration or `route`");
        }
    }
}

/// Notes an error for each `marked` URL that is no registry. A misspelt URL would silently receive no credentials.
fn check_marked(reader: &mut SettingsReader<'_>, marked: &[Url], default: Option<&RegistryConfig>, routes: &[Route]) {
    let Some(default) = default else { return };
    let routed = routes.iter().map(|route| &route.registry);
    let mut known: Vec<Url> = std::iter::once(default).chain(routed).map(RegistryConfig::address).collect();
    known.sort_unstable();
    known.dedup();
    for address in marked.iter().filter(|address| !known.contains(address)) {
        let allowed = known.iter().map(|url| format!("`{url}`")).collect::<Vec<_>>().join(", ");
        let problem = format!("`client-credentials` is not a configured registry: `{address}`");
        reader.reject(SettingKey::ClientCredentials, problem, allowed);
    }
}

/// Returns a valid result. Adds an error in npm's configuration, whose text contains its location.
fn valid<T, E: Error>(reader: &mut SettingsReader<'_>, result: Result<T, E>) -> Option<T> {
    let add = |error: E| {
        let causes = std::iter::successors(error.source(), |cause| (*cause).source());
        let problem = causes.fold(error.to_string(), |problem, cause| format!("{problem}: {cause}"));
        reader.errors.push(Diagnostic::new(Origin::Default, problem, ""));
    };
    result.map_err(add).ok()
}

impl OwnAddresses<'_> {
    /// Checks whether a request to `url` would reach this server. Resolves only `localhost`: startup makes no network requests.
    fn contains(&self, url: &Url) -> bool {
        let path = |url: &Url| url.path().trim_end_matches('/').to_owned();
        if self.public_url.is_some_and(|public| public.origin() == url.origin() && path(public) == path(url)) {
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
        let takes_port = |listen: &SocketAddr| Some(listen.port()) == port && addresses.iter().any(|ip| takes(listen.ip(), *ip));
        let ours = |listen: &ListenAddress| takes_port(&listen.socket);
        self.listen.iter().any(ours)
    }
}

/// Checks whether a listener at `listening` accepts connections to `ip`.
fn takes(listening: IpAddr, ip: IpAddr) -> bool {
    // Binding succeeds only for addresses of this machine.
    listening == ip || (listening.is_unspecified() && (ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()))
}

/// Returns the non-empty paths of all registries without a trailing slash, the longest first.
pub(crate) fn prefixes(upstream: &upstream::Config) -> Vec<Box<str>> {
    let paths = upstream.registries().map(|registry| registry.address().path().trim_end_matches('/').to_owned());
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
        let listen = ["127.0.0.1:4873", "0.0.0.0:80"].map(|text| text.parse::<SocketAddr>().unwrap().into());
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
